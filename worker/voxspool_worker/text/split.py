"""Split a text into pieces that an engine can speak one by one: sentences, if they have a suitable length.

Short sentences are joined with a neighbour; long ones are cut where a reader would pause. Nothing is lost: the pieces
cover the text from its first character to its last. The steps:

    paragraphs ─► sentences ─► parts within the limits ─► parts without words are absorbed ─► short parts are joined

A piece must be within a number of characters and, if the engine has a check of its own (`Limits.fits`), pass that too;
the check is called about once per piece. The library sentencex finds the sentences; only this module handles its
faults. The time grows linearly with the length of any text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import sentencex

from voxspool_worker.text.normalise import JOINERS, MARKS_MAX, normalise, speakable, spoken_character

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Silence after a piece, in seconds; chosen by ear, in addition to the short silence that engines add to a sentence.
PARAGRAPH_PAUSE_S = 0.6
SENTENCE_PAUSE_S = 0.25
CLAUSE_PAUSE_S = 0.0  # The engine pauses by itself at the comma in the text.

CHARS_LEAST = 3
"""Smallest possible limit: NFC writes U+FB2C as three characters, and no character as more."""

WINDOW_CHARS = 2000
"""Number of characters that sentencex gets at once. It takes 3 s for a paragraph of 100,000 characters, and 0.08 s for
the same paragraph in such windows (version 1.0.32)."""

CLAUSE_EARLIEST = 3
"""A cut at the end of a clause must leave a piece of at least this fraction, a third, of the limit."""

_CLUSTERS_REMEMBERED = 4096
"""Size of the caches: nearly all clusters of one text; at most 0.5 MB."""

_SPACES = re.compile(r"\s+")
_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028]")
_PARAGRAPH_SEPARATOR = "\u2029"
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG_SEPARATOR = re.compile("[-_]")

# Written as escapes: many look like another character.
_CLOSERS = r"[\"')\]\u2019\u201d\u00bb\u300d\u300f\uff09]*"
_CJK_COMING = r"(?=[\u3040-\u9fff\uac00-\ud7af])"
_CLAUSE_END = re.compile(
    # , ; : Arabic comma, semicolon and question mark, danda, ellipsis, dashes, ! ?
    rf"[,;:!?\u060c\u061b\u061f\u0964\u2026\u2013\u2014]{_CLOSERS}(?:\s+|{_CJK_COMING})"
    # Full-width marks and the long dash end a clause without a space after them, too.
    rf"|[\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f\u2014]{_CLOSERS}\s*"
    # sentencex does not split a quotation: cut it at a full stop, unless that may belong to an abbreviation.
    rf"|(?<=\w\w\w\w)\.{_CLOSERS}\s+",
)
_PLAIN_SENTENCE_END = re.compile(rf"[.!?\u2026]{_CLOSERS}\s+|[\u3002\uff01\uff1f]{_CLOSERS}\s*")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text that is spoken as one segment."""

    start: int
    end: int
    """The span of the original text, in characters."""
    text: str
    """The text to speak: the normalised span, with at least one letter or digit.

    Symbols at the edges of the span, such as a row of asterisks between paragraphs, are left out if they are a
    paragraph of their own or would exceed the limit.
    """
    pause_s: float
    """Silence after it, in seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a piece: in characters of spoken text, and by the engine's own check."""

    max_chars: int
    """The largest number of characters in a piece."""
    first_max_chars: int
    """The largest number of characters in the first piece: a short one gives the first sound sooner."""
    min_chars: int = 20
    """A part with fewer characters is joined to its neighbour if the limits allow it."""
    fits: Callable[[str], bool] | None = None
    """Returns whether the engine can speak a text as one segment. It is called only for texts within `max_chars`, and
    must not raise. A text that it refuses is split further, down to one visible character, which is always a piece."""

    def __post_init__(self) -> None:
        if min(self.max_chars, self.first_max_chars) < CHARS_LEAST:
            raise ValueError(f"no text can be split into pieces of fewer than {CHARS_LEAST} characters: {self}")

    def room_chars(self, index: int) -> int:
        """Return the largest number of characters of the piece with this index."""
        return self.max_chars if index else min(self.first_max_chars, self.max_chars)

    def admit(self, spoken: str, index: int) -> bool:
        """Return whether a text is within the limits of the piece with this index."""
        return len(spoken) <= self.room_chars(index) and (self.fits is None or self.fits(spoken))


