"""Which segment gets the next free row: fair between jobs, interactive before batch. And the loop that runs the engine.

It knows segments, rows and turns. It imports no tensors and no Redis, so tests of fairness take milliseconds.

    job threads   submit, drop ─────────► Scheduler ─► engine thread: drop, admit, step
                  Lane.get     ◄───────── chunks, errors

Round-robin over jobs: the job with the fewest rows comes first, then the one that waited longest. Interactive jobs
come before batch jobs, and some rows are kept free for them, so that a book never fills the engine. A job gets no
further row while its own thread is behind (a slow Redis), or while its reader is (if the job has a window).
Interactive work that never ends starves batch work; that is what its priority means.
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
"""A job with more chunks than this that its thread has not taken gets no new row: 3 s of tone, a minute of Piper."""
RESERVED_SHARE: Final = 4
"""One row in four is kept for interactive work, where the engine has that many."""


class EngineLostError(Exception):
    """The engine failed as a whole; nothing more comes from this process."""


Heard: TypeAlias = AudioChunk | Exception | None
"""What a lane gives: a chunk; an error that ends the job; None where its token wants to be looked at."""


class Lane:
    """Where one job's thread waits for what the engine makes for it."""

    def __init__(self, window_samples: int | None = None) -> None:
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._made_samples = 0
        self.window_samples = window_samples
        """How far the job may be ahead of its reader; None: any distance."""
        self.silent_samples = 0
        """Pauses that the job added to what the engine made. Its own thread says so, and the following too."""
        self.read_samples = 0
        """How much of it its reader has read."""
        self.seated: float | None = None
        """When the job first got a row, by `time.monotonic`. The engine's thread says so."""

    def put(self, heard: Heard) -> None:
        """Put an event into the job's queue. From any thread; chunks from the engine thread alone."""
        if isinstance(heard, AudioChunk):
            self._made_samples += len(heard.pcm)
        self._heard.put(heard)

    def wake(self) -> None:
        """Let the job look at its token. From any thread."""
        self._heard.put(None)

    def get(self, timeout_s: float) -> Heard:
        """Wait for what comes next; None when nothing came in time."""
        try:
            return self._heard.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def full(self) -> bool:
        """Whether the job's thread is behind."""
        return self._heard.qsize() >= BACKLOG_CHUNKS

    @property
    def far_ahead(self) -> bool:
        """Whether the job is further ahead of its reader than it wants to be."""
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
        """Whether it could use a row now.

        With a window it has one row at a time: how long a segment is, is known when it ends.
        """
        if not self.waiting or self.lane.full or self.lane.far_ahead:
            return False
        return self.lane.window_samples is None or not self.running

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Smaller comes first."""
        return (self.batch, self.running, self.served)


@dataclass(slots=True)
class Turns:
    """The policy alone: the jobs, and whose turn it is. Not thread-safe, no engine."""

    rows: int
    jobs: dict[str, _Job] = field(default_factory=dict)
    _turn: int = 0

    def add(self, job: str, priority: Priority, segments: Iterable[SpeechSegment], lane: Lane) -> None:
        """Take a job in; it comes before the one that was served last, and behind all that wait."""
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
        """One of the job's rows is free again; forget the job with its last segment."""
        state = self.jobs[job]
        state.running -= 1
        if not state.running and not state.waiting:
            del self.jobs[job]

    def _batch_is_full(self) -> bool:
        """Whether batch work holds all the rows it may."""
        held = sum(job.running for job in self.jobs.values() if job.batch)
        return held >= self.rows - self.rows // RESERVED_SHARE


class Work(NamedTuple):
    """What the engine has done since it was loaded. The difference of two says what it did between them."""

    steps: int = 0
    row_steps: int = 0
    """The rows that were in use, summed over the steps."""
    busy_s: float = 0.0
    """Seconds within steps."""
    seating_s: float = 0.0
    """Seconds before them, in which segments were seated."""
    samples: int = 0
    """What came out of them, dropped jobs' too."""

    def speech_rate(self, sample_rate: int) -> float | None:
        """Return the seconds of audio that came of a second of work; None before anything was said."""
        return self.samples / sample_rate / (self.busy_s + self.seating_s) if self.samples else None

    def mean_rows(self, before: Work) -> float | None:
        """Return the mean of the rows in use since an earlier moment; None where there was no step."""
        steps = self.steps - before.steps
        return (self.row_steps - before.row_steps) / steps if steps else None


