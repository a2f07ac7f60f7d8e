"""A chapter's job: it opens the stream, offers the segments to all segment workers, and marks them in order.

The job itself speaks nothing: segment workers do, in this process and in others. It may die at any time: the next run
finds the marks in the stream, the results in the segment queue and the audio in the store. How a job begins and ends is
the pipeline's part.
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

from voxspool import workers
from voxspool.errors import StoreError
from voxspool.protocol.stream import Mark
from voxspool_worker.narration.segment_plan import plan
from voxspool_worker.narration.segment_queue import WORDS, Outcome
from voxspool_worker.narration.segment_workers import Chapter, found_outcome
from voxspool_worker.narration.store_handle import patiently
from voxspool_worker.retries import retry_while_redis_is_full
from voxspool_worker.speech.pipeline import SpeechGivenUpError
from voxspool_worker.speech.publisher import NeedsOtherWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from redis import Redis

    from voxspool.protocol.narration import ChapterSpec
    from voxspool.protocol.stream import End
    from voxspool.store.segments import Store, Stored
    from voxspool_worker.engines.base import Engine, SpeechSegment
    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.narration.segment_plan import Plan
    from voxspool_worker.narration.segment_queue import SegmentQueue
    from voxspool_worker.narration.segment_workers import SegmentWorkers
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.speech.pipeline import JobRun, Pipeline

log = logging.getLogger(__name__)

MAX_DEATHS: Final = 4
"""A chapter that so many workers died of, in one segment, is set aside: the segment is before that, after two."""
LOOK_S: Final = 0.25
"""How often a waiting owner looks for results of others, and at its token, in seconds."""
ANNOUNCE_S: Final = 10.0
"""How often it says that the chapter goes on, and sees whether Redis still knows of it, in seconds."""
LOOKUPS: Final = 16
"""How many segments are looked for in the store at once: one far away takes 50 ms for each."""
MISSING: Final = ("engine", "poison")
"""What comes of a segment that has no audio: it is the fault in its mark."""

_Result = TypeVar("_Result")


class Narrator:
    """Narrates the chapters whose jobs this worker has taken. Shared by their threads; holds no chapter's state."""

    def __init__(
        self,
        engine: Engine,
        pipeline: Pipeline,
        segment_workers: SegmentWorkers,
        store_handle: StoreHandle,
        redis: Redis,
    ) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._segment_workers = segment_workers
        self._store_handle = store_handle
        self._redis = redis

    def narrate(
        self, chapter: ChapterSpec, run: JobExecution, worker: str, token: CancelToken, on_segment: Callable[[], None]
    ) -> dict[str, Any]:
        """Narrate a chapter to its end, from wherever an earlier run left it; give a summary.

        Raises what `Pipeline.tell` raises.
        """
        telling = _Narration(chapter, self)
        at = self._pipeline.speaking(chapter.speech, run, worker, token, on_segment)
        try:
            return self._pipeline.tell(at, telling)
        finally:
            if telling.chapter:
                self._segment_workers.leave(telling.chapter)
            with contextlib.suppress(RedisError):  # its keys have a lifetime
                self._segment_workers.segment_queue(run.job, "").close()

    def plan(self, chapter: ChapterSpec, run: JobExecution) -> Plan:
        """Cut a chapter.

        Raises NeedsOtherWorkerError where only other live workers have its store, StoreError where nobody has it.
        """
        if self._has(chapter.store):
            return plan(chapter, self._engine, run.id)
        others = [card for card in workers.live(self._redis) if card.queues and card.engine == self._engine.name]
        if any(card.store == chapter.store for card in others):
            raise NeedsOtherWorkerError(f"the chapter's segment store is {chapter.store}, and another worker has it")
        raise StoreError(
            f"the chapter's segment store is {chapter.store}, and no worker of {self._engine.name} has it; start "
            "workers with the VOXSPOOL_STORE that the narrator has"
        )

    def _has(self, store: str) -> bool:
        """Whether this worker has a store."""
        try:
            return self._store_handle.store().id == store
        except StoreError:
            return False

    def open(self, job: str, planned: Plan, at: JobRun) -> Known:
        """Begin, or take over, what is shared of a chapter."""
        return Known(planned, self._segment_workers.segment_queue(job, planned.digest), self._store_handle.store(), at)

    @property
    def sample_rate(self) -> int:
        """The engine's, in Hz."""
        return self._engine.sample_rate

    def serve(self, chapter: Chapter) -> None:
        """Let the segment workers of this process speak it first."""
        self._segment_workers.serve(chapter)


