"""The job of a chapter, on a real Redis and store: its marks are in order, however the segments are spoken."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.processes import until
from tests.support.segments import NarrationProcess, chapter_of, held_segments, unclaimed_segments
from voxspool.protocol import keys, stream
from voxspool.protocol.stream import Begin, Cancelled, End, Failed, Mark
from voxspool.store.segments import Store
from voxspool_worker import retries
from voxspool_worker.engines.tone import ToneEngine, sine
from voxspool_worker.jobs.cancellation import CancelToken, EndedEarlyError, Reason
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.narration import chapter_job
from voxspool_worker.narration.chapter_job import Narrator, SegmentResults
from voxspool_worker.narration.running_chapters import RunningChapter
from voxspool_worker.narration.segment_plan import plan_chapter
from voxspool_worker.narration.segment_queue import SegmentOutcome, SegmentQueue, SegmentScripts
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.publisher import NeedsOtherWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from voxspool.protocol.narration import ChapterSpec
    from voxspool.protocol.stream import Entry
    from voxspool_worker.jobs.cancellation import CancelToken as Token
    from voxspool_worker.speech.job_run import JobRun

JOB = "chapter"
QUEUE = "voxspool-tone-batch"
RATE = ToneEngine.sample_rate
TEXTS = [f"Sentence {number}." for number in range(5)]
LIMIT_S = 30.0
"""The time limit of a job: a test that would wait for ever fails after it."""
PAUSE = round(0.1 * RATE)
"""Samples of silence after each segment."""

pytestmark = pytest.mark.usefixtures("short_intervals", "frequent_polling")


@pytest.fixture
def frequent_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for results every few milliseconds."""
    monkeypatch.setattr(chapter_job, "RESULTS_POLL_S", 0.005)


class Narration:
    """A worker process that narrates one chapter at a time."""

    def __init__(self, db: redis.Redis, process: NarrationProcess, store_handle: StoreHandle) -> None:
        self.process = process
        self.pipeline = Pipeline(process.engine, db, "a-worker")
        self.narrator = Narrator(process.engine, self.pipeline, process.workers, store_handle, db)
        self.segments_done = 0
        self._db = db
        self._runs = 0

    def run(self) -> JobExecution:
        """Return a new run of the chapter's job, with a lease."""
        self._runs += 1
        run = JobExecution(QUEUE, JOB, f"run-{self._runs}")
        self._db.zadd(run.lease_key, {run.composite: 1e12})
        return run

    def narrate(self, spec: ChapterSpec, token: Token | None = None) -> dict[str, Any]:
        """Narrate a chapter in this thread."""
        return self.narrator.narrate(spec, self.run(), token or CancelToken(LIMIT_S), self._count)

    def start(self, spec: ChapterSpec, token: Token | None = None) -> Future[dict[str, Any]]:
        """Narrate a chapter in another thread, and return when its segments are offered."""
        running: Future[dict[str, Any]] = Future()
        threading.Thread(target=self._narrate_into, args=(running, spec, token), daemon=True).start()
        until(lambda: running.done() or self._db.exists(keys.narrating("tone")), "the chapter to be offered")
        return running

    def _narrate_into(self, running: Future[dict[str, Any]], spec: ChapterSpec, token: Token | None) -> None:
        try:
            running.set_result(self.narrate(spec, token))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            running.set_exception(error)

    def _count(self) -> None:
        self.segments_done += 1


@pytest.fixture
def narration(db: redis.Redis, process: NarrationProcess, store_handle: StoreHandle) -> Narration:
    """Return a worker whose segment threads are not started: the test reports the outcomes of the segments."""
    return Narration(db, process, store_handle)


@pytest.fixture
def spec(store: Store) -> ChapterSpec:
    return chapter_of(JOB, TEXTS, store.id)


def start_threads(narration: Narration) -> None:
    narration.process.engine.gate.set()
    narration.process.start()


def queue_of(db: redis.Redis, spec: ChapterSpec) -> SegmentQueue:
    """Return the segment queue of a chapter, as another worker has it."""
    return SegmentQueue(SegmentScripts(db), JOB, "tone", plan_chapter(spec, ToneEngine(), "").digest)


