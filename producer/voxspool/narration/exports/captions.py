"""Tracks -> SRT and WebVTT: the text of the book while it is spoken.

A segment is one caption, or several if it does not fit into two lines: it is cut where clauses or words end, and its
time is divided by characters. A caption ends with its words, not with the silence after them. Chapters follow each
other as in the audio of the book. A word whose pronunciation was cut in two is shown once. It returns strings.
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
"""Longest line: what the broadcasters' guides take for Latin scripts; a full-width character takes two columns."""
LINES: Final = 2
_SENTENCE_BONUS: Final = 30
_CLAUSE_BONUS: Final = 15
"""How many columns from the ideal place a cut may lie, to lie where a sentence or a clause ends. By eye."""

_ARROW: Final = "\u2192"
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CLOSERS: Final = "\"')]\u2019\u201d\u00bb\u300d\u300f\uff09"
_SENTENCE_ENDS: Final = ".!?\u2026\u3002\uff01\uff1f\u0964\u061f"
_CLAUSE_ENDS: Final = ",;:\u2013\u2014\u3001\uff0c\uff1b\uff1a\u060c\u061b"


@dataclass(frozen=True, slots=True)
class Caption:
    """What is shown at once."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    """At most LINES of LINE_COLUMNS."""


def srt(tracks: Iterable[Track]) -> str:
    """Return the captions of some chapters, played one after another, as SubRip. It has no way to escape an arrow."""
    shown = (
        f"{number}\n{_time(start_ms, ',')} --> {_time(end_ms, ',')}\n{text.replace('-->', _ARROW)}\n"
        for number, (start_ms, end_ms, text) in enumerate(_timed(tracks), start=1)
    )
    return "\n".join(shown)


def webvtt(tracks: Iterable[Track]) -> str:
    """Return the captions of some chapters, played one after another, as WebVTT."""
    shown = (
        f"{_time(start_ms, '.')} --> {_time(end_ms, '.')}\n{_escaped(text)}\n"
        for start_ms, end_ms, text in _timed(tracks)
    )
    return "\n".join(["WEBVTT\n", *shown])


def captions(tracks: Iterable[Track]) -> Iterator[Caption]:
    """Yield what is shown while some chapters are played one after another."""
    offset_s = 0.0
    for track in tracks:
        for said in _said(track):
            yield from _cut(replace(said, start_s=said.start_s + offset_s, end_s=said.end_s + offset_s))
        offset_s += track.duration_s


@dataclass(frozen=True, slots=True)
class _SpokenText:
    """A text and when it is heard."""

    start_s: float
    end_s: float
    text: str


def _said(track: Track) -> list[_SpokenText]:
    """Return what is said in a chapter, each place of the book once, blank ones left out."""
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
    """Yield captions in whole milliseconds: none is empty, and none begins before the one before it ends."""
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


def _cut(said: _SpokenText) -> Iterator[Caption]:
    """Yield the captions of what is said, with the time of each by its share of the characters."""
    text = _Text(said.text)
    borders = [0, *text.cuts()]
    a_character_s = (said.end_s - said.start_s) / borders[-1]
    for begin, end in pairwise(borders):
        lines = text.lines(begin, end)
        yield Caption(said.start_s + begin * a_character_s, said.start_s + end * a_character_s, lines)


class _Text:
    """A text that is cut into captions. Places are characters, widths are columns."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._columns = list(accumulate(map(_width, text), initial=0))
        self._borders = _borders(text)

    def cuts(self) -> Iterator[int]:
        """Yield where captions end; the last at the text's end."""
        begin = 0
        while begin < len(self._text):
            begin = self._end_of_caption(begin)
            yield begin

    def lines(self, begin: int, end: int) -> tuple[str, ...]:
        """Return the lines of a caption: one, or two that are as even as can be."""
        if self._width(begin, end) <= LINE_COLUMNS:
            return (self._text[begin:end].strip(),)
        middle = min(
            self._between(begin, end), key=lambda place: max(self._width(begin, place), self._width(place, end))
        )
        return self._text[begin:middle].strip(), self._text[middle:end].strip()

    def _end_of_caption(self, begin: int) -> int:
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
        """Return the last border that a line from a place on reaches."""
        before = bisect_right(self._borders, begin)
        fitting = [place for place in self._borders[before : before + LINE_COLUMNS + 1] if self._fits(begin, place)]
        return fitting[-1] if fitting else len(self._text)

    def _fits(self, begin: int, end: int) -> bool:
        return self._width(begin, end) <= LINE_COLUMNS

    def _between(self, begin: int, end: int) -> list[int]:
        """Return the borders within a span."""
        first = bisect_right(self._borders, begin)
        return self._borders[first : bisect_right(self._borders, end - 1)]

    def _width(self, begin: int, end: int) -> int:
        """Count the columns of a span, without the space at its end."""
        return self._columns[end] - self._columns[begin] - self._text[begin:end].endswith(" ")

    def _bonus(self, place: int) -> int:
        last = self._text[:place].rstrip(" ")[-LINE_COLUMNS:].rstrip(_CLOSERS)[-1:]
        if last and last in _SENTENCE_ENDS:
            return _SENTENCE_BONUS
        return _CLAUSE_BONUS if last and last in _CLAUSE_ENDS else 0


def _borders(text: str) -> list[int]:
    """Return the places where a line may end: after a space, a full-width character, and in words that fill a line."""
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
    """Whether no line begins with it."""
    return character == " " or character in _CLOSERS + _SENTENCE_ENDS + _CLAUSE_ENDS or not _width(character)


def _width(character: str) -> int:
    """Count the columns of a character: a mark has none, a full-width one two."""
    if character.isascii():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
