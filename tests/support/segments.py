"""Control an engine like tone from a test, and speak the segments of chapters in the test's process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from voxspool.protocol import keys, narration
from voxspool.protocol.narration import ChapterSpec, Passage
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.standing import Standing
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration.running_chapters import RunningChapter
from voxspool_worker.narration.segment_plan import plan_chapter
from voxspool_worker.narration.segment_queue import SegmentQueue, SegmentScripts
from voxspool_worker.narration.segment_workers import SegmentWorkers
from voxspool_worker.speech.probation import Probation
from voxspool_worker.speech.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    import redis

    from voxspool_worker.engines.base import AudioChunk, SpeechSegment
    from voxspool_worker.narration.store_handle import StoreHandle

    Samples = npt.NDArray[np.int16]

ANY_TIME = 2.0**53
"""A time of Redis that never comes: leases are judged by Redis's clock alone."""
STORE = "0" * 32
"""The id of a store, for chapters that are only planned."""


class ControlledTone(ToneEngine):
    """The engine tone with a gate, which stops all steps while closed, and with hooks that change or fail segments."""

    def __init__(self, rows: int = 8) -> None:
        super().__init__(rows)
        self.gate = threading.Event()
        self.gate.set()
        self.sound: Callable[[SpeechSegment, Samples], Samples] = lambda _, samples: samples
        """Changes the samples of a segment."""
        self.before_step: Callable[[SpeechSegment], None] = lambda _: None
        """Called before each step with the segment of each row. An error that it raises is raised by the step."""
        self.admitted: list[SpeechSegment] = []

    @property
    def spoken_texts(self) -> list[str]:
        """Return the texts of all admitted segments, in order."""
        return [segment.text for segment in self.admitted]

    def admit(self, segment: SpeechSegment) -> None:
        super().admit(segment)
        self.admitted.append(segment)
        self._rows[-1].samples = self.sound(segment, self._rows[-1].samples)

    def step(self) -> list[AudioChunk]:
        if not self.gate.wait(0.002):  # short, so that the scheduler sees segments that are dropped meanwhile
            return []
        for row in list(self._rows):
            try:
                self.before_step(row.segment)
            except Exception:
                self._rows.remove(row)
                raise
        return super().step()


class NarrationProcess:
    """The parts of a worker process that speak segments: an engine, a scheduler and segment workers."""

    def __init__(self, db: redis.Redis, store_handle: StoreHandle, name: str, rows: int = 8) -> None:
        self.engine = ControlledTone(rows)
        self.scheduler = Scheduler(self.engine)
        self.arguments: dict[str, object] = {}
        """Job id -> argument of the job. The segment workers speak segments of these jobs only."""
        self.redis_is_new = False
        self.standing = Standing("a-host")
        self.workers = SegmentWorkers(
            self.engine, self.scheduler, db, store_handle, Metrics(), name, self.standing,
            Probation(db, name, "tone", self.standing), argument_of=self.arguments.get,
            expired_by=lambda: 0.0 if self.redis_is_new else ANY_TIME,
        )  # fmt: skip

    def start(self) -> SegmentWorkers:
        run_in_thread(self.scheduler)
        self.workers.start()
        return self.workers

    def stop(self) -> None:
        self.workers.stop()
        self.engine.gate.set()
        self.scheduler.stop()


def run_in_thread(scheduler: Scheduler) -> None:
    """Run a scheduler until it is stopped or its engine breaks."""
    threading.Thread(target=scheduler.run, args=(lambda: None,), name="engine", daemon=True).start()


def chapter_of(job: str, texts: list[str], store: str = STORE) -> ChapterSpec:
    """Return a chapter for tone with a segment for each text."""
    return narration.chapter(job, [Passage(text, 0.1) for text in texts], store, engine="tone", voice="sine")


def start_chapter(db: redis.Redis, spec: ChapterSpec, *, begun: int | None = None) -> RunningChapter:
    """Offer all segments of a chapter, as its job does; `begun` is when it began, in seconds by Redis's clock."""
    job = spec.speech.id
    plan = plan_chapter(spec, ToneEngine(), job)
    queue = SegmentQueue(SegmentScripts(db), job, "tone", plan.digest)
    db.hset(keys.control(job), "state", "running")
    queue.take()
    queue.offer(range(len(plan.segments)))
    if begun is not None:
        db.zadd(keys.narrating("tone"), {job: begun})
    queue.announce()
    return RunningChapter(job, plan, queue)


def held_segments(db: redis.Redis, job: str) -> list[int]:
    """Return the segments of a chapter that are leased to a worker."""
    return sorted(int(name) for name in db.zrangebyscore(keys.unspoken(job), 1, "+inf"))


def unclaimed_segments(db: redis.Redis, job: str) -> list[int]:
    """Return the segments of a chapter that no worker holds."""
    return [int(name) for name in db.zrangebyscore(keys.unspoken(job), 0, 0)]


def expire_leases(db: redis.Redis, job: str, *segments: int) -> None:
    """Make the leases of segments expire, as if the worker that held them had died."""
    db.zadd(keys.unspoken(job), {f"{segment:06d}": 1 for segment in segments}, xx=True)
