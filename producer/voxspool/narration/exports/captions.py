"""Tracks -> captions in SRT and WebVTT: the text of the book while it is spoken.

A segment is one caption, or several if it does not fit into two lines. It is cut where clauses or words end, and its
time is divided by characters. A caption ends with its words, before the silence of the pause. Chapters follow each
other as in the audio of the book. If the pronunciation of a word was cut in two, the word is shown once.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from voxspool.narration.track import Track

LINE_COLUMNS: Final = 42
"""Maximum length of a line, in columns: that of broadcasters' guides for Latin scripts. A full-width character takes
two."""
LINES: Final = 2
_SENTENCE_BONUS: Final = 30
"""A cut at the end of a sentence is preferred to the ideal place up to this distance, in columns. Chosen by eye."""
_CLAUSE_BONUS: Final = 15
"""The same for the end of a clause."""

_ARROW: Final = "\u2192"
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CLOSERS: Final = "\"')]\u2019\u201d\u00bb\u300d\u300f\uff09"
_SENTENCE_ENDS: Final = ".!?\u2026\u3002\uff01\uff1f\u0964\u061f"
_CLAUSE_ENDS: Final = ",;:\u2013\u2014\u3001\uff0c\uff1b\uff1a\u060c\u061b"


@dataclass(frozen=True, slots=True)
class Caption:
    """Lines that are shown at the same time, from `start_s` to `end_s` in the book."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    """At most LINES lines of LINE_COLUMNS columns."""


def srt(tracks: Iterable[Track]) -> str:
    """Return the captions of chapters that are played one after another, as SRT.

    SRT cannot escape its own arrow, so one in a text becomes the character \u2192.
    """
    shown = (
        f"{number}\n{_time(start_ms, ',')} --> {_time(end_ms, ',')}\n{text.replace('-->', _ARROW)}\n"
        for number, (start_ms, end_ms, text) in enumerate(_timed(tracks), start=1)
    )
    return "\n".join(shown)


def webvtt(tracks: Iterable[Track]) -> str:
    """Return the captions of chapters that are played one after another, as WebVTT."""
    shown = (
        f"{_time(start_ms, '.')} --> {_time(end_ms, '.')}\n{_escaped(text)}\n"
        for start_ms, end_ms, text in _timed(tracks)
    )
    return "\n".join(["WEBVTT\n", *shown])


def captions(tracks: Iterable[Track]) -> Iterator[Caption]:
    """Yield the captions of chapters that are played one after another."""
    offset_s = 0.0
    for track in tracks:
        for spoken in _spoken_texts(track):
            yield from _cut(replace(spoken, start_s=spoken.start_s + offset_s, end_s=spoken.end_s + offset_s))
        offset_s += track.duration_s


@dataclass(frozen=True, slots=True)
class _SpokenText:
    """A text, and when it is heard."""

    start_s: float
    end_s: float
    text: str


def _spoken_texts(track: Track) -> list[_SpokenText]:
    """Return the texts of a chapter's cues, each place of the book once, without empty ones."""
    found: list[_SpokenText] = []
    block, reached = -1, 0
    for cue in track.cues:
        shown = reached if cue.block == block else 0
        block, reached = cue.block, max(shown, cue.end)
        text = " ".join(_UNPRINTABLE.sub(" ", cue.text[max(0, shown - cue.start) :]).split())
        start_s, end_s = cue.pos / track.sample_rate, cue.said_pos / track.sample_rate
        if text and cue.said_pos > cue.pos:
            found.append(_SpokenText(start_s, end_s, text))
        elif found and cue.start < shown:
            found[-1] = replace(found[-1], end_s=max(end_s, found[-1].end_s))
    return found


def _timed(tracks: Iterable[Track]) -> Iterator[tuple[int, int, str]]:
    """Yield start and end (whole ms) and text of each caption. None is shorter than 1 ms, and none overlap."""
    reached_ms = 0
    for one in captions(tracks):
        start_ms = max(reached_ms, round(one.start_s * 1000))
        reached_ms = max(start_ms + 1, round(one.end_s * 1000))
        yield start_ms, reached_ms, "\n".join(one.lines)


