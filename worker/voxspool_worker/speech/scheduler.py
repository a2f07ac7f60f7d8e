"""Run the engine, and choose which segment gets its next free row: fair between jobs, interactive before batch.

This module knows segments and rows only. It imports no tensors and no Redis, so tests of fairness take milliseconds.

    job threads   submit, drop ─────────► Scheduler ─► engine thread: drop, admit, step
                  Lane.get     ◄───────── chunks, errors

The order is round-robin over jobs: the job with the fewest rows comes first, then the one that waited longest. Among
interactive jobs without a row, one that has not begun comes before those that are being heard: its listener waits in
silence. Interactive jobs come before batch jobs, and some rows are reserved for them, so that a book never
fills the engine. A job gets no further row while its own thread is behind (a slow Redis), or while its reader is (if it
has a window). Interactive work without end starves batch work: that is what its priority means.
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
    from voxspool_worker.jobs.cancellation import RowClock

log = logging.getLogger(__name__)

BACKLOG_CHUNKS: Final = 64
"""A job gets no new row while its thread has this many chunks to publish: 3 s of tone."""
BACKLOG_S: Final = 60.0
"""Nor while it has this much audio to publish, in seconds: 3 MB. A chunk of Piper may be half a minute long."""
LEAD_S: Final = 2.0
"""A listener with less audio than this, in seconds, may soon hear a gap. A segment of Piper takes at most a second on
one core, and the job may have to wait for another's before."""
MAX_OVERTAKING: Final = 4
"""Jobs that have not begun overtake another until they have got this many times the length of its next segment, in
characters, or its length once if its listener may soon hear a gap. So jobs that come without end stop no other."""
RESERVED_SHARE: Final = 4
"""One row in four is reserved for interactive work, if the engine has that many."""


class EngineLostError(Exception):
    """The engine does not work any more; this process produces no more audio."""


LaneEvent: TypeAlias = AudioChunk | Exception | None
"""What a lane delivers: a chunk; an error that ends the job; None if the job should check its cancel token."""


class Lane:
    """The queue from the engine thread to the thread of one job."""

    def __init__(self, sample_rate: int, window_samples: int | None = None) -> None:
        self._events: queue.SimpleQueue[LaneEvent] = queue.SimpleQueue()
        self._sample_rate = sample_rate
        self._made_samples = 0
        self._taken_samples = 0
        self._heard_until = 0.0
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
            self._heard_until = max(self._heard_until, time.monotonic()) + len(event.pcm) / self._sample_rate
        self._events.put(event)

    def wake(self) -> None:
        """Make the job check its cancel token. Any thread may call it."""
        self._events.put(None)

    def get(self, timeout_s: float) -> LaneEvent:
        """Wait for the next event; return None if there is none within `timeout_s` seconds. From the job's thread."""
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(event, AudioChunk):
            self._taken_samples += len(event.pcm)
        return event

    @property
    def full(self) -> bool:
        """True if the job's thread is behind."""
        behind_samples = self._made_samples - self._taken_samples
        return self._events.qsize() >= BACKLOG_CHUNKS or behind_samples >= BACKLOG_S * self._sample_rate

    def lead_s(self, now_s: float) -> float:
        """Return how much audio a listener has left who listens from the first chunk on, in seconds; 0 in a gap."""
        return max(0.0, self._heard_until - now_s)

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
    clock: RowClock | None = None
    suspect: bool = False
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
    def new(self) -> bool:
        """True if it has not begun: it never had a row."""
        return self.lane.first_row_at is None

    @property
    def gives_way(self) -> bool:
        """True if interactive jobs come first. Not for a suspect's first segment: no job begins before it is spoken."""
        return self.batch and not (self.suspect and self.new)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Its place in the order of jobs: the smallest comes first."""
        return (self.gives_way, self.running, self.served)

    def overtaking_characters(self, now_s: float) -> int:
        """Return how many characters of jobs that have not begun come first; 0 if it has a row, or nobody listens."""
        if self.new or self.batch or self.running:
            return 0
        return len(self.waiting[0].text) * (MAX_OVERTAKING if self.lane.lead_s(now_s) >= LEAD_S else 1)

    def hold(self, rows: int) -> None:
        """Add to the rows that it has; a negative number takes them away."""
        self.running += rows
        if self.clock:
            self.clock.add(rows)


@dataclass(slots=True)
class Turns:
    """The scheduling policy without an engine: which job gets the next row. Not thread-safe."""

    rows: int
    jobs: dict[str, _Job] = field(default_factory=dict)
    _turn: int = 0
    _new_characters: int = 0
    """Characters of the new jobs that got rows since a job that they overtook got one."""

    def add(self, job: _Job) -> None:
        """Add a job; it comes before the job that was served last, and after all that wait, unless it is new."""
        job.served = self._turn - 1
        self.jobs[job.id] = job

    def take(self, now_s: float) -> SpeechSegment | None:
        """Return the next segment that gets a row, or None if no segment may have one."""
        ready = [job for job in self.jobs.values() if job.ready and not (job.gives_way and self._batch_is_full())]
        if not ready:
            return None
        job = self._next(ready, now_s)
        self._turn += 1
        job.served = self._turn
        job.lane.first_row_at = job.lane.first_row_at or now_s
        job.hold(1)
        return job.waiting.popleft()

    def done(self, job: str) -> None:
        """Record that one of the job's rows is free again; forget the job after its last segment."""
        state = self.jobs[job]
        state.hold(-1)
        if not state.running and not state.waiting:
            del self.jobs[job]

    def drop(self, job: str) -> bool:
        """Forget a job, whose rows are freed elsewhere. Return False if it is not known."""
        state = self.jobs.pop(job, None)
        if state:
            state.hold(-state.running)
        return state is not None

    def _next(self, ready: list[_Job], now_s: float) -> _Job:
        """Return the job that gets the next row: the first in rank, or one that has not begun and may overtake it."""
        first = min(ready, key=lambda job: job.rank)
        new = [job for job in ready if job.new and not job.gives_way]
        if not new or self._new_characters >= first.overtaking_characters(now_s):
            self._new_characters = 0
            return first
        newcomer = min(new, key=lambda job: job.rank)
        self._new_characters += len(newcomer.waiting[0].text)
        return newcomer

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
        self,
        job: str,
        priority: Priority,
        segments: Iterable[SpeechSegment],
        window_samples: int | None = None,
        *,
        clock: RowClock | None = None,
        suspect: bool = False,
    ) -> Lane:
        """Add a job with its segments; return the lane that will deliver its chunks.

        `clock` runs while the job has a row. Until the first segment of a `suspect` is spoken, the worker begins no
        other job.
        """
        lane = Lane(self._engine.sample_rate, window_samples)
        with self._changed:
            self._turns.add(_Job(job, priority == "batch", deque(segments), lane, clock, suspect))
            self._changed.notify()
        return lane

    def drop(self, job: str) -> None:
        """Forget a job: its waiting segments are not spoken, and its rows are freed before the next step."""
        with self._changed:
            if self._turns.drop(job):
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
                segment = self._turns.take(time.monotonic())
            if segment is None:
                return
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
