"""A report -> one HTML file for people: faults first, then who spoke what, how loud it is, and every segment.

The file needs nothing else: no script, no picture, no font. Everything from the book or a worker is escaped. The form
of the report is defined in `data`, the looks in page.html.
"""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from voxspool.narration.report.data import Report, Row

FAULTS: Final = {
    "cap": "went on until it was stopped",
    "rate": "too short or too long for its text",
    "silence": "mostly silent, or a long silence at its end",
    "noise": "noise at its end",
    "empty": "nothing was said",
    "level": "much too quiet or too loud",
    "clipping": "cut off at full scale",
    "engine": "the engine could not speak it",
    "words": "other words were heard than were to be spoken",
    "lost": "the store has lost it",
}
"""What the words for faults mean to a reader; one that is not here stands for itself."""

_COLOURS: Final = 8
"""More workers than that share them."""
_OPEN_MOST: Final = 20
"""Of longer lists a reader opens what is wanted."""
_WIDTH: Final = 1000
_HEIGHT: Final = 220
_SPAN_DB: Final = 9.0
"""How far from the median the level plot reaches; what lies beyond is drawn at its edge."""
_GRID_DB: Final = (-6, -3, 0, 3, 6)
_CHAPTERS_NAMED: Final = 40
"""With more, their numbers under the plot would run into each other."""
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def page(report: Report) -> str:
    """Return the page for a report."""
    rows: list[Row] = report["segments"]
    failed = [row for row in rows if row["fault"]]
    colours = {worker["worker"]: f"w{number % _COLOURS}" for number, worker in enumerate(report["workers"])}
    template = Template(files("voxspool.narration.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_text(report["title"] or "Untitled"),
        by=f'<p class="soft">{_text(", ".join(report["authors"]))}</p>' if report["authors"] else "",
        mood="bad" if failed or report["unread"] else "good",
        verdict=_verdict(report, len(failed)),
        unread="".join(f'<p class="bad">Not read: {_text(line)}</p>' for line in report["unread"]),
        tiles="".join(_tiles(report)),
        failed=_failed(failed),
        legend=_legend(report, colours),
        timeline="".join(_timeline(report, colours)),
        level=_level_plot(report),
        workers=_workers(report["workers"], colours),
        chapters="".join(_chapters(report)),
    )


def _verdict(report: Report, failed: int) -> str:
    count = report["totals"]["segments"]
    if failed:
        return f"{failed:,} of {count:,} segments {'was' if failed == 1 else 'were'} not spoken as wanted."
    return f"All {count:,} segments passed their checks." if count else "Nothing was spoken."


def _tiles(report: Report) -> Iterator[str]:
    """Yield the summary's figures."""
    totals = report["totals"]
    yield _tile("Duration", _clock(totals["duration_s"]))
    yield _tile("Text", f"{totals['characters']:,}", "characters")
    yield _tile("Segments", f"{totals['segments']:,}", f"in {len(report['chapters']):,} chapters")
    yield _tile("Spoken", f"{totals['spoken']:,}", f"{totals['reused']:,} came out of the store")
    yield _tile("Spoken again", f"{totals['spoken_again']:,}", "took more than one try")
    yield _tile("Real-time factor", _number(totals["real_time_factor"], 2), "seconds of work a second of speech")
    yield _tile("Level", f"{_number(totals['level_dbfs'])} dBFS", "median of the segments")
    if totals["word_error_rate"] is not None:
        yield _tile("Word errors", f"{totals['word_error_rate']:.1%}", "of what was transcribed")


def _tile(name: str, value: str, note: str = "") -> str:
    return f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"


def _failed(rows: Sequence[Row]) -> str:
    """Return the list of segments that failed their checks; nothing where there is none."""
    if not rows:
        return ""
    kinds = defaultdict[str, int](int)
    for row in rows:
        kinds[row["fault"]] += 1
    named = "; ".join(f"{count:,} \u00d7 {_text(FAULTS.get(kind, kind))}" for kind, count in sorted(kinds.items()))
    opened = " open" if len(rows) <= _OPEN_MOST else ""
    return (
        f"<h2>What failed</h2><details{opened}><summary>{len(rows):,} segments "
        f'<span class="soft">{named}</span></summary>{_table(rows, linked=True)}</details>'
    )


# The timeline


def _legend(report: Report, colours: dict[str, str]) -> str:
    named = [
        f'<span><i class="w {colours[one["worker"]]}"></i>{_text(one["worker"])} {one["share"]:.0%}</span>'
        for one in report["workers"]
    ]
    if report["totals"]["reused"]:
        named.append('<span><i class="reused"></i>paler: spoken before</span>')
    if report["totals"]["faults"]:
        named.append('<span><i class="fault"></i>failed its checks</span>')
    return f'<div class="legend">{"".join(named)}</div>'


def _timeline(report: Report, colours: dict[str, str]) -> Iterator[str]:
    """Yield a strip a chapter, all on one scale, and the scale."""
    longest_s = max((chapter["duration_s"] for chapter in report["chapters"]), default=0.0) or 1.0
    for chapter, rows in _by_chapter(report):
        title = f"{chapter['chapter']} {chapter['title']}"
        yield f'<span title="{_text(title)}"><a href="#chapter-{chapter["chapter"]}">{_text(title)}</a></span>'
        yield f'<svg viewBox="0 0 {_WIDTH} 10" preserveAspectRatio="none" role="img" aria-label="{_text(title)}">'
        yield from _bars(rows, _WIDTH / longest_s, colours)
        yield "</svg>"
    ticks = "".join(f"<span>{_clock(longest_s * part / 4)}</span>" for part in range(5))
    yield f'<span></span><div class="axis">{ticks}</div>'


def _bars(rows: Iterable[Row], scale: float, colours: dict[str, str]) -> Iterator[str]:
    """Yield a chapter's segments: a path for each colour, and those that failed by themselves, over the rest."""
    paths = defaultdict[str, list[str]](list)
    failed = []
    for row in rows:
        width = (row["end_s"] - row["start_s"]) * scale
        if row["fault"]:
            shape = _bar(row["start_s"] * scale, max(width, 2.5))
            failed.append(f'<path class="fault" d="{shape}"><title>{_hint(row)}</title></path>')
        elif row["key"]:
            look = f"w {colours[row['worker']]}{' reused' if row['reused'] else ''}"
            paths[look].append(_bar(row["start_s"] * scale, width))
    yield from (f'<path class="{look}" d="{"".join(shapes)}"/>' for look, shapes in paths.items())
    yield from failed


def _bar(x: float, width: float) -> str:
    """Draw a segment, with a gap to the next one where there is room for it."""
    drawn = max(width - 0.6, width * 0.6)
    return f"M{x:.1f} 0h{drawn:.1f}v10h-{drawn:.1f}z"


def _hint(row: Row) -> str:
    return _text(f"{row['chapter']}.{row['segment']} {row['fault']}: {row['text'][:80]}")


# The level plot


def _level_plot(report: Report) -> str:
    """Draw each segment's level against the book's median."""
    middle, all_s = report["totals"]["level_dbfs"], report["totals"]["duration_s"]
    if middle is None or not all_s:
        return '<p class="soft">Nothing was spoken.</p>'
    starts_s = {chapter["chapter"]: chapter["start_s"] for chapter in report["chapters"]}
    plain: list[str] = []
    failed: list[str] = []
    for row in report["segments"]:
        if row["key"] and row["end_s"] > row["start_s"]:
            x = _x((starts_s[row["chapter"]] + row["start_s"]) / all_s)
            dot = f"M{x:.1f} {_y(row['level_dbfs'] - middle):.1f}h0"
            (failed if row["fault"] else plain).append(dot)
    return "".join(
        [
            f'<svg class="level" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Level of each segment">',
            *_grid(middle),
            *_chapter_borders(report, all_s),
            f'<path class="dots" d="{"".join(plain)}"/><path class="dots bad" d="{"".join(failed)}"/></svg>',
            f'<p class="soft">A dot is a segment: its level against the median of {middle:.1f} dBFS, over the book. ',
            f"What is {_SPAN_DB:g} dB off or more lies at the edge.</p>",
        ]
    )


def _grid(middle: float) -> Iterator[str]:
    for off_db in _GRID_DB:
        y = _y(off_db)
        look = "grid" if off_db else "median"
        named = f"{off_db:+d} dB" if off_db else f"{middle:.1f}"
        yield f'<path class="{look}" d="M50 {y:.1f}H{_WIDTH - 10}"/>'
        yield f'<text x="44" y="{y + 4:.1f}" text-anchor="end">{named}</text>'


def _chapter_borders(report: Report, all_s: float) -> Iterator[str]:
    chapters = report["chapters"]
    for chapter in chapters:
        x = _x(chapter["start_s"] / all_s)
        yield f'<path class="border" d="M{x:.1f} 10V{_HEIGHT - 22}"/>'
        if len(chapters) <= _CHAPTERS_NAMED:
            yield f'<text x="{x + 3:.1f}" y="{_HEIGHT - 8}">{chapter["chapter"]}</text>'


def _x(share: float) -> float:
    return 50 + (_WIDTH - 60) * share


def _y(off_db: float) -> float:
    shown_db = max(-_SPAN_DB, min(_SPAN_DB, off_db))
    return 14 + (_HEIGHT - 44) * (0.5 - shown_db / (2 * _SPAN_DB))


# The tables


def _workers(workers: Iterable[Row], colours: dict[str, str]) -> str:
    head = '<tr><th class="left">worker<th>spoken<th>out of the store<th>speech<th>share<th>work<th>real-time factor'
    rows = "".join(
        f'<tr><td class="left"><i class="w {colours[one["worker"]]}"></i> {_text(one["worker"])}<td>{one["spoken"]:,}'
        f"<td>{one['reused']:,}<td>{_clock(one['audio_s'])}<td>{one['share']:.1%}<td>{_clock(one['work_s'])}"
        f"<td>{_number(one['real_time_factor'], 2)}"
        for one in workers
    )
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _chapters(report: Report) -> Iterator[str]:
    """Yield each chapter's segments, folded."""
    for chapter, rows in _by_chapter(report):
        failed = f' <span class="bad">{chapter["faults"]:,} failed</span>' if chapter["faults"] else ""
        yield (
            f'<details id="chapter-{chapter["chapter"]}"><summary>{chapter["chapter"]} {_text(chapter["title"])}'
            f'<span class="soft">{_clock(chapter["duration_s"])}, {chapter["segments"]:,} segments</span>{failed}'
            f"</summary>{_table(rows, linked=False)}</details>\n"
        )


def _by_chapter(report: Report) -> Iterator[tuple[Row, list[Row]]]:
    rows = {number: list(of) for number, of in groupby(report["segments"], key=lambda row: row["chapter"])}
    return ((chapter, rows.get(chapter["chapter"], [])) for chapter in report["chapters"])


def _table(rows: Iterable[Row], *, linked: bool) -> str:
    """Return a table of segments: they have an anchor each, or link to it."""
    head = (
        '<tr><th>segment<th>at<th class="text">text<th class="left">fault<th>seconds<th>level<th>tries<th>word errors'
        '<th class="left">voice<th class="left">worker'
    )
    body = "\n".join(_table_row(row, linked=linked) for row in rows)
    return f'<div class="scroll"><table>{head}\n{body}</table></div>'


def _table_row(row: Row, *, linked: bool) -> str:
    name = f"{row['chapter']}.{row['segment']}"
    errors = row["word_error_rate"]
    anchor = "" if linked else f' id="s{name}"'
    return (
        f"<tr{anchor}{' class=fault' if row['fault'] else ''}>"
        f"<td>{f'<a href=#s{name}>{name}</a>' if linked else name}<td>{_clock(row['start_s'])}"
        f'<td class="text">{_words(row)}<td class="left why">{_text(row["fault"])}'
        f"<td>{row['end_s'] - row['start_s']:.1f}<td>{_number(row['level_dbfs'])}<td>{row['tries'] or ''}"
        f"<td>{'' if errors is None else f'{errors:.0%}'}"
        f'<td class="left">{_text(row["voice"] or "")}<td class="left">{_text(row["worker"] or "")}'
    )


def _words(row: Row) -> str:
    """Return what stands in the book, and what was said or heard where that is something else."""
    said = f"<small>said: {_text(row['spoken'])}</small>" if row["spoken"].split() != row["text"].split() else ""
    heard = f"<small>heard: {_text(row['heard']) or 'nothing'}</small>" if row["word_error_rate"] else ""
    return f"{_text(row['text'])}{said}{heard}"


def _text(value: object) -> str:
    """Write a text so that it is nothing but text, also within quotation marks."""
    return escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def _number(value: float | None, decimals: int = 1) -> str:
    return "\u2013" if value is None else f"{value:.{decimals}f}"


def _clock(seconds: float) -> str:
    """Write a time: 1:02:03, or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
