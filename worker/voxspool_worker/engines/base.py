"""The interface of an engine: it takes segments of text and returns chunks of audio, one step at a time.

An engine has a number of rows: places in its batch. `admit` puts a segment into a row; `step` moves all running rows
once and returns the chunks that are ready. For tone a step is 50 ms of sine, for Piper a whole segment, for XTTS one
audio token on every row; the scheduler does not depend on that. Only one thread calls an engine, so no engine has a
lock. Exceptions: any thread may call `prepare`, `digest` and `voices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from voxspool_worker.voices.catalog import Prepared as Prepared  # noqa: PLC0414, TC001 - engines find all they need here

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from voxspool_worker.text import Limits
    from voxspool_worker.voices.catalog import Voice


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """A piece of a job's text, ready to be spoken."""

    job: str
    index: int
    """Counts from 0, in the order of the text."""
    text: str
    """What to say, normalised; never without a letter or digit."""
    start: int
    end: int
    """The span of the job's text that this says, in characters."""
    pause_s: float
    """Silence after it, in seconds."""
    voice: Voice
    language: str
    speed: float
    seed: int
    live: bool = True
    """Whether its sound is wanted as it is made. Else it comes when it is whole: until then an engine may mend it."""


@dataclass(frozen=True, slots=True)
class SpokenSegment:
    """How a segment came out: what its mark entry says beside the span."""

    seed: int
    """The seed that was heard: the segment's own, unless it was spoken again."""
    tries: int = 1
    """How often it was spoken; the best try is what was heard."""
    fault: str = ""
    """What is still wrong with the best try, as the engine found: `cap`, `rate`, `silence` or `noise`; else empty."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Audio of one segment; a segment's chunks come in order."""

    job: str
    segment: int
    pcm: npt.NDArray[np.int16]
    """Samples, shape (n,), at the engine's sample rate. May be empty."""
    last: bool
    """Whether the segment is complete with this chunk."""
    spoken: SpokenSegment | None = None
    """With the last chunk, where the engine checks what it says; None: said once, with the segment's seed."""


class SegmentError(Exception):
    """One segment could not be spoken; its row is free again and the others go on.

    Any other exception out of `step` means that the engine itself can no longer be trusted.
    """

    def __init__(self, segment: SpeechSegment, reason: str) -> None:
        super().__init__(reason)
        self.segment = segment


class Engine(Protocol):
    """A speech engine, loaded and warm."""

    @property
    def name(self) -> str:
        """One of `protocol.jobs.ENGINES`."""

    @property
    def model(self) -> str:
        """The model's name and version, for people and for reproducing a speech."""

    @property
    def device(self) -> str:
        """Where it computes: cpu, cuda, mps."""

    @property
    def sample_rate(self) -> int:
        """Of every chunk, in Hz."""

    @property
    def rows(self) -> int:
        """How many segments it speaks at once."""

    @property
    def free(self) -> int:
        """How many rows are open now."""

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The voices it has, by name; the first is the default."""

    def limits(self, language: str) -> Limits:
        """How long a segment of this language may be."""

    def digest(self, voice: Voice) -> str:
        """Return the digest of a voice's file, if neither its parts nor `model` identify it; else an empty text.

        Audio of a voice is not reused after its file was replaced by another. From any thread.
        """

    def prepare(self, voice: Voice) -> Prepared:
        """Make a voice ready, before a segment with it is admitted. From any thread; the first time takes seconds."""

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row."""

    def step(self) -> list[AudioChunk]:
        """Move every running row once; with none running, do nothing.

        Raises SegmentError where one segment cannot be spoken.
        """

    def drop(self, job: str) -> None:
        """Free the job's rows at once; nothing more of them comes out."""