def split(text: str, language: str, limits: Limits) -> list[Piece]:
    """Return the pieces of a text in order; an empty list if it has no letter and no number.

    `language` is a tag such as "en", "pt_BR" or "zh-cn"; an unknown one is treated as English. Never raises an error.
    """
    parts = _fitted(text, _sentences(text, _base_language(language)), limits)
    pieces = _joined(text, _absorbed(text, parts, limits), limits)
    return [*pieces[:-1], replace(pieces[-1], pause_s=0.0)] if pieces else []


# Paragraphs and sentences


@dataclass(frozen=True, slots=True)
class _Sentence:
    start: int
    end: int
    pause_s: float


def _base_language(tag: str) -> str:
    base = _TAG_SEPARATOR.split(tag, maxsplit=1)[0].strip().lower()
    return base if base.isascii() and base.isalpha() else "en"


def _sentences(text: str, language: str) -> Iterator[_Sentence]:
    """Yield sentences that cover the whole text; all except the last of a paragraph contain a word."""
    for start, end in _paragraphs(text):
        paragraph = text[start:end]
        begin = start
        for stop in _spoken_ends(paragraph, _sentence_ends(paragraph, language)):
            yield _Sentence(begin, start + stop, PARAGRAPH_PAUSE_S if start + stop == end else SENTENCE_PAUSE_S)
            begin = start + stop


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of the paragraphs, which cover the whole text; each includes the blank lines after it."""
    start = 0
    for spaces in _SPACES.finditer(text):
        if _PARAGRAPH_SEPARATOR in spaces[0] or len(_LINE_END.findall(spaces[0])) > 1:
            yield start, spaces.end()
            start = spaces.end()
    if start < len(text):
        yield start, len(text)


def _spoken_ends(paragraph: str, ends: Iterable[int]) -> Iterator[int]:
    """Yield the ends that have a word between them and the end before, and the end of the paragraph."""
    begin = 0
    heard = ended = False
    for end in ends:
        heard = heard or speakable(paragraph[begin:end])
        begin = end
        ended = heard
        if heard:
            yield end
            heard = False
    if not ended:
        yield len(paragraph)


def _sentence_ends(paragraph: str, language: str) -> Iterator[int]:
    """Yield the positions at which sentences end; the last is the end of the paragraph."""
    # Every space becomes a plain one: sentencex 1.0.32 panics on a broad space (U+3000) before a full stop in Russian
    # and Bengali, and drops spaces before a blank line. Lone surrogates cannot be passed to Rust.
    masked = _SURROGATE.sub("\ufffd", _SPACES.sub(lambda spaces: " " * len(spaces[0]), paragraph))
    begin = 0
    while len(masked) - begin > WINDOW_CHARS:
        ends = _window_ends(masked[begin : begin + WINDOW_CHARS], language)
        # A window ends in the middle of a sentence: the next one starts at the end of the last complete sentence.
        yield from (begin + end for end in ends[:-1])
        begin += ends[-2] if len(ends) > 1 else WINDOW_CHARS
    yield from (begin + end for end in _window_ends(masked[begin:], language))


def _window_ends(window: str, language: str) -> list[int]:
    try:
        segments = sentencex.segment(language, window)
    except BaseException as error:
        # A panic in Rust arrives as pyo3_runtime.PanicException, which derives from BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        segments = []
    if "".join(segments) != window:
        ends = [end.end() for end in _PLAIN_SENTENCE_END.finditer(window)]
        return ends if ends and ends[-1] == len(window) else [*ends, len(window)]
    ends = []
    for segment in segments:
        ends.append(len(segment) + (ends[-1] if ends else 0))
    return ends


# Parts that fit


def _fitted(text: str, sentences: Iterable[_Sentence], limits: Limits) -> Iterator[Piece]:
    """Yield parts of the sentences that are within the limits; some contain only symbols."""
    index = 0
    for sentence in sentences:
        spoken = normalise(text[sentence.start : sentence.end])
        if limits.admit(spoken, index):
            parts: Iterable[Piece] = [Piece(sentence.start, sentence.end, spoken, sentence.pause_s)]
        else:
            parts = _cut(text, sentence, limits, index)
        for part in parts:
            index += speakable(part.text)
            yield part


def _cut(text: str, sentence: _Sentence, limits: Limits, index: int) -> Iterator[Piece]:
    """Yield the parts of a sentence that is too long; the first one is the piece with this index."""
    ruler = _Ruler(text[sentence.start : sentence.end], limits.room_chars(0))
    begin = sentence.start
    while begin < sentence.end:
        stop, spoken = ruler.next_part(begin - sentence.start, limits, index)
        end = sentence.start + stop
        yield Piece(begin, end, spoken, sentence.pause_s if end == sentence.end else CLAUSE_PAUSE_S)
        index += speakable(spoken)
        begin = end


class _Ruler:
    """The positions at which one sentence may be cut, and the number of spoken characters before each."""

    def __init__(self, sentence: str, narrowest_chars: int) -> None:
        self._sentence = sentence
        self._borders = [0]  # Positions between clusters, which a reader sees as characters.
        self._spoken_chars = [0]  # Up to each border; at least as many as `normalise` would return.
        self._measure(narrowest_chars)
        borders = frozenset(self._borders)
        self._clauses = [place.end() for place in _CLAUSE_END.finditer(sentence) if place.end() in borders]
        self._gaps = [place.end() for place in _SPACES.finditer(sentence) if place.end() in borders]

    def next_part(self, begin: int, limits: Limits, index: int) -> tuple[int, str]:
        """Return the end of the part that begins at `begin`, and its spoken text; the part has this index."""
        aim_chars = room_chars = limits.room_chars(index)
        while True:
            stop = self._stop(begin, aim_chars)
            spoken = normalise(self._sentence[begin:stop])
            if aim_chars <= 1 or limits.admit(spoken, index):
                return stop, spoken
            # Too many characters: rarely, marks compose differently in context; one or two characters less suffice.
            # Too much for the engine's check, mostly because of digits: reduce by a third, so that few calls suffice.
            aim_chars -= 1 if len(spoken) > room_chars else -(-aim_chars // 3)

    def _measure(self, narrowest_chars: int) -> None:
        after_space = True
        for cluster in _clusters(self._sentence):
            # A cluster that fits in no piece, a run of marks, is measured and cut by its characters.
            for unit in cluster if len(_spoken_cluster(cluster)) > narrowest_chars else [cluster]:
                spoken = _spoken_cluster(unit)
                chars = 0 if after_space and spoken == " " else len(spoken)
                after_space = spoken == " " or (after_space and not spoken)
                self._borders.append(self._borders[-1] + len(unit))
                self._spoken_chars.append(self._spoken_chars[-1] + chars)

    def _stop(self, begin: int, room_chars: int) -> int:
        index = bisect_left(self._borders, begin)
        rest_chars = self._spoken_chars[-1] - self._spoken_chars[index]
        if rest_chars <= room_chars:
            return self._borders[-1]
        reach = self._reach(index, room_chars)
        # The last two parts get the same length: better than a full one and a very short one.
        ideal = self._reach(index, min(room_chars, -(-rest_chars // 2)))
        earliest = self._reach(index, room_chars // CLAUSE_EARLIEST)
        clause = _nearest(self._clauses, earliest, ideal, reach)
        return clause or _nearest(self._gaps, begin + 1, ideal, reach) or ideal

    def _reach(self, index: int, chars: int) -> int:
        """Return the last border at most `chars` spoken characters after border `index`, but at least the next one."""
        last = bisect_right(self._spoken_chars, self._spoken_chars[index] + chars) - 1
        return self._borders[max(last, index + 1)]


def _nearest(places: list[int], low: int, ideal: int, high: int) -> int | None:
    """Return the place nearest to `ideal` from `low` to `high`; None if there is none. `places` is sorted."""
    after = bisect_left(places, ideal)
    candidates = [place for place in places[max(after - 1, 0) : after + 1] if low <= place <= high]
    return min(candidates, key=lambda place: abs(place - ideal), default=None)


def _clusters(sentence: str) -> Iterator[str]:
    """Yield clusters, which a reader sees as one character: letters with their marks, joined emoji."""
    start = 0
    for place in range(1, len(sentence)):
        if not (_reaches_on(sentence[place - 1]) or _extends(sentence[place])) or place - start > MARKS_MAX:
            yield sentence[start:place]
            start = place
    yield sentence[start:]


@lru_cache(maxsize=_CLUSTERS_REMEMBERED)
def _reaches_on(character: str) -> bool:
    """Return whether the next character belongs to this one: after a joiner, or a virama, which joins two letters."""
    return character == "\u200d" or unicodedata.combining(character) == 9  # Unicode's combining class of viramas


@lru_cache(maxsize=_CLUSTERS_REMEMBERED)
def _extends(character: str) -> bool:
    """Return whether this character belongs to the one before: a mark, a joiner, a skin tone, a low surrogate."""
    return (
        unicodedata.category(character)[0] == "M"
        or character in JOINERS
        or "\u1160" <= character <= "\u11ff"  # Vowels and finals of decomposed Hangul
        or "\udc00" <= character <= "\udfff"  # Low surrogates
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # Skin tones
        or "\U000e0020" <= character <= "\U000e007f"  # Tags, of the flags of regions
    )


@lru_cache(maxsize=_CLUSTERS_REMEMBERED)
def _spoken_cluster(cluster: str) -> str:
    return unicodedata.normalize("NFC", "".join(map(spoken_character, cluster)))


# Neighbours


def _absorbed(text: str, parts: Iterable[Piece], limits: Limits) -> list[Piece]:
    """Return the parts that contain a word; each of the others is added to the piece before it, or to the first one."""
    pieces: list[Piece] = []
    for part in parts:
        if pieces and not speakable(part.text):
            pieces[-1] = _with_symbols(text, pieces[-1], part, limits, len(pieces) - 1)
        elif speakable(part.text):
            pieces.append(part if pieces else replace(part, start=0))
    return pieces


def _with_symbols(text: str, piece: Piece, symbols: Piece, limits: Limits, index: int) -> Piece:
    spoken = piece.text if _ends_paragraph(piece) else _together(text, piece, symbols)
    return Piece(
        piece.start,
        symbols.end,
        spoken if spoken == piece.text or limits.admit(spoken, index) else piece.text,
        max(piece.pause_s, symbols.pause_s),
    )


def _joined(text: str, pieces: list[Piece], limits: Limits) -> list[Piece]:
    """Join short pieces with a neighbour, within a paragraph and the limits.

    They join the next piece first, because a number or a "Well." introduces it; pieces that are still short then join
    the one before. Pieces are joined only up to `min_chars`, not up to the limit: a quick dialogue needs its pauses.
    """
    for side in (0, 1):
        pieces = _join_short(text, pieces, limits, side)
    return pieces


def _join_short(text: str, pieces: list[Piece], limits: Limits, side: int) -> list[Piece]:
    """Join each pair of neighbours whose left (`side` 0) or right piece (1) is short."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and len((joined[-1], piece)[side].text) < limits.min_chars:
            joined[-1:] = _join(text, joined[-1], piece, limits, len(joined) - 1)
        else:
            joined.append(piece)
    return joined


def _join(text: str, left: Piece, right: Piece, limits: Limits, index: int) -> list[Piece]:
    """Return two neighbours joined to one piece of this index; return both if the result would not be allowed."""
    spoken = _together(text, left, right)
    if _ends_paragraph(left) or not limits.admit(spoken, index):
        return [left, right]
    return [Piece(left.start, right.end, spoken, right.pause_s)]


def _ends_paragraph(piece: Piece) -> bool:
    return piece.pause_s >= PARAGRAPH_PAUSE_S


def _together(text: str, left: Piece, right: Piece) -> str:
    """Return the spoken text of two neighbours as one piece."""
    seam = right.start
    spaced = " " in (spoken_character(text[seam - 1]), spoken_character(text[seam]))
    return normalise(f"{left.text} {right.text}" if spaced else f"{left.text}{right.text}")