class _Narration:
    """The telling of a chapter: its marks go into the stream, its audio into the store."""

    max_deaths = MAX_DEATHS

    def __init__(self, chapter: ChapterSpec, narrator: Narrator) -> None:
        self._spec = chapter
        self._narrator = narrator
        self._plan: Plan | None = None
        self._repeated: set[int] = set()
        """The segments that say what one before them says: spoken once, they are in the store for these."""
        self.chapter: Chapter | None = None
        """The chapter as the segment workers see it, once they do."""
        self._counts: Counter[str] = Counter()

    def plan(self, at: JobRun) -> list[SpeechSegment]:
        """Cut it."""
        self._plan = self._narrator.plan(self._spec, at.run)
        first = {key: index for index, key in reversed(list(enumerate(self._plan.keys)))}
        self._repeated = {index for index, key in enumerate(self._plan.keys) if first[key] != index}
        return self._plan.segments

    def say(self, at: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Have the segments spoken that the store has not, and mark all."""
        assert self._plan, "a job is planned first"
        known = self._narrator.open(at.run.job, self._plan, at)
        missing = known.open(segments)
        log.debug("chapter.opened job=%s segments=%d missing=%d", at.run.job, len(segments), missing)
        self.chapter = Chapter(at.run.job, self._plan, known.segment_queue, known.news.set)
        self._narrator.serve(self.chapter)
        for segment in segments:
            self._mark(at, segment, known.await_outcome(segment))

    def ended(self, at: JobRun, end: End) -> None:
        """Log what became of the segments in this run."""
        counts = " ".join(f"{word}={self._counts[word]}" for word in (*WORDS, "faults"))
        log.info(
            "chapter.end job=%s audio_s=%.4g elapsed_s=%.4g segments=%d %s",
            at.run.job, end.duration_s, at.elapsed_s, end.segments, counts,
        )  # fmt: skip

    def _mark(self, at: JobRun, segment: SpeechSegment, outcome: Outcome) -> None:
        """Publish a segment's mark. Raises SpeechGivenUpError where what came of it ends the chapter."""
        assert self._plan, "a job is planned first"
        if outcome.word not in WORDS:
            raise SpeechGivenUpError(outcome.word, outcome.fault)
        fault = outcome.word if outcome.word in MISSING else outcome.fault
        key = "" if outcome.word in MISSING else self._plan.keys[segment.index]
        said_before = segment.index in self._repeated
        word = "found" if said_before and outcome.word == "spoken" else outcome.word
        pos, pause = at.publisher.pos, round(segment.pause_s * self._narrator.sample_rate)
        self._counts.update([word, *(["faults"] if fault else [])])
        at.publish_mark(
            Mark(
                pos, pos + outcome.samples + pause, segment.index, segment.start, segment.end, outcome.seed,
                outcome.tries, fault, key, reused=word == "found",
            )
        )  # fmt: skip


class Known:
    """What an owner knows of its segments: what came of each, by its key. One thread's, but for `news`."""

    def __init__(self, planned: Plan, segment_queue: SegmentQueue, store: Store, at: JobRun) -> None:
        self.segment_queue = segment_queue
        self.news = threading.Event()
        """Set when a segment was ended in this worker."""
        self._plan = planned
        self._store = store
        self._at = at
        self._outcomes: dict[str, Outcome] = {}
        self._results = 0
        """How many results were read."""
        self._announced = 0.0

    def open(self, segments: Iterable[SpeechSegment]) -> int:
        """Learn what is there already, and offer the rest; give how many those are."""
        self._write(self.segment_queue.take)
        self._results = 0
        while self._read():
            pass
        wanted = {self._plan.keys[segment.index]: segment.index for segment in reversed(list(segments))}
        self._look_up({key: index for key, index in wanted.items() if key not in self._outcomes})
        missing = sorted(index for key, index in wanted.items() if key not in self._outcomes)
        self._write(lambda: self.segment_queue.offer(missing))
        self._write(self._announce)
        return len(missing)

    def await_outcome(self, segment: SpeechSegment) -> Outcome:
        """Wait for what comes of a segment. Raises EndedEarlyError, or what Redis raises when it is not there."""
        key = self._plan.keys[segment.index]
        while key not in self._outcomes:
            self.news.clear()
            if not self._read():
                self.news.wait(LOOK_S)
                self._see_to_pool()
            self._at.token.check()
            self._at.reader_progress.look()
        return self._outcomes[key]

    def _read(self) -> bool:
        """Take in what came of segments meanwhile; whether there was anything."""
        found = self.segment_queue.results(self._results)
        self._results += len(found)
        for outcome in found:
            self._outcomes.setdefault(self._plan.keys[outcome.segment], outcome)
        return bool(found)

    def _see_to_pool(self) -> None:
        """Renew the segment queue now and then; begin it again if Redis has lost it."""
        if time.monotonic() - self._announced > ANNOUNCE_S and not self._write(self._announce):
            log.warning("pool.lost job=%s", self._at.run.job)
            self.open(self._plan.segments)

    def _announce(self) -> bool:
        self._announced = time.monotonic()
        return self.segment_queue.announce()

    def _look_up(self, wanted: dict[str, int]) -> None:
        """Find the segments that the store has. Raises StoreError where it cannot be reached, EndedEarlyError."""
        threads = ThreadPoolExecutor(LOOKUPS, "lookup")
        try:
            asked = {
                key: threads.submit(patiently, functools.partial(self._store.check, key), time.sleep) for key in wanted
            }
            for key, answer in asked.items():
                if found := self._await(answer):
                    self._outcomes[key] = found_outcome(wanted[key], found)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _await(self, answer: Future[Stored | None]) -> Stored | None:
        """Wait for what the store says, with an eye on the token."""
        while True:
            self._at.token.check()
            with contextlib.suppress(futures.TimeoutError):
                return answer.result(LOOK_S)

    def _write(self, act: Callable[[], _Result]) -> _Result:
        """Call `act` as soon as Redis has memory for it."""
        return retry_while_redis_is_full(act, self._at.token.stand_still, f"job={self._at.run.job}")
