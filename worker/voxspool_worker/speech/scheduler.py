"""Run the engine, and choose which segment gets its next free row: fair between jobs, interactive before batch.

This module knows segments and rows only. It imports no tensors and no Redis, so tests of fairness take milliseconds.

    job threads   submit, drop ─────────► Scheduler ─► engine thread: drop, admit, step
                  Lane.get     ◄───────── chunks, errors

The order is round-robin over jobs: the job with the fewest rows comes first, then the one that waited longest.
Interactive jobs come before batch jobs, and some rows are reserved for them, so that a book never fills the engine. A
job gets no further row while its own thread is behind (a slow Redis), or while its reader is (if it has a window).
Continuous interactive work starves batch work: that is the meaning of the priority.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from voxspool_worker.engines.base import AudioChunk, SegmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voxspool.protocol.jobs import Priority
    from voxspool_worker.engines.base import Engine, SpeechSegment

log = logging.getLogger(__name__)

BACKLOG_CHUNKS: Final = 64
"""Number of unpublished chunks from which a job gets no new row: 3 s of tone, a minute of Piper."""
RESERVED_SHARE: Final = 4
"""One row in four is reserved for interactive work, if the engine has that many."""


class EngineLostError(Exception):
    """The engine does not work any more; this process produces no more audio."""


LaneEvent: TypeAlias = AudioChunk | Exception | None
"""What a lane delivers: a chunk; an error that ends the job; None if the job should check its cancel token."""


class Lane:
    """The queue from the engine thread to the thread of one job."""

    def __init__(self, window_samples: int | None = None) -> None:
        self._events: queue.SimpleQueue[LaneEvent] = queue.SimpleQueue()
        self._made_samples = 0
        self.window_samples = window_samples
        """Largest number of samples that the job may be ahead of its reader; None: no limit."""
        self.silent_samples = 0
        """Samples of pauses that the job added to the engine's audio. Set by the job's thread, as `read_samples` is."""
        self.read_samples = 0
        """Samples that the reader has read."""
        self.first_row_at: float | None = None
        """When the job first got a row, by `time.monotonic`. Set by the engine thread."""

    def put(self, event: LaneEvent) -> None:
        """Put an event into the job's queue. Any thread may call it; only the engine thread puts chunks."""
        if isinstance(event, AudioChunk):
            self._made_samples += len(event.pcm)
        self._events.put(event)

    def wake(self) -> None:
        """Make the job check its cancel token. Any thread may call it."""
        self._events.put(None)

    def get(self, timeout_s: float) -> LaneEvent:
        """Wait for the next event; return None if there is none within `timeout_s` seconds."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def full(self) -> bool:
        """True if the job's thread is behind."""
        return self._events.qsize() >= BACKLOG_CHUNKS

    @property
    def far_ahead(self) -> bool:
        """True if the job is further ahead of its reader than its window allows."""
        ahead_samples = self._made_samples + self.silent_samples - self.read_samples
        return self.window_samples is not None and ahead_samples > self.window_samples


@dataclass(slots=True)
class _Job:
    """A job as the scheduler sees it."""

    id: str
    batch: bool
    waiting: deque[SpeechSegment]
    lane: Lane
    running: int = 0
    served: int = 0
    """The turn at which it last got a row."""

    @property
    def ready(self) -> bool:
        """True if it could use a row now.

        A job with a window has one row at a time, because the length of a segment is known only at its end.
        """
        if not self.waiting or self.lane.full or self.lane.far_ahead:
            return False
        return self.lane.window_samples is None or not self.running

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The order of jobs: the smallest rank comes first."""
        return (self.batch, self.running, self.served)


@dataclass(slots=True)
class Turns:
    """The scheduling policy without an engine: which job gets the next row. Not thread-safe."""

    rows: int
    jobs: dict[str, _Job] = field(default_factory=dict)
    _turn: int = 0

    def add(self, job: str, priority: Priority, segments: Iterable[SpeechSegment], lane: Lane) -> None:
        """Add a job; its turn is before that of the job that was served last, and after those of all waiting jobs."""
        self.jobs[job] = _Job(job, priority == "batch", deque(segments), lane, served=self._turn - 1)

    def take(self) -> SpeechSegment | None:
        """Return the next segment that gets a row, or None if no segment may have one."""
        ready = [job for job in self.jobs.values() if job.ready and not (job.batch and self._batch_is_full())]
        if not ready:
            return None
        job = min(ready, key=lambda job: job.rank)
        self._turn += 1
        job.served = self._turn
        job.running += 1
        return job.waiting.popleft()

    def done(self, job: str) -> None:
        """Record that one of the job's rows is free again; forget the job after its last segment."""
        state = self.jobs[job]
        state.running -= 1
        if not state.running and not state.waiting:
            del self.jobs[job]

    def _batch_is_full(self) -> bool:
        """Return whether batch work has all the rows that it may have."""
        held = sum(job.running for job in self.jobs.values() if job.batch)
        return held >= self.rows - self.rows // RESERVED_SHARE


