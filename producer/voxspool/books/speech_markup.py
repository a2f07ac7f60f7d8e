"""Turn a chapter into spoken parts: each has one voice, the silence after it, and its position in the written text.

Each heading and each paragraph is one part. Markers in the text, in any book format, split it further:

    [pause:1.5s]  [pause:500ms]   silence at this point, 0 to 60 s; several in a row add up
    [voice:NAME]                  another voice, up to the next voice marker or the end of the paragraph
    [voice:]                      back to the voice that the paragraph began with

A paragraph with nothing but markers applies to the paragraphs after it: its voice speaks until the next such paragraph
or the end of the chapter, and [voice:] in it returns to the chapter's own voice. A pause belongs to the part before it;
at the start of a chapter it is a part with an empty text. If a pause meets the silence after a paragraph or a heading,
the longer of the two is kept.

Markers may be in upper case and may contain spaces. A malformed marker is an error. Other brackets are text, and so is
a marker in double brackets: [[pause:1s]]. The worker splits the spoken text into segments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NoReturn

from voxspool.books.pronunciation import Alignment, Pronunciations
from voxspool.errors import BookError
from voxspool.protocol.narration import MAX_PAUSE_S

if TYPE_CHECKING:
    from voxspool.books.book import Block, Chapter

_MARKER: Final = re.compile(r"(?<!\[)\[\s*(pause|voice)\s*:([^\[\]]*)(\]?)", re.IGNORECASE)
_DURATION: Final = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s)", re.ASCII | re.IGNORECASE)
_MAX_VOICE_CHARS: Final = 200
"""The limit for the name of a job's voice, in characters."""
_SHOWN_CHARS: Final = 40

_FULL_STOPS: Final = {"\u3040-\u30ff\u3400-\u9fff": "\u3002", "\u0900-\u097f": "\u0964"}
"""Scripts with their own full stop: Japanese and Chinese; Devanagari."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Silence after spoken text, in seconds. Where two pauses meet, the longer one is kept.

    The values were chosen by ear, except `chapter_s`.
    """

    paragraph_s: float = 0.6
    """After a paragraph; the same as between the paragraphs of an ordinary speech job."""
    before_heading_s: float = 1.2
    """Before a heading: twice the pause after a paragraph, to separate the topics."""
    after_heading_s: float = 1.0
    chapter_s: float = 2.0
    """At the end of a chapter. Audiobook shops require 1 to 5 s there (ACX)."""


@dataclass(frozen=True, slots=True)
class MarkupPart:
    """A stretch of a block that is spoken in one voice."""

    block: int
    """The index of its block in the chapter."""
    spoken: str
    """The text to speak; empty for a pause at the start of a chapter."""
    pause_s: float
    """Silence after it, in seconds, 0 to `narration.MAX_PAUSE_S`."""
    voice: str | None
    """None: the voice in which the book is narrated."""
    language: str | None
    """None: the book's language."""
    alignment: Alignment = field(default_factory=Alignment)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the block's text that a span of `spoken` came from, in characters: see Alignment."""
        return self.alignment.origin(start, end)


def spoken_parts(
    chapter: Chapter, pronunciations: Pronunciations, *, pauses: Pauses | None = None, voice: str | None = None
) -> list[MarkupPart]:
    """Return the spoken parts of a chapter, in order. They contain all text but markers and outer spaces.

    `voice` is the chapter's own voice; None: the book's. Raises BookError for a malformed marker.
    """
    return _MarkupReader(chapter, pronunciations, pauses or Pauses(), voice).read()


