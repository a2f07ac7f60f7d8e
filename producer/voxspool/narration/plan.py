"""A book and its options -> the chapters to speak, and the job of each; the marks of a job -> the chapter's track.

The same book, options, pronunciations and store give the same jobs, so a command that is run again finds its jobs.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from voxspool.amounts import counted
from voxspool.books.speech_markup import spoken_parts
from voxspool.errors import StoreError
from voxspool.narration.track import Cue, Track
from voxspool.protocol import keys, narration
from voxspool.protocol.narration import BETWEEN, ChapterSpec, Passage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.books.book import Book, Chapter
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.books.speech_markup import MarkupPart
    from voxspool.narration.options import NarrationOptions
    from voxspool.protocol.stream import Mark
    from voxspool.store.segments import Store

LOST: Final = "lost"
"""The fault of a segment that is missing from the store although a mark names it."""


@dataclass(frozen=True, slots=True)
class PlannedChapter:
    """A chapter that will be spoken."""

    number: int
    """Its number in the book, from 1."""
    chapter: Chapter
    parts: tuple[MarkupPart, ...]
    """Its text as it will be spoken, in order."""
    voice: str | None
    language: str | None

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The passages of its job, one for each part."""
        return tuple(Passage(part.spoken, part.pause_s, part.voice, part.language) for part in self.parts)

    @property
    def characters(self) -> int:
        """The number of characters that are spoken."""
        return sum(len(part.spoken) for part in self.parts)

    def spec(self, job: str, options: NarrationOptions, store: str) -> ChapterSpec:
        """Return the spec of its job; `store` is the id of the segment store."""
        return narration.chapter(
            job,
            self.passages,
            store,
            voice=self.voice,
            language=self.language,
            engine=options.engine,
            speed=options.speed,
            seed=options.seed,
            keep_s=keys.NARRATION_TTL_S,
        )

    def digest(self, options: NarrationOptions, store: str) -> str:
        """Return a hash of everything in its job's spec, 12 hexadecimal digits."""
        spec = json.dumps(self.spec("digest", options, store).encode())
        return hashlib.blake2b(spec.encode(), digest_size=6).hexdigest()

    def track(self, marks: Iterable[Mark], sample_rate: int, store: Store) -> Track:
        """Return its track, from the marks of its job. A segment that is missing from the store has the fault LOST."""
        starts = [0, *accumulate(len(part.spoken) + len(BETWEEN) for part in self.parts)]
        cues = tuple(self._cue(mark, bisect_right(starts, mark.start) - 1, starts, store) for mark in marks)
        return Track(self.number, self.chapter.title, sample_rate, cues)

    def _cue(self, mark: Mark, index: int, starts: list[int], store: Store) -> Cue:
        """Return the cue of a mark that lies in the part with this index."""
        part = self.parts[index]
        spoken = slice(mark.start - starts[index], mark.end - starts[index])
        start, end = part.origin(spoken.start, spoken.stop)
        stored = store.find(mark.key) if mark.key else None
        fault = LOST if mark.key and stored is None else mark.fault
        text = self.chapter.blocks[part.block].text[start:end]
        return Cue(
            part.block, start, end, text, part.spoken[spoken], mark.pos, mark.end_pos, stored, fault, mark.reused
        )


def plan(book: Book, options: NarrationOptions, pronunciations: Pronunciations) -> tuple[PlannedChapter, ...]:
    """Return the chapters of a book that the options ask for, ready to be spoken. Raises BookError."""
    found = []
    for number, chapter in enumerate(book.chapters, start=1):
        if options.wants(number):
            parts = tuple(spoken_parts(chapter, pronunciations))
            language = options.language or book.language
            found.append(PlannedChapter(number, chapter, parts, options.voice_of(number), language))
    return tuple(found)


def check_whole(track: Track) -> None:
    """Check that the store has every segment of a track that was spoken. Raises StoreError."""
    lost = sum(cue.fault == LOST for cue in track.cues)
    if lost:
        raise StoreError(
            f"the store has lost {counted(lost, 'segment')} of chapter {track.number}; narrate again to speak "
            "what is missing"
        )
