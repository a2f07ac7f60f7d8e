"""One run of one job with its measurements, and the interface of a kind of job (a speech, a chapter)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from voxspool.errors import VoxspoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voxspool.protocol.jobs import JobSpec
    from voxspool.protocol.stream import End, Mark
    from voxspool_worker.engines.base import Prepared, SpeechSegment
    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.speech.publisher import Publisher
    from voxspool_worker.speech.reader_progress import ReaderProgress


class SpeechGivenUpError(VoxspoolError):
    """The job failed, and its stream says so; the message is the sentence of its failed entry."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class JobKind(Protocol):
    """The part of a run that differs between kinds of jobs: splitting into segments, and publishing them."""

    def plan(self, job: JobRun) -> list[SpeechSegment]:
        """Split the job into segments; the list is empty if there is nothing to speak.

        Raises VoxspoolError for a job that cannot be spoken, NeedsOtherWorkerError for one that others can speak.
        """

    def speak(self, job: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Publish these segments in their order, with a mark for each."""

    def ended(self, job: JobRun, end: End) -> None:
        """Count and log a job that is complete."""


@dataclass(slots=True)
class JobRun:
    """One run of one job, and what it has measured so far."""

    spec: JobSpec
    run: JobExecution
    token: CancelToken
    publisher: Publisher
    reader_progress: ReaderProgress
    on_segment: Callable[[], None]
    """Called when a segment is complete."""
    started: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    """The prepared voice; None if no segment was left to speak."""
    first_chunk_s: float | None = None
    first_pos: int = 0
    """The sample at which this run continues."""
    mean_rows: float | None = None
    """Mean number of rows that the engine computed at once during this run."""
    chunks: int = 0
    characters: int = 0
    spoken_again: int = 0
    faults: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def publish_mark(self, mark: Mark) -> None:
        """Publish that a segment is complete, and count it."""
        self.publisher.publish(mark)
        self.characters += 0 if mark.reused else mark.end - mark.start
        self.spoken_again += mark.tries > 1 and not mark.reused
        self.faults += bool(mark.fault)
        self.on_segment()