class _MarkupReader:
    """Collects the spoken parts of one chapter."""

    def __init__(self, chapter: Chapter, pronunciations: Pronunciations, pauses: Pauses, voice: str | None) -> None:
        self._chapter = chapter
        self._pronunciations = pronunciations
        self._pauses = pauses
        self._own = voice
        self._standing = voice
        """The voice of paragraphs without a voice marker."""
        self._parts: list[MarkupPart] = []
        self._asked_s = 0.0
        """The sum of the pause markers since the last part, in seconds."""

    def read(self) -> list[MarkupPart]:
        for index, block in enumerate(self._chapter.blocks):
            self._read_block(index, block)
        self._rest(self._pauses.chapter_s)
        return self._parts

    def _read_block(self, index: int, block: Block) -> None:
        markers = list(_MARKER.finditer(block.text))
        alone = bool(markers) and not _MARKER.sub("", block.text).strip()
        if block.kind == "heading" and not alone:
            self._rest(self._pauses.before_heading_s)
        voice, begin = self._standing, 0
        for marker in markers:
            self._speak(index, block, begin, marker.start(), voice)
            begin = marker.end()
            if marker[1].lower() == "pause":
                self._ask(index, block, self._seconds(marker))
            else:
                voice = self._voice(marker) or (self._own if alone else self._standing)
        self._speak(index, block, begin, len(block.text), voice)
        if alone:
            self._standing = voice
        elif block.text.strip():
            self._rest(self._pauses.after_heading_s if block.kind == "heading" else self._pauses.paragraph_s)

    def _speak(self, index: int, block: Block, begin: int, end: int, voice: str | None) -> None:
        """Add a part for a stretch of a block, unless the stretch is blank."""
        stretch = block.text[begin:end]
        if not stretch.strip():
            return
        begin += len(stretch) - len(stretch.lstrip())
        spoken, alignment = self._pronunciations.apply(stretch.strip())
        alignment = alignment.moved(begin)
        if block.kind == "heading" and end == len(block.text):
            spoken, alignment = _ended(spoken, alignment)
        self._parts.append(MarkupPart(index, spoken, 0.0, voice, block.language, alignment))
        self._asked_s = 0.0

    def _ask(self, index: int, block: Block, pause_s: float) -> None:
        """Add a marker's pause to the pauses since the last part."""
        if not self._parts:
            self._parts.append(MarkupPart(index, "", 0.0, self._own, block.language))
        self._asked_s += pause_s
        if self._asked_s > MAX_PAUSE_S:
            raise BookError(
                f"chapter {self._chapter.title!r:.60} has several pauses in a row, {self._asked_s:g} s in total; "
                f"the limit is {MAX_PAUSE_S:g} s, shorten them"
            )
        self._rest(self._asked_s)

    def _rest(self, pause_s: float) -> None:
        """Make the silence after the last part at least this long."""
        if self._parts:
            last = self._parts[-1]
            self._parts[-1] = replace(last, pause_s=max(last.pause_s, pause_s))

    def _seconds(self, marker: re.Match[str]) -> float:
        duration = _DURATION.fullmatch(marker[2].strip())
        pause_s = float(duration[1]) / (1 if duration[2].lower() == "s" else 1000) if duration else -1.0
        if not marker[3] or not 0 <= pause_s <= MAX_PAUSE_S:
            self._refuse(marker, f"[pause:1.5s] or [pause:500ms], up to {MAX_PAUSE_S:g} s")
        return pause_s

    def _voice(self, marker: re.Match[str]) -> str:
        """Return the voice's name; an empty string for [voice:]."""
        name = marker[2].strip()
        if not marker[3] or len(name) > _MAX_VOICE_CHARS or not name.isprintable():
            self._refuse(marker, "[voice:NAME], or [voice:] to return to the voice before")
        return name

    def _refuse(self, marker: re.Match[str], right: str) -> NoReturn:
        shown = marker.string[marker.start() :][: min(_SHOWN_CHARS, marker.end() - marker.start())]
        raise BookError(
            f"chapter {self._chapter.title!r:.60} has a malformed marker, {shown!r}; write {right}, "
            "or write [[ and ]] if it is text"
        )


def _ended(spoken: str, alignment: Alignment) -> tuple[str, Alignment]:
    """Add a full stop to a heading that ends in a letter or a digit.

    XTTS speaks gibberish after a short text without punctuation at its end, and Piper was trained on whole sentences.
    """
    last = spoken.rstrip(")]\u2019\u201d\u00bb\"'")[-1:]
    if not last.isalnum():
        return spoken, alignment
    stop = next((stop for characters, stop in _FULL_STOPS.items() if re.match(f"[{characters}]", last)), ".")
    return spoken + stop, alignment.added(len(spoken), len(spoken) + len(stop))