def holder_of(db: redis.Redis, segment: int) -> str:
    """Return the holder of a segment, or any name if nobody holds it."""
    return (db.hget(keys.pool(JOB), f"holder {segment:06d}") or b"me").decode()


def spoken(segment: int, samples: int = 1000) -> SegmentOutcome:
    return SegmentOutcome(segment, "spoken", samples, seed=segment)


def entries(db: redis.Redis) -> list[Entry]:
    return [stream.decode(fields) for _, fields in db.xrange(keys.audio(JOB))]


def marks(db: redis.Redis) -> list[Mark]:
    return [entry for entry in entries(db) if isinstance(entry, Mark)]


def assert_queue_is_deleted(db: redis.Redis) -> None:
    for key in (keys.pool(JOB), keys.unspoken(JOB), keys.results(JOB), keys.narrating("tone")):
        assert not db.exists(key), key


# A chapter from start to end


def test_a_chapter_is_spoken_by_the_segment_threads_and_marked_in_order(
    db: redis.Redis, narration: Narration, spec: ChapterSpec, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start_threads(narration)
    summary = narration.narrate(spec)
    begin, *between, end = entries(db)
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    plan = plan_chapter(spec, ToneEngine(), "")
    pos = 0
    for mark, segment, key in zip(between, plan.segments, plan.keys, strict=True):
        assert isinstance(mark, Mark)
        pcm = sine(segment, RATE)
        assert (mark.segment, mark.start, mark.end) == (segment.index, segment.start, segment.end)
        assert (mark.pos, mark.end_pos) == (pos, pos + len(pcm) + PAUSE)
        assert (mark.key, mark.seed, mark.tries, mark.fault, mark.reused) == (key, segment.seed, 1, "", False)
        assert np.array_equal(store.read(key), pcm)
        pos = mark.end_pos
    assert (end.pos, end.segments, end.faults) == (pos, len(TEXTS), 0)
    assert summary == {"state": "ended", "duration_s": pos / RATE, "segments": len(TEXTS)}
    assert narration.segments_done == len(TEXTS)
    assert_queue_is_deleted(db)
    (line,) = [message for message in caplog.messages if message.startswith("chapter.end ")]
    assert line.endswith("segments=5 spoken=5 found=0 engine=0 poison=0 faults=0")


def test_the_time_limit_of_a_chapter_runs_only_while_a_segment_has_a_row(
    narration: Narration, spec: ChapterSpec
) -> None:
    now_s = 1000.0
    token = CancelToken(10.0, lambda: now_s)
    running = narration.start(spec, token)
    until(lambda: token.remaining_s == math.inf, "the chapter to wait for rows")
    now_s += 3600
    narration.process.engine.gate.clear()
    narration.process.start()
    until(lambda: token.remaining_s == 10.0, "a segment to get a row")
    now_s += 1
    narration.process.engine.gate.set()
    assert running.result(LIMIT_S)["state"] == "ended"
    assert token.remaining_s == pytest.approx(9.0)


def test_a_chapter_without_anything_to_say_ends_at_once(db: redis.Redis, narration: Narration, store: Store) -> None:
    assert narration.narrate(chapter_of(JOB, ["***"], store.id)) == {"state": "ended", "duration_s": 0.0, "segments": 0}
    assert [type(entry) for entry in entries(db)] == [Begin, End]


def test_marks_are_in_the_order_of_the_text_for_any_order_of_the_results(
    db: redis.Redis, narration: Narration, spec: ChapterSpec
) -> None:
    running = narration.start(spec)
    queue = queue_of(db, spec)
    for segment in (3, 1, 0, 4):
        queue.end(spoken(segment, 1000 + segment), "me")
    until(lambda: len(marks(db)) == 2, "the marks before the segment that is missing")
    queue.end(spoken(2, 1002), "me")
    running.result(LIMIT_S)
    found = marks(db)
    assert [mark.segment for mark in found] == [0, 1, 2, 3, 4]
    assert [mark.end_pos - mark.pos for mark in found] == [1000 + number + PAUSE for number in range(5)]


def test_an_outcome_of_a_segment_thread_of_this_process_is_not_waited_for_until_the_next_poll(
    db: redis.Redis, narration: Narration, spec: ChapterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chapter_job, "RESULTS_POLL_S", 60.0)
    start_threads(narration)
    assert narration.start(spec).result(LIMIT_S)["segments"] == len(TEXTS)
    assert len(marks(db)) == len(TEXTS)


def test_a_text_that_is_repeated_is_spoken_once_and_its_later_marks_reuse_the_audio(
    db: redis.Redis, narration: Narration, store: Store
) -> None:
    start_threads(narration)
    narration.narrate(chapter_of(JOB, ["Yes.", "No.", "Yes."], store.id))
    assert sorted(narration.process.engine.spoken_texts) == ["No.", "Yes."]
    first, _, again = marks(db)
    assert first.key == again.key
    assert [mark.reused for mark in marks(db)] == [False, False, True]


def test_segments_that_the_store_has_are_not_offered_and_their_marks_reuse_the_audio(
    db: redis.Redis, narration: Narration, spec: ChapterSpec, store: Store
) -> None:
    start_threads(narration)
    narration.narrate(chapter_of(JOB, TEXTS[1:3], store.id))
    db.flushall()
    admitted = len(narration.process.engine.admitted)
    narration.narrate(spec)
    assert sorted(narration.process.engine.spoken_texts[admitted:]) == [TEXTS[0], *TEXTS[3:]]
    assert [mark.reused for mark in marks(db)] == [False, True, True, False, False]


def test_faults_are_in_the_marks_and_counted(
    db: redis.Redis, narration: Narration, spec: ChapterSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    running = narration.start(spec)
    queue = queue_of(db, spec)
    outcomes = [
        spoken(0), SegmentOutcome(1, "spoken", 500, 7, 3, "level"), SegmentOutcome(2, "engine", seed=3, tries=2),
        SegmentOutcome(3, "poison"), SegmentOutcome(4, "found", 400, 8, 1),
    ]  # fmt: skip
    for outcome in outcomes:
        queue.end(outcome, "me")
    running.result(LIMIT_S)
    found = marks(db)
    assert [mark.fault for mark in found] == ["", "level", "engine", "poison", ""]
    assert [bool(mark.key) for mark in found] == [True, True, False, False, True], "no audio, no key"
    assert [mark.end_pos - mark.pos - PAUSE for mark in found] == [1000, 500, 0, 0, 400]
    assert [(mark.seed, mark.tries) for mark in found[1:3]] == [(7, 3), (3, 2)]
    (line,) = [message for message in caplog.messages if message.startswith("chapter.end ")]
    assert line.endswith("spoken=2 found=1 engine=1 poison=1 faults=3")
    end = entries(db)[-1]
    assert isinstance(end, End)
    assert end.faults == 3


def test_an_outcome_that_ends_the_chapter_is_in_its_stream_and_nothing_more_is_spoken(
    db: redis.Redis, narration: Narration, spec: ChapterSpec
) -> None:
    running = narration.start(spec)
    queue = queue_of(db, spec)
    queue.end(spoken(0), "me")
    queue.end(SegmentOutcome(1, "store", fault="the segment store failed (no space)"), "me")
    with pytest.raises(SpeechGivenUpError, match="segment store failed"):
        running.result(LIMIT_S)
    *_, mark, failed = entries(db)
    assert isinstance(mark, Mark)
    assert failed == Failed(mark.end_pos, "store", "the segment store failed (no space)", retryable=False)
    assert_queue_is_deleted(db)


# Ending early, and the next run


@pytest.mark.parametrize(
    ("reason", "last", "is_deleted"),
    [(Reason.CANCELLED, Cancelled, True), (Reason.TIMED_OUT, Failed, True), (Reason.HANDED_BACK, Mark, False)],
)
def test_a_chapter_that_ends_early_drops_its_segments_and_keeps_its_queue_only_for_another_run(
    db: redis.Redis, narration: Narration, spec: ChapterSpec, reason: Reason, last: type, *, is_deleted: bool
) -> None:
    narration.process.start()
    token = CancelToken(LIMIT_S)
    running = narration.start(spec, token)
    until(lambda: len(narration.process.engine.admitted) == len(TEXTS), "all segments to be spoken")
    queue_of(db, spec).end(spoken(0), holder_of(db, 0))
    until(lambda: marks(db), "the first mark")
    token.end(reason)
    with pytest.raises(EndedEarlyError):
        running.result(LIMIT_S)
    until(lambda: not narration.process.workers.busy, "the segment threads to drop the chapter")
    assert type(entries(db)[-1]) is last
    if is_deleted:
        assert_queue_is_deleted(db)
    else:
        assert unclaimed_segments(db, JOB) == [1, 2, 3, 4]


def test_the_next_run_continues_after_the_last_mark_and_uses_the_results_of_the_first(
    db: redis.Redis, narration: Narration, spec: ChapterSpec
) -> None:
    token = CancelToken(LIMIT_S)
    first = narration.start(spec, token)
    queue = queue_of(db, spec)
    for segment in (0, 1, 3):
        queue.end(spoken(segment), "me")
    until(lambda: len(marks(db)) == 2, "two marks")
    token.end(Reason.HANDED_BACK)
    with pytest.raises(EndedEarlyError):
        first.result(LIMIT_S)
    db.hdel(keys.control(JOB), "holder", "lease_until")  # as when the job is put back into its queue
    start_threads(narration)
    narration.narrate(spec)
    assert [mark.segment for mark in marks(db)] == [0, 1, 2, 3, 4]
    assert sorted(narration.process.engine.spoken_texts) == [TEXTS[2], TEXTS[4]]
    assert sum(isinstance(entry, Begin) for entry in entries(db)) == 2


def test_a_queue_that_redis_lost_is_offered_again_without_the_segments_that_are_known(
    db: redis.Redis,
    narration: Narration,
    spec: ChapterSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(chapter_job, "ANNOUNCE_S", 0.0)
    running = narration.start(spec)
    queue = queue_of(db, spec)
    for segment in (0, 1, 3):
        queue.end(spoken(segment), "me")
    until(lambda: len(marks(db)) == 2, "two marks")
    db.delete(keys.pool(JOB), keys.unspoken(JOB), keys.results(JOB), keys.narrating("tone"))
    until(lambda: unclaimed_segments(db, JOB) == [2, 4], "the rest to be offered again")
    assert "segment_queue.lost job=chapter" in caplog.messages
    for segment in (2, 4):
        queue.end(spoken(segment), "me")
    running.result(LIMIT_S)
    assert [mark.segment for mark in marks(db)] == [0, 1, 2, 3, 4]


# The store


def card(db: redis.Redis, store_id: str, *, engine: str = "tone", queues: str = QUEUE) -> None:
    """Write the card of another live worker."""
    db.sadd(keys.WORKERS, "another-worker")
    facts: dict[Any, Any] = {
        "engine": engine, "model": "m", "device": "cpu", "sample_rate": RATE, "voices": "{}", "queues": queues,
        "jobs": 1, "running": 0, "rows": 8, "rows_in_use": 0, "host": "h", "pid": 1, "store": store_id,
    }  # fmt: skip
    db.hset(keys.worker("another-worker"), mapping=facts)


def test_a_chapter_whose_store_another_live_worker_has_is_left_to_it(db: redis.Redis, narration: Narration) -> None:
    card(db, "f" * 32)
    with pytest.raises(NeedsOtherWorkerError, match="another worker has it"):
        narration.narrate(chapter_of(JOB, TEXTS, "f" * 32))
    assert entries(db) == [], "the other worker begins the stream"


@pytest.mark.parametrize(
    "other",
    [{"store_id": "e" * 32}, {"store_id": "f" * 32, "engine": "piper"}, {"store_id": "f" * 32, "queues": ""}],
    ids=["another-store", "another-engine", "stopping"],
)
def test_a_chapter_whose_store_no_worker_has_fails_with_the_setting_to_correct(
    db: redis.Redis, narration: Narration, other: dict[str, str]
) -> None:
    card(db, **other)
    with pytest.raises(SpeechGivenUpError, match=r"no worker of tone has it.*VOXSPOOL_STORE") as failed:
        narration.narrate(chapter_of(JOB, TEXTS, "f" * 32))
    assert failed.value.code == "store"
    assert isinstance(entries(db)[-1], Failed)


def test_a_worker_whose_own_store_cannot_be_opened_leaves_a_chapter_to_others(
    db: redis.Redis, process: NarrationProcess, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    handle = StoreHandle(tmp_path / "file" / "store")
    handle.start()
    card(db, store.id)
    with pytest.raises(NeedsOtherWorkerError):
        Narration(db, process, handle).narrate(chapter_of(JOB, TEXTS, store.id))
    handle.stop()


# Opening the results


class SlowStore(Store):
    """A store whose checks wait until the test ends."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.checking = threading.Event()
        self.go_on = threading.Event()

    def check(self, key: str) -> Any:  # noqa: ANN401 - as in Store
        self.checking.set()
        self.go_on.wait(30)
        return super().check(key)


@pytest.fixture
def new_results(db: redis.Redis, narration: Narration, spec: ChapterSpec) -> Callable[..., SegmentResults]:
    """Make the results of a chapter whose job has not begun, for a store and a token."""

    def new(store: Store, token: CancelToken) -> SegmentResults:
        job: JobRun = narration.pipeline.prepare(spec.speech, narration.run(), token)
        plan = plan_chapter(spec, ToneEngine(), job.run.id)
        return SegmentResults(RunningChapter(JOB, plan, queue_of(db, spec)), store, job)

    return new


class CountingStore(Store):
    """A store that records the keys that it checks."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.asked: list[str] = []

    def check(self, key: str) -> Any:  # noqa: ANN401 - as in Store
        self.asked.append(key)
        return super().check(key)


def test_the_store_is_checked_once_for_each_key_without_a_known_outcome(
    db: redis.Redis, new_results: Callable[..., SegmentResults], spec: ChapterSpec, tmp_path: Path
) -> None:
    counting = CountingStore(tmp_path / "store")
    results = new_results(counting, CancelToken(LIMIT_S))
    plan = plan_chapter(spec, ToneEngine(), "")
    assert results.open([*plan.segments, plan.segments[0]]) == len(TEXTS)
    assert sorted(counting.asked) == sorted(plan.keys)
    queue_of(db, spec).end(spoken(1), holder_of(db, 1))
    counting.asked.clear()
    assert results.open(plan.segments[1:3]) == 1
    assert counting.asked == [plan.keys[2]]


def test_a_job_that_must_end_does_not_wait_for_a_slow_store(
    new_results: Callable[..., SegmentResults], spec: ChapterSpec, tmp_path: Path
) -> None:
    slow, token = SlowStore(tmp_path / "store"), CancelToken(LIMIT_S)
    results = new_results(slow, token)
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(results.open, plan_chapter(spec, ToneEngine(), "").segments)
        assert slow.checking.wait(30)
        token.end(Reason.CANCELLED)
        with pytest.raises(EndedEarlyError):
            opening.result(LIMIT_S)
    assert not slow.go_on.is_set()
    slow.go_on.set()


def test_segments_are_offered_as_soon_as_a_full_redis_has_room(
    db: redis.Redis,
    new_results: Callable[..., SegmentResults],
    spec: ChapterSpec,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    waits: list[float] = []

    class Freeing(CancelToken):
        """Removes the memory limit of Redis at the third wait."""

        def stand_still(self, wait_s: float) -> None:
            waits.append(wait_s)
            if len(waits) == 3:
                db.config_set("maxmemory", 0)

    results = new_results(store, Freeing(LIMIT_S))
    db.config_set("maxmemory", 1)
    assert results.open(plan_chapter(spec, ToneEngine(), "").segments) == len(TEXTS)
    assert waits == [0.001, 0.002, 0.004]
    assert unclaimed_segments(db, JOB) == [0, 1, 2, 3, 4]
    assert held_segments(db, JOB) == []