def _time(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Cutting


def _cut(spoken: _SpokenText) -> Iterator[Caption]:
    """Yield the captions of a text. Each gets a share of the time by its number of characters."""
    text = _Text(spoken.text)
    borders = [0, *text.cuts()]
    char_s = (spoken.end_s - spoken.start_s) / borders[-1]
    for begin, end in pairwise(borders):
        lines = text.lines(begin, end)
        yield Caption(spoken.start_s + begin * char_s, spoken.start_s + end * char_s, lines)


class _Text:
    """A text that is cut into captions. Places count characters, widths count columns."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._columns = list(accumulate(map(_width, text), initial=0))
        self._borders = _borders(text)

    def cuts(self) -> Iterator[int]:
        """Yield the place where each caption ends."""
        begin = 0
        while begin < len(self._text):
            begin = self._end_of_caption(begin)
            yield begin

    def lines(self, begin: int, end: int) -> tuple[str, ...]:
        """Return the lines of a caption: one, or two of about the same width."""
        if self._width(begin, end) <= LINE_COLUMNS:
            return (self._text[begin:end].strip(),)
        middle = min(
            self._between(begin, end), key=lambda place: max(self._width(begin, place), self._width(place, end))
        )
        return self._text[begin:middle].strip(), self._text[middle:end].strip()

    def _end_of_caption(self, begin: int) -> int:
        """Return where the caption that begins here ends.

        The ideal place divides the rest of the text into equal captions, as few as possible.
        """
        rest_columns = self._width(begin, len(self._text))
        reach = begin
        for _ in range(LINES):
            reach = self._reach(reach)
        if reach == len(self._text):
            return reach
        captions_left = -(-rest_columns // (LINES * LINE_COLUMNS))
        ideal_columns = rest_columns / captions_left
        return min(
            [*self._between(begin, reach), reach],
            key=lambda place: abs(self._width(begin, place) - ideal_columns) - self._bonus(place),
        )

    def _reach(self, begin: int) -> int:
        """Return the last border that fits into a line which begins here; the end of the text if no border fits."""
        before = bisect_right(self._borders, begin)
        fitting = [place for place in self._borders[before : before + LINE_COLUMNS + 1] if self._fits(begin, place)]
        return fitting[-1] if fitting else len(self._text)

    def _fits(self, begin: int, end: int) -> bool:
        return self._width(begin, end) <= LINE_COLUMNS

    def _between(self, begin: int, end: int) -> list[int]:
        """Return the borders between two places."""
        first = bisect_right(self._borders, begin)
        return self._borders[first : bisect_right(self._borders, end - 1)]

    def _width(self, begin: int, end: int) -> int:
        """Return the width of a span, without a space at its end."""
        return self._columns[end] - self._columns[begin] - self._text[begin:end].endswith(" ")

    def _bonus(self, place: int) -> int:
        """Return the bonus of a cut: for the end of a sentence, of a clause, or none."""
        last = self._text[:place].rstrip(" ")[-LINE_COLUMNS:].rstrip(_CLOSERS)[-1:]
        if last and last in _SENTENCE_ENDS:
            return _SENTENCE_BONUS
        return _CLAUSE_BONUS if last and last in _CLAUSE_ENDS else 0


def _borders(text: str) -> list[int]:
    """Return where a line may end: after a space or a full-width character, and inside words that fill a line."""
    found: list[int] = []
    run_columns = 0
    for place, (character, after) in enumerate(zip(text, [*text[1:], " "], strict=True), start=1):
        run_columns += _width(character)
        tight = run_columns + _width(after) > LINE_COLUMNS
        if character == " " or place == len(text) or tight or (_width(character) == 2 and not _clings(after)):
            found.append(place)
            run_columns = 0
    return found


def _clings(character: str) -> bool:
    """Return whether a line must not begin with a character."""
    return character == " " or character in _CLOSERS + _SENTENCE_ENDS + _CLAUSE_ENDS or not _width(character)


def _width(character: str) -> int:
    """Return the width of a character: 0 for a combining mark, 2 for a full-width character, else 1."""
    if character.isascii():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
