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
    """Which run of which job; the chunks carry it back."""
    index: int
    """Counts from 0, in the order of the text."""
    text: str
    """The text to speak: normalised, no longer than `Engine.limits` allows, with a letter or digit in it."""
    start: int
    end: int
    """The span of the job's text that this says, in characters."""
    pause_s: float
    """Silence after it, in seconds. The worker adds it; an engine does not."""
    voice: Voice
    """One of `Engine.voices`, prepared."""
    language: str
    """A tag such as `en` or `en-us`, one of the voice's."""
    speed: float
    """Rate of speech, 0.5 (half) to 2.0 (double)."""
    seed: int
    """32 bits, for whatever is random: the same segment and seed give the same samples on the same machine."""
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
    """With the last chunk, if the engine checks what it says; None: said once, with the segment's seed."""


class SegmentError(Exception):
    """One segment cannot be spoken; its row is free again and the others go on.

    Raise it from `Engine.step`. The job of this segment fails with the reason, which its reader sees: one line, without
    the text. Any other exception means that the engine itself can no longer be trusted: the worker hands its jobs back
    and ends.
    """

    def __init__(self, segment: SpeechSegment, reason: str) -> None:
        super().__init__(reason)
        self.segment = segment


@runtime_checkable
class Engine(Protocol):
    """A speech engine, loaded and ready to speak.

    Whoever makes it raises MissingExtraError for a library, CheckpointError for a model's file, SettingsError for a
    setting (all of `voxspool.errors`), each with one line that says what to do.
    """

    @property
    def name(self) -> str:
        """What jobs and queues call it, and what it is registered as: at most 32 of a-z 0-9 _ -."""

    @property
    def model(self) -> str:
        """The model's name and version, for people and for reproducing a speech. Another model has another text."""

    @property
    def device(self) -> str:
        """The device: cpu, cuda or mps."""

    @property
    def sample_rate(self) -> int:
        """Of every chunk, in Hz. It never changes: a voice of another rate is resampled."""

    @property
    def rows(self) -> int:
        """How many segments it speaks at once, 1 or more. It never changes."""

    @property
    def free(self) -> int:
        """How many rows can take a segment now: `rows`, less one for each segment that has not given its last chunk."""

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The voices it has, by name; the first is the default. From any thread."""

    def limits(self, language: str) -> Limits:
        """Return how long a segment of this language may be. From any thread."""

    def digest(self, voice: Voice) -> str:
        """Return the digest of a voice's file, if neither its parts nor `model` identify it; else an empty text.

        Audio of a voice is not reused after its file was replaced by another. From any thread.
        """

    def prepare(self, voice: Voice) -> Prepared:
        """Make a voice ready, before a segment with it is admitted. From any thread; the first time may take seconds.

        Raises VoxspoolError for a voice that cannot be used: the job fails with its code and message.
        """

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row. Called only if there is one."""

    def step(self) -> list[AudioChunk]:
        """Advance every row in use and return the chunks that are ready; with no row in use, do nothing.

        Raises SegmentError if one segment cannot be spoken.
        """

    def drop(self, job: str) -> None:
        """Free the job's rows at once; none of its chunks come out any more. The job may have no row."""
