"""A spoken chapter: what was said when, and its audio, from the store.

Everything is made from tracks: audio files, captions, overlays, the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from voxspool.store.segments import Store, StoredSegment


@dataclass(frozen=True, slots=True)
class Cue:
    """One segment of a chapter, as it was spoken."""

    block: int
    """Which of the chapter's blocks it is of."""
    start: int
    end: int
    """The span of that block's text that it says, in characters."""
    text: str
    """What stands in the book there."""
    spoken: str
    """What was said for it: pronunciations put in."""
    pos: int
    """Its first sample in the chapter."""
    end_pos: int
    """The sample after its pause: the next one's first."""
    stored: StoredSegment | None
    """Its audio and how it came out; None where it could not be spoken."""
    fault: str = ""
    """What is wrong with it; empty where nothing is."""
    reused: bool = False
    """Whether the store had it before this narration."""

    @property
    def said_pos(self) -> int:
        """The sample after its last audio: from here to `end_pos` there is silence."""
        return self.pos + (self.stored.samples if self.stored else 0)


@dataclass(frozen=True, slots=True)
class Track:
    """A chapter, spoken to its end."""

    number: int
    """Counts from 1, over the chapters of the book."""
    title: str
    sample_rate: int
    cues: tuple[Cue, ...]

    @property
    def samples(self) -> int:
        """How long it is."""
        return self.cues[-1].end_pos if self.cues else 0

    @property
    def duration_s(self) -> float:
        """How long it is, in seconds."""
        return self.samples / self.sample_rate

    def audio(self, store: Store) -> Iterator[NDArray[np.int16]]:
        """Yield its samples, shape (n,) a cue: what was said, then the silence behind it.

        Raises StoreError where the store has lost a segment.
        """
        for cue in self.cues:
            said = store.read(cue.stored.key) if cue.stored else np.zeros(0, np.int16)
            yield np.concatenate([said, np.zeros(cue.end_pos - cue.pos - len(said), np.int16)])
