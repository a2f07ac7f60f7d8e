"""The interface of an engine: it takes segments of text and returns chunks of audio, one step at a time.

Everything that an engine needs is here, whether it is one of voxspool's or comes from another distribution (see
`plugins` for how that registers it). An engine has rows: places in its batch, one segment each. The worker calls
`admit` to put a segment into a free row, then `step` again and again; a step advances all rows that are in use and
returns the chunks that are ready. How much a step does is the engine's choice: for tone 50 ms of sine on every row, for
Piper a whole segment, for XTTS one audio token on every row.

Threads: one thread, the engine's, calls `admit`, `step` and `drop`. Meanwhile the threads of the jobs call `limits`,
`digest`, `prepare` and `voices`, several at once. Any thread reads the other properties. Before the first job, the main
thread calls all of them to speak one sentence.

A step takes a few seconds at most: a job can be cancelled only between two steps, and if one step takes 60 s the worker
decides that the engine hangs, and ends. Code that computes in C must release Python's lock; otherwise the worker's
heartbeat stops, and other workers take its jobs.

A minimal engine, which speaks one segment in each step:

    import numpy as np
    from voxspool_worker.engines.base import AudioChunk, Limits, Prepared, Voice


    class BeepEngine:
        name = "beep"
        model = "beep-1"
        device = "cpu"
        sample_rate = 24_000
        rows = 1
        voices = {"beep": Voice("beep", ("en",))}

        def __init__(self, settings):
            self._segment = None

        @property
        def free(self):
            return 0 if self._segment else 1

        def limits(self, language):
            return Limits(max_chars=300, first_max_chars=80)

        def digest(self, voice):
            return ""

        def prepare(self, voice):
            return Prepared()

        def admit(self, segment):
            self._segment = segment

        def step(self):
            segment, self._segment = self._segment, None
            if segment is None:
                return []
            count = round(len(segment.text) * 0.06 / segment.speed * self.sample_rate)
            pcm = np.rint(8_000 * np.sin(np.arange(count) * 0.1)).astype(np.int16)
            return [AudioChunk(segment.job, segment.index, pcm, last=True)]

        def drop(self, job):
            if self._segment and self._segment.job == job:
                self._segment = None
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from voxspool_worker.text import Limits
from voxspool_worker.voices.catalog import Prepared, Voice

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

__all__ = ["AudioChunk", "Engine", "Limits", "Prepared", "SegmentError", "SpeechSegment", "SpokenSegment", "Voice"]


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """A piece of a job's text, ready to be spoken: about a sentence."""

    job: str
    """Identifies a run of a job; the chunks of the segment have the same value."""
    index: int
    """Position of the segment in its job, from 0."""
    text: str
    """The text to speak: normalised, no longer than `Engine.limits` allows, with a letter or digit in it."""
    start: int
    end: int
    """The span of the job's text that this segment speaks, in characters."""
    pause_s: float
    """Silence after it, in seconds. The worker adds it; an engine does not."""
    voice: Voice
    """One of `Engine.voices`, prepared."""
    language: str
    """A tag such as `en` or `en-us`, one of the voice's."""
    speed: float
    """Rate of speech, 0.5 (half) to 2.0 (double)."""
    seed: int
    """Seed of all random numbers, 32 bits: the same segment and seed give the same samples on the same machine."""
    live: bool = True
    """True if the chunks are published while the segment is spoken. If not, they are used when it is complete, so an
    engine may replace a bad try by another."""


@dataclass(frozen=True, slots=True)
class SpokenSegment:
    """The result of speaking a segment: the facts that its mark entry holds beside the span."""

    seed: int
    """The seed that was heard: the segment's own, unless it was spoken again."""
    tries: int = 1
    """Number of times it was spoken; the best try was published."""
    fault: str = ""
    """The fault that the engine found in the best try: `cap`, `rate`, `silence` or `noise`; empty if there is none."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Audio of one segment; a segment's chunks come in order."""

    job: str
    """`SpeechSegment.job`."""
    segment: int
    """`SpeechSegment.index`."""
    pcm: npt.NDArray[np.int16]
    """Samples, one channel, shape (n,), at the engine's sample rate. n may be 0."""
    last: bool
    """True if the segment is complete with this chunk."""
    spoken: SpokenSegment | None = None
    """Set with the last chunk if the engine checks its audio; None: spoken once, with the segment's seed."""


class SegmentError(Exception):
    """One segment cannot be spoken; its row is free again, and the other segments continue.

    Raise it from `Engine.step`. The job of this segment fails with `reason`, which its reader sees: one line, without
    the text. Any other exception means that the engine no longer works: the worker returns its jobs to the queue and
    ends.
    """

    def __init__(self, segment: SpeechSegment, reason: str) -> None:
        super().__init__(reason)
        self.segment = segment


@runtime_checkable
class Engine(Protocol):
    """A speech engine, loaded and ready to speak.

    Its constructor raises MissingExtraError if a library is missing, CheckpointError if a file of the model is missing
    or broken, and SettingsError for an invalid setting (all of `voxspool.errors`), each with one line that says what to
    do.
    """

    @property
    def name(self) -> str:
        """The name of the engine in jobs, queues and its registration: at most 32 of a-z 0-9 _ -."""

    @property
    def model(self) -> str:
        """Name and version of the model, for people and for reproducing a speech: different for every model."""

    @property
    def device(self) -> str:
        """The device: cpu, cuda or mps."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of every chunk, in Hz. It never changes: a voice of another rate is resampled."""

    @property
    def rows(self) -> int:
        """Number of segments that the engine speaks at once, 1 or more. It never changes."""

    @property
    def free(self) -> int:
        """Number of free rows: `rows` minus the number of segments whose last chunk was not returned yet."""

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The voices of the engine, by name; the first is the default. Any thread may read it."""

    def limits(self, language: str) -> Limits:
        """Return the limits of a segment in this language. Any thread may call it."""

    def digest(self, voice: Voice) -> str:
        """Return the digest of a voice's file, if neither its parts nor `model` identify it; else an empty text.

        Stored audio of a voice is not reused after its file was replaced. Any thread may call it.
        """

    def prepare(self, voice: Voice) -> Prepared:
        """Prepare a voice before a segment with it is admitted. Any thread may call it; the first call may be slow.

        Raises VoxspoolError for a voice that cannot be used: the job fails with the code and message of the error.
        """

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row. It is called only if there is one."""

    def step(self) -> list[AudioChunk]:
        """Advance every row in use and return the chunks that are ready; do nothing if no row is in use.

        Raises SegmentError if one segment cannot be spoken.
        """

    def drop(self, job: str) -> None:
        """Free the rows of a job at once, and return no more of its chunks. The job may have no row."""
