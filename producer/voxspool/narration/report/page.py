"""A report -> one HTML file for people: faults first, then who spoke what, the levels, and every segment.

The file loads nothing: no script, no picture, no font. The template page.html says what it looks like and escapes every
text; this module computes what is drawn. The fields of a report are described in `data`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, StrictUndefined

from voxspool.amounts import clock, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jinja2 import Template

    from voxspool.narration.report.data import Report, Row

FAULTS: Final = {
    "cap": "did not stop at the end of the text",
    "rate": "too short or too long for its text",
    "silence": "mostly silence, or a long silence at its end",
    "noise": "noise at its end",
    "empty": "no sound",
    "level": "much too quiet or too loud",
    "clipping": "clipped at full scale",
    "engine": "the engine could not speak it",
    "words": "other words were heard than stand in the text",
    "lost": "missing from the segment store",
}
"""Fault -> its description. A fault that is not listed is shown as it is."""

_COLOURS: Final = 8
"""Number of colours for workers, in page.html. Further workers share them."""
_MAX_OPEN: Final = 20
"""The list of failed segments is open when the page is loaded, up to this length."""
_WIDTH: Final = 1000
_HEIGHT: Final = 220
"""Size of the drawings, in units of their own: a browser scales them."""
_SPAN_DB: Final = 9.0
"""Largest distance from the median that the level plot shows; anything further is drawn at its edge."""
_GRID_DB: Final = (-6, -3, 0, 3, 6)
_MAX_NUMBERED: Final = 40
"""With more chapters, their numbers under the level plot would overlap."""
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def page(report: Report) -> str:
    """Return the HTML of a report."""
    failed = [row for row in report["segments"] if row["fault"]]
    colours = {worker["worker"]: f"w{number % _COLOURS}" for number, worker in enumerate(report["workers"])}
    rows = {number: list(of) for number, of in groupby(report["segments"], key=lambda row: row["chapter"])}
    chapters = [(chapter, rows.get(chapter["chapter"], [])) for chapter in report["chapters"]]
    longest_s = max((chapter["duration_s"] for chapter in report["chapters"]), default=0.0) or 1.0
    html = _template().render(
        report=report,
        verdict=_verdict(report, len(failed)),
        failed=failed,
        open_failed=len(failed) <= _MAX_OPEN,
        kinds=sorted(Counter(row["fault"] for row in failed).items()),
        faults=FAULTS,
        colours=colours,
        chapters=chapters,
        strips=[_strip(of, _WIDTH / longest_s, colours) for _, of in chapters],
        ticks_s=[longest_s * part / 4 for part in range(5)],
        plot=_level_plot(report),
        width=_WIDTH,
    )
    return _UNPRINTABLE.sub("\ufffd", html)


@cache
def _template() -> Template:
    """Load the template. Every value is escaped, and a missing one is an error."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"clock": clock, "number": _number, "percent": "{:.{}%}".format, "amount": "{:,}".format}
    environment.globals["counted"] = counted
    return environment.from_string(files("voxspool.narration.report").joinpath("page.html").read_text(encoding="utf-8"))


def _verdict(report: Report, failed: int) -> str:
    """Return the result in one sentence."""
    count = report["totals"]["segments"]
    if failed:
        return f"{failed:,} of {counted(count, 'segment')} {'was' if failed == 1 else 'were'} not spoken correctly."
    if not count:
        return "Nothing was spoken."
    return f"{'All ' if count > 1 else ''}{counted(count, 'segment')} passed the checks."


def _strip(rows: Iterable[Row], scale: float, colours: dict[str, str]) -> dict[str, Any]:
    """Return the timeline of a chapter, at `scale` units a second.

    `paths` has an SVG path for each look, a list of CSS classes; `failed` has a path and its row for each fault. A
    failed segment is at least 2.5 units wide, so that it can be seen.
    """
    paths = defaultdict[str, list[str]](list)
    failed = []
    for row in rows:
        width = (row["end_s"] - row["start_s"]) * scale
        if row["fault"]:
            failed.append((_bar(row["start_s"] * scale, max(width, 2.5)), row))
        elif row["key"]:
            look = f"w {colours[row['worker']]}{' reused' if row['reused'] else ''}"
            paths[look].append(_bar(row["start_s"] * scale, width))
    return {"paths": {look: "".join(bars) for look, bars in paths.items()}, "failed": failed}


def _bar(x: float, width: float) -> str:
    """Return the SVG path of a segment, with a gap before the next one if there is room for it."""
    drawn = max(width - 0.6, width * 0.6)
    return f"M{x:.1f} 0h{drawn:.1f}v10h-{drawn:.1f}z"


def _level_plot(report: Report) -> dict[str, Any] | None:
    """Return what the plot of each segment's level draws: grid, chapters, dots. None if nothing was spoken."""
    median, all_s = report["totals"]["level_dbfs"], report["totals"]["duration_s"]
    if median is None or not all_s:
        return None
    chapters = report["chapters"]
    spoken = [row for row in report["segments"] if row["key"] and row["end_s"] > row["start_s"]]
    starts_s = {chapter["chapter"]: chapter["start_s"] for chapter in chapters}
    dots = [
        (f"M{_x((starts_s[row['chapter']] + row['start_s']) / all_s):.1f} {_y(row['level_dbfs'] - median):.1f}h0", row)
        for row in spoken
    ]
    return {
        "height": _HEIGHT,
        "median": median,
        "span_db": _SPAN_DB,
        "grid": [(_y(off_db), f"{off_db:+d} dB" if off_db else f"{median:.1f}", not off_db) for off_db in _GRID_DB],
        "borders": [(_x(chapter["start_s"] / all_s), chapter["chapter"]) for chapter in chapters],
        "numbered": len(chapters) <= _MAX_NUMBERED,
        "passed": _joined(dots, failed=False),
        "failed": _joined(dots, failed=True),
    }


def _joined(dots: Sequence[tuple[str, Row]], *, failed: bool) -> str:
    """Return one path of the dots of all segments that failed, or of all others."""
    return "".join(dot for dot, row in dots if bool(row["fault"]) == failed)


def _x(share: float) -> float:
    """Return the x of a position in the book, 0 to 1."""
    return 50 + (_WIDTH - 60) * share


def _y(off_db: float) -> float:
    """Return the y of a level relative to the median."""
    shown_db = max(-_SPAN_DB, min(_SPAN_DB, off_db))
    return 14 + (_HEIGHT - 44) * (0.5 - shown_db / (2 * _SPAN_DB))


def _number(value: float | None, decimals: int = 1) -> str:
    """Return a number; a dash for None."""
    return "\u2013" if value is None else f"{value:.{decimals}f}"
