"""What is spoken of a chapter: its blocks as parts, each in one voice, with the silence after it and the way back.

A heading is a part of its own, a paragraph too. Markers in the text, of any kind of book, change that:

    [pause:1.5s]  [pause:500ms]   silence there, 0 to 60 s; several in a row add up
    [voice:NAME]                  another voice from there to the end of the paragraph, the next such marker or [voice:]

A paragraph of markers alone has a wider reach: its voice speaks until the next such paragraph or the chapter's end,
and [voice:] in one gives the chapter its own voice back. A pause goes to the part before it; at a chapter's start it is
a part that says nothing. Where it meets the silence after a paragraph or a heading, the longer of the two is kept.

Upper case and spaces do not matter. What begins like a marker and is none is refused; other brackets are text, and so
is a marker in two pairs, [[pause:1s]]. Knows no engine: a spoken text is cut into segments elsewhere.
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
"""As long as a job's voice may be."""
_SHOWN_CHARS: Final = 40

_FULL_STOPS: Final = {"\u3040-\u30ff\u3400-\u9fff": "\u3002", "\u0900-\u097f": "\u0964"}
"""The scripts that have a full stop of their own: Japanese and Chinese; Devanagari."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Silence after what is spoken, in seconds; where two meet, the longer one is kept. By ear, but for the last."""

    paragraph_s: float = 0.6
    """What workers leave between the paragraphs of a speech."""
    before_heading_s: float = 1.2
    """Twice a paragraph's: what follows is something else."""
    after_heading_s: float = 1.0
    chapter_s: float = 2.0
    """At a chapter's end; audiobook shops ask for 1 to 5 s there (ACX)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a block that is spoken in one voice."""

    block: int
    """Which of the chapter's blocks it is of."""
    spoken: str
    """What is said; empty where a chapter begins with a pause."""
    pause_s: float
    """Silence after it, in seconds, 0 to `narration.MAX_PAUSE_S`."""
    voice: str | None
    """None: the one that the book is narrated in."""
    language: str | None
    """None: the book's."""
    alignment: Alignment = field(default_factory=Alignment)

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the block's text that a span of `spoken` came from, in characters: see Alignment."""
        return self.alignment.origin(start, end)


def script(
    chapter: Chapter, pronunciations: Pronunciations, *, pauses: Pauses | None = None, voice: str | None = None
) -> list[Part]:
    """Return what is spoken of a chapter, in order; nothing of the blocks' text is lost but markers and outer spaces.

    `voice` is the chapter's own; None: the book's. Raises BookError for a marker that is wrong.
    """
    return _Writer(chapter, pronunciations, pauses or Pauses(), voice).write()


class _Writer:
    """Writes one chapter's script."""

    def __init__(self, chapter: Chapter, pronunciations: Pronunciations, pauses: Pauses, voice: str | None) -> None:
        self._chapter = chapter
        self._pronunciations = pronunciations
        self._pauses = pauses
        self._own = voice
        self._standing = voice
        """The voice of a paragraph that names none."""
        self._parts: list[Part] = []
        self._asked_s = 0.0
        """What markers ask for since the last part."""

    def write(self) -> list[Part]:
        for index, block in enumerate(self._chapter.blocks):
            self._write_block(index, block)
        self._rest(self._pauses.chapter_s)
        return self._parts

    def _write_block(self, index: int, block: Block) -> None:
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
        """Write a part for a stretch of a block, if anything stands there."""
        stretch = block.text[begin:end]
        if not stretch.strip():
            return
        begin += len(stretch) - len(stretch.lstrip())
        spoken, alignment = self._pronunciations.apply(stretch.strip())
        alignment = alignment.moved(begin)
        if block.kind == "heading" and end == len(block.text):
            spoken, alignment = _ended(spoken, alignment)
        self._parts.append(Part(index, spoken, 0.0, voice, block.language, alignment))
        self._asked_s = 0.0

    def _ask(self, index: int, block: Block, pause_s: float) -> None:
        """Add a marker's pause to those since the last part."""
        if not self._parts:
            self._parts.append(Part(index, "", 0.0, self._own, block.language))
        self._asked_s += pause_s
        if self._asked_s > MAX_PAUSE_S:
            raise BookError(
                f"chapter {self._chapter.title!r:.60} has pauses in a row of {self._asked_s:g} s together; "
                f"they may come to {MAX_PAUSE_S:g} s"
            )
        self._rest(self._asked_s)

    def _rest(self, pause_s: float) -> None:
        """Let at least so much silence follow the last part."""
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
        """Return the voice's name; nothing for [voice:]."""
        name = marker[2].strip()
        if not marker[3] or len(name) > _MAX_VOICE_CHARS or not name.isprintable():
            self._refuse(marker, "[voice:NAME], or [voice:] for the one before")
        return name

    def _refuse(self, marker: re.Match[str], right: str) -> NoReturn:
        shown = marker.string[marker.start() :][: min(_SHOWN_CHARS, marker.end() - marker.start())]
        raise BookError(
            f"chapter {self._chapter.title!r:.60} has a marker that is none, {shown!r}; write {right}, "
            "or [[ and ]] where it is text"
        )


def _ended(spoken: str, alignment: Alignment) -> tuple[str, Alignment]:
    """Add a full stop to a heading that ends in a letter or a number: without one, voices break off or run on.

    XTTS speaks gibberish behind a short text without an end, and Piper learnt from whole sentences.
    """
    last = spoken.rstrip(")]\u2019\u201d\u00bb\"'")[-1:]
    if not last.isalnum():
        return spoken, alignment
    stop = next((stop for script, stop in _FULL_STOPS.items() if re.match(f"[{script}]", last)), ".")
    return spoken + stop, alignment.added(len(spoken), len(spoken) + len(stop))