class Scheduler:
    """Feeds an engine from many jobs. `submit` and `drop` from any thread; `tick` and `run` in the engine's alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = Turns(engine.rows)
        self._dropped: list[str] = []
        self._changed = threading.Condition()
        self._stopped = False
        self.work = Work()
        """Replaced as a whole, by the engine's thread: any other may read it."""
        self.step_began: float | None = None
        """When the step began that the engine is in, by `time.monotonic`; None between steps. For any thread."""

    @property
    def rows_in_use(self) -> int:
        """How many rows are taken now."""
        return self._engine.rows - self._engine.free

    def submit(
        self, job: str, priority: Priority, segments: Iterable[SpeechSegment], window_samples: int | None = None
    ) -> Lane:
        """Take a job's segments in; give the lane that its chunks will come by."""
        lane = Lane(window_samples)
        with self._changed:
            self._turns.add(job, priority, segments, lane)
            self._changed.notify()
        return lane

    def drop(self, job: str) -> None:
        """Forget a job: what waits is not spoken, its rows are freed before the next step."""
        with self._changed:
            if self._turns.jobs.pop(job, None):
                self._dropped.append(job)
                self._changed.notify()

    def tick(self) -> bool:
        """Fill the free rows, move the engine one step, hand out its chunks. Return False if no row is in use."""
        self._free_dropped()
        self._seat()
        if not self.rows_in_use:
            return False
        try:
            chunks = self._step()
        except SegmentError as error:
            self._fail(error.segment.job, error)
            return True
        for chunk in chunks:
            self._hand_out(chunk)
        return True

    def run(self, on_lost: Callable[[], None]) -> None:
        """Tick until stopped: the body of the engine thread. An engine that breaks ends every job with it."""
        try:
            while not self._stopped:
                if not self.tick():
                    self._wait()
        except BaseException as error:
            log.exception("engine.lost engine=%s", self._engine.name)
            self.give_up(str(error))
            on_lost()

    def give_up(self, why: str) -> None:
        """End every job: nothing more comes from this engine. From any thread."""
        with self._changed:
            jobs = list(self._turns.jobs.values())
        for job in jobs:
            job.lane.put(EngineLostError(why))

    def stop(self) -> None:
        """Let `run` return after the step it is in."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _step(self) -> list[AudioChunk]:
        """Move the engine once, and count the work."""
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

    def _seat(self) -> None:
        """Fill the free rows."""
        while self._engine.free:
            with self._changed:
                segment = self._turns.take()
                lane = self._turns.jobs[segment.job].lane if segment else None
            if segment is None or lane is None:
                return
            lane.seated = lane.seated or time.monotonic()
            began = time.perf_counter()
            self._engine.admit(segment)
            self.work = self.work._replace(seating_s=self.work.seating_s + time.perf_counter() - began)

    def _hand_out(self, chunk: AudioChunk) -> None:
        """Put a chunk into its job's queue, unless the job was dropped meanwhile."""
        with self._changed:
            job = self._turns.jobs.get(chunk.job)
            if job and chunk.last:
                self._turns.done(chunk.job)
        if job:
            job.lane.put(chunk)

    def _fail(self, job: str, error: Exception) -> None:
        """End one job with an error and free what it holds."""
        with self._changed:
            state = self._turns.jobs.get(job)
        self.drop(job)
        if state:
            state.lane.put(error)

    def _wait(self) -> None:
        """Sleep until somebody submits, drops or stops; look again at lanes that were full or far ahead."""
        with self._changed:
            if not (self._stopped or self._dropped or any(job.ready for job in self._turns.jobs.values())):
                self._changed.wait(0.05 if self._turns.jobs else None)