class Work(NamedTuple):
    """Totals of the engine since it was loaded. The difference of two values is the work between them."""

    steps: int = 0
    row_steps: int = 0
    """Number of rows in use, summed over the steps."""
    busy_s: float = 0.0
    """Seconds that the steps took."""
    admission_s: float = 0.0
    """Seconds between the steps in which segments were admitted to rows."""
    samples: int = 0
    """Number of samples of audio, including those of dropped jobs."""

    def speech_rate(self, sample_rate: int) -> float | None:
        """Return the seconds of audio per second of work; None before the first audio."""
        return self.samples / sample_rate / (self.busy_s + self.admission_s) if self.samples else None

    def mean_rows(self, before: Work) -> float | None:
        """Return the mean number of rows in use since `before`; None if there was no step."""
        steps = self.steps - before.steps
        return (self.row_steps - before.row_steps) / steps if steps else None


class Scheduler:
    """Passes the segments of many jobs to an engine.

    Any thread may call `submit`, `drop`, `give_up` and `stop`; only the engine thread calls `tick` and `run`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = Turns(engine.rows)
        self._dropped: list[str] = []
        self._changed = threading.Condition()
        self._stopped = False
        self.work = Work()
        """The engine thread replaces it as a whole, so any other thread may read it."""
        self.step_began: float | None = None
        """When the engine's current step began, by `time.monotonic`; None between steps. Any thread may read it."""

    @property
    def rows_in_use(self) -> int:
        """The number of rows in use now."""
        return self._engine.rows - self._engine.free

    def submit(
        self, job: str, priority: Priority, segments: Iterable[SpeechSegment], window_samples: int | None = None
    ) -> Lane:
        """Add a job with its segments; return the lane that will deliver its chunks."""
        lane = Lane(window_samples)
        with self._changed:
            self._turns.add(job, priority, segments, lane)
            self._changed.notify()
        return lane

    def drop(self, job: str) -> None:
        """Forget a job: its waiting segments are not spoken, and its rows are freed before the next step."""
        with self._changed:
            if self._turns.jobs.pop(job, None):
                self._dropped.append(job)
                self._changed.notify()

    def tick(self) -> bool:
        """Fill the free rows, run one step of the engine, deliver its chunks. Return False if no row is in use."""
        self._free_dropped()
        self._fill_rows()
        if not self.rows_in_use:
            return False
        try:
            chunks = self._step()
        except SegmentError as error:
            self._fail(error.segment.job, error)
            return True
        for chunk in chunks:
            self._deliver(chunk)
        return True

    def run(self, on_lost: Callable[[], None]) -> None:
        """Tick until stopped: the body of the engine thread. If the engine breaks, every job ends."""
        try:
            while not self._stopped:
                if not self.tick():
                    self._wait()
        except BaseException as error:
            log.exception("engine.lost engine=%s", self._engine.name)
            self.give_up(str(error))
            on_lost()

    def give_up(self, why: str) -> None:
        """End every job with EngineLostError. Any thread may call it."""
        with self._changed:
            jobs = list(self._turns.jobs.values())
        for job in jobs:
            job.lane.put(EngineLostError(why))

    def stop(self) -> None:
        """Let `run` return after the current step."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _step(self) -> list[AudioChunk]:
        """Run one step of the engine, and count the work."""
        rows, began = self.rows_in_use, time.perf_counter()
        self.step_began = time.monotonic()
        chunks: list[AudioChunk] = []
        try:
            chunks = self._engine.step()
        finally:
            self.step_began = None
            before, spent_s = self.work, time.perf_counter() - began
            self.work = before._replace(
                steps=before.steps + 1,
                row_steps=before.row_steps + rows,
                busy_s=before.busy_s + spent_s,
                samples=before.samples + sum(len(chunk.pcm) for chunk in chunks),
            )
        return chunks

    def _free_dropped(self) -> None:
        """Free the rows of jobs that were dropped since the last step."""
        with self._changed:
            dropped, self._dropped = self._dropped, []
        for job in dropped:
            self._engine.drop(job)

    def _fill_rows(self) -> None:
        """Admit segments to all free rows."""
        while self._engine.free:
            with self._changed:
                segment = self._turns.take()
                lane = self._turns.jobs[segment.job].lane if segment else None
            if segment is None or lane is None:
                return
            lane.first_row_at = lane.first_row_at or time.monotonic()
            began = time.perf_counter()
            self._engine.admit(segment)
            self.work = self.work._replace(admission_s=self.work.admission_s + time.perf_counter() - began)

    def _deliver(self, chunk: AudioChunk) -> None:
        """Put a chunk into the lane of its job, unless the job was dropped meanwhile."""
        with self._changed:
            job = self._turns.jobs.get(chunk.job)
            if job and chunk.last:
                self._turns.done(chunk.job)
        if job:
            job.lane.put(chunk)

    def _fail(self, job: str, error: Exception) -> None:
        """End one job with an error and free its rows."""
        with self._changed:
            state = self._turns.jobs.get(job)
        self.drop(job)
        if state:
            state.lane.put(error)

    def _wait(self) -> None:
        """Wait for a submit, a drop or a stop, and return now and then to check lanes that were full or far ahead."""
        with self._changed:
            if not (self._stopped or self._dropped or any(job.ready for job in self._turns.jobs.values())):
                self._changed.wait(0.05 if self._turns.jobs else None)
