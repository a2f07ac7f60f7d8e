"""Run the job of a chapter: offer its segments to all segment workers, and publish their marks in order.

The job itself speaks nothing: segment workers do, in this process and in others. It may die at any time: the next run
finds the marks in the stream, the outcomes in the segment queue and the audio in the store. The pipeline begins and
ends the job.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

from voxspool.errors import StoreError
from voxspool.protocol.stream import Mark
from voxspool_worker.jobs.cancellation import RowClock
from voxspool_worker.narration.running_chapters import RunningChapter
from voxspool_worker.narration.segment_plan import plan_chapter
from voxspool_worker.narration.segment_queue import OUTCOME_KINDS, SegmentOutcome, SegmentQueue, SegmentScripts
from voxspool_worker.narration.store_handle import retry_store
from voxspool_worker.retries import retry_while_redis_is_full
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.live_workers import live_workers
from voxspool_worker.speech.publisher import NeedsOtherWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis import Redis

    from voxspool.protocol.narration import ChapterSpec
    from voxspool.protocol.stream import End
    from voxspool.store.segments import Store, StoredSegment
    from voxspool_worker.engines.base import Engine, SpeechSegment
    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.narration.segment_plan import SegmentPlan
    from voxspool_worker.narration.segment_workers import SegmentWorkers
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.speech.job_run import JobRun
    from voxspool_worker.speech.pipeline import Pipeline

log = logging.getLogger(__name__)

MAX_CHAPTER_DEATHS: Final = 4
"""Number of workers that may die in one segment before the chapter is marked failed; a segment that kills workers is
given up before that, after `segment_queue.MAX_SEGMENT_DEATHS`."""
RESULTS_POLL_S: Final = 0.25
"""Polling interval for other workers' results and for the job's token, in seconds."""
ANNOUNCE_S: Final = 10.0
"""Interval between two announcements of the chapter, which also show whether Redis still has its queue, in seconds."""
STORE_LOOKUPS: Final = 16
"""Number of segments that are looked up in the store at once: a remote store takes 50 ms for each."""
NO_AUDIO: Final = ("engine", "poison")
"""The outcomes of a segment that has no audio; its mark names them as its fault."""

_Result = TypeVar("_Result")


class Narrator:
    """Runs the jobs of chapters. The threads of all such jobs share it; it has no state of a single job."""

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        segment_workers: SegmentWorkers,
        store_handle: StoreHandle,
        redis: Redis,
    ) -> None:
        self.engine = engine
        self.segment_workers = segment_workers
        self.store_handle = store_handle
        self.scripts = SegmentScripts(redis)
        self._pipeline = pipeline

    def narrate(
        self, chapter: ChapterSpec, run: JobExecution, token: CancelToken, on_segment: Callable[[], None]
    ) -> dict[str, Any]:
        """Narrate a chapter to its end, from where an earlier run stopped. Return a summary.

        Raises what `Pipeline.run` raises.
        """
        job = self._pipeline.prepare(chapter.speech, run, token, on_segment)
        with contextlib.closing(_ChapterJob(chapter, run.job, self)) as kind:
            return self._pipeline.run(job, kind)


class _ChapterJob:
    """One run of a chapter's job: its marks go into the stream, its audio into the store."""

    def __init__(self, spec: ChapterSpec, job_id: str, narrator: Narrator) -> None:
        self._spec = spec
        self._job_id = job_id
        self._narrator = narrator
        self._engine = narrator.engine
        self._chapter: RunningChapter | None = None
        self._repeated: set[int] = set()
        """The segments with the same key as an earlier one, whose audio they use."""
        self._counts: Counter[str] = Counter()

    def plan(self, job: JobRun) -> list[SpeechSegment]:
        """Split the chapter into segments.

        Raises NeedsOtherWorkerError if only other live workers have its store, StoreError if no worker has it.
        """
        self._check_store(job)
        plan = plan_chapter(self._spec, self._engine, job.run.id)
        first = {key: index for index, key in reversed(list(enumerate(plan.keys)))}
        self._repeated = {index for index, key in enumerate(plan.keys) if first[key] != index}
        queue = SegmentQueue(self._narrator.scripts, self._job_id, self._engine.name, plan.digest)
        self._chapter = RunningChapter(self._job_id, plan, queue)
        return plan.segments

    def speak(self, job: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Offer the segments that the store lacks to the segment workers, and publish the marks of all."""
        assert self._chapter, "the pipeline plans a job first"
        results = SegmentResults(self._chapter, self._narrator.store_handle.store(), job)
        missing = results.open(segments)
        log.debug("chapter.opened job=%s segments=%d missing=%d", self._job_id, len(segments), missing)
        with RowClock(job.token) as self._chapter.clock:
            self._narrator.segment_workers.serve(self._chapter)
            for segment in segments:
                self._publish(job, self._chapter.plan, segment, results.wait_for(segment))

    def ended(self, job: JobRun, end: End) -> None:
        """Log how many segments had which outcome in this run."""
        counts = " ".join(f"{kind}={self._counts[kind]}" for kind in (*OUTCOME_KINDS, "faults"))
        log.info(
            "chapter.end job=%s audio_s=%.4g elapsed_s=%.4g segments=%d %s",
            self._job_id, end.duration_s, job.elapsed_s, end.segments, counts,
        )  # fmt: skip

    def close(self) -> None:
        """Stop the segment workers of this process; delete the segment queue if the chapter is over."""
        if self._chapter:
            self._narrator.segment_workers.leave(self._chapter)
        with contextlib.suppress(RedisError):  # its keys expire
            SegmentQueue(self._narrator.scripts, self._job_id, self._engine.name, "").close()

    def _check_store(self, job: JobRun) -> None:
        """Raise NeedsOtherWorkerError or StoreError, as in `plan`, unless this worker has the chapter's store."""
        store = self._spec.store
        with contextlib.suppress(StoreError):
            if self._narrator.store_handle.store().id == store:
                return
        name, live = self._engine.name, live_workers(self._narrator.scripts.redis, job.token.stand_still)
        if any(card.store == store for card in live if card.queues and card.engine == name):
            raise NeedsOtherWorkerError(f"the chapter's segment store is {store}, and another worker has it")
        raise StoreError(
            f"the chapter's segment store is {store}, and no worker of {name} has it; start workers with the same "
            "VOXSPOOL_STORE as the narrator"
        )

    def _publish(self, job: JobRun, plan: SegmentPlan, segment: SpeechSegment, outcome: SegmentOutcome) -> None:
        """Publish the mark of a segment. Raises SpeechGivenUpError if its outcome is an error that ends the chapter."""
        if outcome.kind not in OUTCOME_KINDS:
            raise SpeechGivenUpError(outcome.kind, outcome.fault)
        has_audio = outcome.kind not in NO_AUDIO
        fault = outcome.fault if has_audio else outcome.kind
        reused = outcome.kind == "found" or (outcome.kind == "spoken" and segment.index in self._repeated)
        self._counts.update(["found" if reused else outcome.kind, *(["faults"] if fault else [])])
        pos, pause = job.publisher.pos, round(segment.pause_s * self._engine.sample_rate)
        job.publish_mark(
            Mark(
                pos, pos + outcome.samples + pause, segment.index, segment.start, segment.end, outcome.seed,
                outcome.tries, fault, plan.keys[segment.index] if has_audio else "", reused=reused,
            )
        )  # fmt: skip


class SegmentResults:
    """The known outcomes of a chapter's segments, by their keys. Only the job's thread uses it."""

    def __init__(self, chapter: RunningChapter, store: Store, job: JobRun) -> None:
        """Store the parts. Call `open` before `wait_for`."""
        self._plan = chapter.plan
        self._queue = chapter.segment_queue
        self._store = store
        self._job = job
        self._outcomes: dict[str, SegmentOutcome] = {}
        self._results_read = 0
        self._announced = 0.0
        self._news = threading.Event()
        chapter.on_segment = self._news.set

    def open(self, segments: Iterable[SpeechSegment]) -> int:
        """Find the outcomes that exist already, and offer the other segments. Return the number of those."""
        self._write(self._queue.take)
        self._results_read = 0
        while self._read():
            pass
        wanted = {self._plan.keys[segment.index]: segment.index for segment in reversed(list(segments))}
        self._look_up({key: index for key, index in wanted.items() if key not in self._outcomes})
        missing = sorted(index for key, index in wanted.items() if key not in self._outcomes)
        self._write(lambda: self._queue.offer(missing))
        self._write(self._announce)
        return len(missing)

    def wait_for(self, segment: SpeechSegment) -> SegmentOutcome:
        """Wait for the outcome of a segment and return it. Raises EndedEarlyError if the job must end; RedisError."""
        key = self._plan.keys[segment.index]
        while key not in self._outcomes:
            self._news.clear()
            if not self._read():
                self._news.wait(RESULTS_POLL_S)
                self._renew()
            self._job.token.check()
            self._job.reader_progress.look()
        return self._outcomes[key]

    def _read(self) -> bool:
        """Read the next results from Redis. Return whether there were any."""
        found = self._queue.results(self._results_read)
        self._results_read += len(found)
        for outcome in found:
            self._outcomes.setdefault(self._plan.keys[outcome.segment], outcome)
        return bool(found)

    def _renew(self) -> None:
        """Announce the chapter every ANNOUNCE_S; offer its segments again if Redis has lost the queue."""
        if time.monotonic() - self._announced > ANNOUNCE_S and not self._write(self._announce):
            log.warning("segment_queue.lost job=%s", self._job.run.job)
            self.open(self._plan.segments)

    def _announce(self) -> bool:
        """Announce the chapter. Return False if Redis has lost the queue."""
        self._announced = time.monotonic()
        return self._queue.announce()

    def _look_up(self, wanted: dict[str, int]) -> None:
        """Find the segments that the store has, by key. Raises StoreError if it fails, and EndedEarlyError."""
        threads = ThreadPoolExecutor(STORE_LOOKUPS, "lookup")
        try:
            lookups = {
                key: threads.submit(retry_store, functools.partial(self._store.check, key), time.sleep)
                for key in wanted
            }
            for key, lookup in lookups.items():
                if stored := self._result(lookup):
                    self._outcomes[key] = SegmentOutcome.found(wanted[key], stored)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _result(self, lookup: Future[StoredSegment | None]) -> StoredSegment | None:
        """Wait for the result of a lookup. Raises EndedEarlyError if the job must end meanwhile."""
        while True:
            self._job.token.check()
            with contextlib.suppress(futures.TimeoutError):
                return lookup.result(RESULTS_POLL_S)

    def _write(self, act: Callable[[], _Result]) -> _Result:
        """Call `act`, which writes to Redis, and retry while Redis has no memory for it. Return its result."""
        return retry_while_redis_is_full(act, self._job.token.stand_still, f"job={self._job.run.job}")
