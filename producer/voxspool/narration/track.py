"""A spoken chapter: which text is heard when, and the audio, read from the store.

All files are made from tracks: audio, captions, overlays, the report.
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
    """One segment of a spoken chapter."""

    block: int
    """The index of its block in the chapter."""
    start: int
    """The first character of the block's text that it speaks."""
    end: int
    """The character after the last one."""
    text: str
    """The text of the book there."""
    spoken: str
    """The text that was spoken, with pronunciations applied."""
    pos: int
    """Its first sample in the chapter."""
    end_pos: int
    """The sample after its pause, which is the first of the next cue."""
    stored: StoredSegment | None
    """Its audio in the store; None if it could not be spoken."""
    fault: str = ""
    """The fault; an empty text if there is none."""
    reused: bool = False
    """True if the store had the segment before this narration."""

    @property
    def said_pos(self) -> int:
        """The sample after its audio. From here to `end_pos` there is silence."""
        return self.pos + (self.stored.samples if self.stored else 0)


@dataclass(frozen=True, slots=True)
class Track:
    """A chapter that was spoken to its end."""

    number: int
    """Its number in the book, from 1."""
    title: str
    sample_rate: int
    cues: tuple[Cue, ...]

    @property
    def samples(self) -> int:
        """The number of its samples."""
        return self.cues[-1].end_pos if self.cues else 0

    @property
    def duration_s(self) -> float:
        """Its duration in seconds."""
        return self.samples / self.sample_rate

    def audio(self, store: Store) -> Iterator[NDArray[np.int16]]:
        """Yield the samples of each cue, shape (n,): its audio, then the silence of its pause.

        Raises StoreError if a segment is missing from the store.
        """
        for cue in self.cues:
            said = store.read(cue.stored.key) if cue.stored else np.zeros(0, np.int16)
            yield np.concatenate([said, np.zeros(cue.end_pos - cue.pos - len(said), np.int16)])
