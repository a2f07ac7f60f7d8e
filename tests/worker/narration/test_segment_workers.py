"""The threads that claim and speak segments: when they claim, and which segments they keep or give back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes import until
from tests.support.proxy import Proxy, script
from tests.support.segments import (
    ANY_TIME,
    ControlledTone,
    NarrationProcess,
    chapter_of,
    expire_leases,
    held_segments,
    start_chapter,
    unclaimed_segments,
)
from voxspool.connections import connection
from voxspool.protocol import keys
from voxspool_worker.engines.base import SegmentError
from voxspool_worker.engines.tone import sine
from voxspool_worker.narration import segment_workers
from voxspool_worker.narration.running_chapters import RunningChapter
from voxspool_worker.narration.segment_queue import (
    LEASE_S,
    SegmentClaim,
    SegmentOutcome,
    SegmentQueue,
    SegmentScripts,
)
from voxspool_worker.narration.store_handle import StoreHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer
    from voxspool.store.segments import Store
    from voxspool_worker.engines.base import SpeechSegment

TEXTS = [f"Sentence {number}." for number in range(12)]
THREADS = 7
"""Segment threads of an engine with 8 rows: 6 rows for batch work, and one whose segment waits."""

pytestmark = pytest.mark.usefixtures("short_intervals")


def results(chapter: RunningChapter) -> list[SegmentOutcome]:
    return sorted(chapter.segment_queue.results(0))


def has_results(chapter: RunningChapter, count: int) -> Callable[[], bool]:
    return lambda: len(results(chapter)) == count


def holds(db: redis.Redis, job: str, *segments: int) -> Callable[[], bool]:
    return lambda: held_segments(db, job) == list(segments)


def deaths(db: redis.Redis, job: str) -> dict[bytes, bytes]:
    """Return the number of deaths that are counted for each segment of a chapter."""
    return {name: count for name, count in db.hgetall(keys.pool(job)).items() if name.startswith(b"deaths")}


def segment_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("segment-")}


# What is claimed


def test_a_chapter_is_spoken_to_its_end_and_each_outcome_is_reported(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
    reported: list[bool] = []
    chapter.on_segment = lambda: reported.append(True)
    process.engine.gate.set()
    process.start().serve(chapter)
    until(lambda: len(reported) == len(TEXTS), "all outcomes")
    assert [outcome.segment for outcome in results(chapter)] == list(range(len(TEXTS)))
    for segment, key in zip(chapter.plan.segments, chapter.plan.keys, strict=True):
        assert np.array_equal(store.read(key), sine(segment, ControlledTone.sample_rate))
    assert sorted(process.engine.spoken_texts) == sorted(TEXTS)
    until(lambda: not process.workers.busy, "the threads to be idle")


def test_the_own_chapter_comes_first_and_then_the_oldest_of_the_others(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    for began, job in ((20, "young"), (10, "old")):
        spec = chapter_of(job, TEXTS[:3], store.id)
        process.arguments[job] = spec.encode()
        start_chapter(db, spec, begun=began)
    process.workers.serve(start_chapter(db, chapter_of("own", TEXTS[:3], store.id), begun=30))
    process.start()
    until(lambda: len(process.engine.admitted) == THREADS - 1, "all rows of batch work to be used")
    until(holds(db, "young", 0), "the last thread to have a segment")
    assert held_segments(db, "own") == held_segments(db, "old") == [0, 1, 2]
    assert Counter(process.engine.spoken_texts) == Counter(TEXTS[:3] * 2)


def test_a_chapter_whose_segments_are_all_held_leaves_the_other_threads_to_the_next(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    first = start_chapter(db, chapter_of("first", TEXTS[:1], store.id))
    second = start_chapter(db, chapter_of("second", TEXTS, store.id))
    for chapter in (first, second):
        process.workers.serve(chapter)
    process.start()
    until(holds(db, "second", *range(THREADS - 1)), "the other threads to take the second chapter")
    assert held_segments(db, "first") == [0]


def test_two_processes_share_a_chapter_and_no_segment_is_spoken_twice(
    db: redis.Redis, new_process: Callable[..., NarrationProcess], store: Store
) -> None:
    spec = chapter_of("shared", TEXTS, store.id)
    chapter = start_chapter(db, spec)
    owner, helper = new_process("owner"), new_process("helper")
    helper.arguments["shared"] = spec.encode()
    for process in (owner, helper):
        process.engine.gate.clear()
    owner.workers.serve(chapter)
    owner.start()
    helper.start()
    until(holds(db, "shared", *range(len(TEXTS))), "every segment to be held")
    for process in (owner, helper):
        process.engine.gate.set()
    until(has_results(chapter, len(TEXTS)), "all outcomes")
    assert Counter(owner.engine.spoken_texts + helper.engine.spoken_texts) == Counter(TEXTS)
    assert helper.engine.admitted
    assert owner.engine.admitted


def test_a_chapter_that_is_planned_differently_here_is_left_to_its_owner(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    start_chapter(db, chapter_of("other", TEXTS, store.id), begun=1)
    process.arguments["other"] = chapter_of("other", TEXTS[:3], store.id).encode()
    spec = chapter_of("next", TEXTS[:2], store.id)
    process.arguments["next"] = spec.encode()
    start_chapter(db, spec, begun=2)
    process.start()
    until(holds(db, "next", 0, 1), "the next chapter to be claimed")
    assert held_segments(db, "other") == []


def test_a_cancelled_chapter_gives_no_segment(db: redis.Redis, process: NarrationProcess, store: Store) -> None:
    cancelled = start_chapter(db, chapter_of("cancelled", TEXTS, store.id))
    db.hset(keys.control("cancelled"), "cancel", "a-user")
    process.workers.serve(cancelled)
    process.workers.serve(start_chapter(db, chapter_of("next", TEXTS[:1], store.id)))
    process.start()
    until(holds(db, "next", 0), "the next chapter to be claimed")
    assert held_segments(db, "cancelled") == []


def test_nothing_is_claimed_before_the_store_is_open(
    db: redis.Redis, store: Store, new_process: Callable[..., NarrationProcess], tmp_path: Path
) -> None:
    process = new_process()
    closed = StoreHandle(tmp_path / "store")
    process.workers._store_handle = closed
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:2], store.id))
    process.start().serve(chapter)
    until(lambda: process.workers._claim() is None, "a look at the queue")
    assert unclaimed_segments(db, "chapter") == [0, 1]
    closed.start()
    until(has_results(chapter, 2), "the chapter to be spoken")


# Segments in which a worker died


def test_a_segment_in_which_a_worker_died_is_spoken_alone(
    db: redis.Redis, process: NarrationProcess, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
    chapter.segment_queue.claim("a-dead-worker", expired_by=ANY_TIME, alone=True)
    expire_leases(db, "chapter", 0)
    process.start().serve(chapter)
    until(lambda: process.engine.spoken_texts == TEXTS[:1], "the suspect to be spoken")
    for _ in range(10):
        assert process.workers._claim() is None
    assert held_segments(db, "chapter") == [0]
    assert "segment.quarantined job=chapter segment=0 deaths=1" in caplog.messages
    process.engine.gate.set()
    until(has_results(chapter, len(TEXTS)), "the rest to be spoken")
    assert [outcome.kind for outcome in results(chapter)] == ["spoken"] * len(TEXTS)


def test_while_other_segments_are_held_a_suspect_waits_and_nothing_else_is_claimed(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    first = start_chapter(db, chapter_of("first", TEXTS[:2], store.id))
    process.start().serve(first)
    until(holds(db, "first", 0, 1), "the first chapter to be held")
    second = start_chapter(db, chapter_of("second", TEXTS[:4], store.id))
    second.segment_queue.claim("a-dead-worker", expired_by=ANY_TIME, alone=True)
    expire_leases(db, "second", 0)
    third = start_chapter(db, chapter_of("third", TEXTS[:4], store.id))
    process.workers.serve(second)
    process.workers.serve(third)
    for _ in range(10):
        assert process.workers._claim() is None
    assert unclaimed_segments(db, "second") == [1, 2, 3]
    assert unclaimed_segments(db, "third") == [0, 1, 2, 3]
    process.engine.gate.set()
    until(has_results(third, 4), "all chapters to be spoken")


def test_a_lease_that_expired_while_redis_was_unreachable_is_not_counted_as_a_death(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:3], store.id))
    chapter.segment_queue.claim("another-worker", expired_by=ANY_TIME, alone=True)
    expire_leases(db, "chapter", 0)
    process.redis_is_new = True
    process.start().serve(chapter)
    until(lambda: len(process.engine.admitted) == 2, "the other segments to be spoken")
    assert held_segments(db, "chapter") == [0, 1, 2]
    assert deaths(db, "chapter") == {}


# Leases


def test_the_leases_of_held_segments_are_renewed(db: redis.Redis, process: NarrationProcess, store: Store) -> None:
    chapters = [start_chapter(db, chapter_of(job, TEXTS[:2], store.id)) for job in ("one", "two")]
    for chapter in chapters:
        process.workers.serve(chapter)
    process.start()
    for job in ("one", "two"):
        until(holds(db, job, 0, 1), "both chapters to be held")
        db.zadd(keys.unspoken(job), {"000000": 1e15}, xx=True)  # so that it never expires
        until(lambda job=job: db.zscore(keys.unspoken(job), "000000") < 1e15, "a renewal")
        assert db.zscore(keys.unspoken(job), "000000") / 1000 == pytest.approx(db.time()[0] + LEASE_S, abs=5)


def steal(db: redis.Redis, chapter: RunningChapter, segment: int) -> None:
    """Lease a segment to another worker, as happens after its lease has run out."""
    db.hset(keys.pool(chapter.job), f"holder {segment:06d}", "another-worker")


def test_a_segment_that_another_worker_holds_by_now_is_dropped_while_it_is_spoken(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:2], store.id))
    process.start().serve(chapter)
    until(lambda: len(process.engine.admitted) == 2, "both segments to be spoken")
    steal(db, chapter, 0)
    until(lambda: len(process.engine._rows) == 1, "the lost segment's row to be free")
    assert held_segments(db, "chapter") == [0, 1], "the other worker's lease stands"
    process.engine.gate.set()
    until(has_results(chapter, 1), "the other segment's outcome")
    until(lambda: not process.workers.busy, "the threads to be idle")
    assert [outcome.segment for outcome in results(chapter)] == [1]
    assert store.find(chapter.plan.keys[0]) is None, "nothing of the lost segment was stored"


def test_a_segment_that_another_worker_ended_first_is_stored_once_and_has_its_outcome(
    db: redis.Redis, process: NarrationProcess, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(segment_workers, "RENEW_S", 3600.0)  # so the loss is not noticed meanwhile
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id))
    (segment,), (key,) = chapter.plan.segments, chapter.plan.keys
    process.start().serve(chapter)
    until(lambda: process.engine.admitted, "the segment to be spoken")
    steal(db, chapter, 0)
    pcm = sine(segment, ControlledTone.sample_rate)
    store.write(
        pcm, key=key, sample_rate=24_000, engine="tone", model="sine-1", voice="sine", language="en", seed=77, tries=2,
        fault="", elapsed_s=0.1, level_dbfs=-15.0, peak_dbfs=-12.0, silent_share=0.0, worker="another-worker",
    )  # fmt: skip
    theirs = SegmentOutcome(0, "spoken", len(pcm), 77, 2)
    assert chapter.segment_queue.end(theirs, "another-worker")
    process.engine.gate.set()
    until(lambda: not process.workers.busy, "the segment to end here too")
    assert results(chapter) == [theirs], "the later outcome was refused"
    found = store.find(key)
    assert found
    assert (found.worker, found.seed) == ("another-worker", 77)
    assert len(list(tmp_path.glob("store/*/*.json"))) == 1


# Lost replies


@pytest.fixture
def proxy(shared_redis_server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(shared_redis_server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("retries", [0, 3], ids=["claimed again later", "sent again at once"])
def test_claims_and_outcomes_whose_replies_are_lost_count_no_death_and_leave_no_segment(
    db: redis.Redis, store: Store, store_handle: StoreHandle, proxy: Proxy, retries: int
) -> None:
    rules = [
        proxy.at(script(name), answered=True, nth=nth) for name in ("claim_segment", "end_segment") for nth in (1, 2, 4)
    ]
    with contextlib.closing(connection.connect(proxy.url, retries=retries)) as client:
        process = NarrationProcess(client, store_handle, "a-worker")
        chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
        process.start().serve(RunningChapter("chapter", chapter.plan, queue_over(client, chapter)))
        try:
            until(lambda: all(rule.done.is_set() for rule in rules), "all replies to be lost")
            until(has_results(chapter, len(TEXTS)), "all outcomes")
        finally:
            process.stop()
    assert {outcome.kind for outcome in results(chapter)} == {"spoken"}
    assert deaths(db, "chapter") == {}


def queue_over(client: redis.Redis, chapter: RunningChapter) -> SegmentQueue:
    """Return the queue of a chapter over another connection."""
    return SegmentQueue(SegmentScripts(client), chapter.job, "tone", chapter.plan.digest)


def test_the_segment_of_a_claim_without_a_reply_is_given_back_at_the_end(
    db: redis.Redis, store: Store, store_handle: StoreHandle, proxy: Proxy
) -> None:
    lost = proxy.at(script("claim_segment"), answered=True, act=lambda: setattr(proxy, "refusing", True))
    with contextlib.closing(connection.connect(proxy.url, retries=0)) as client:
        process = NarrationProcess(client, store_handle, "a-worker")
        chapter = start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id))
        process.start().serve(RunningChapter("chapter", chapter.plan, queue_over(client, chapter)))
        until(lost.done.is_set, "the reply to be lost")
        assert held_segments(db, "chapter") == [0]
        process.workers.close()
        proxy.refusing = False
        process.workers.give_back(time.monotonic() + 5)
        until(lambda: unclaimed_segments(db, "chapter") == [0], "the segment to be given back")
        process.stop()


# Errors


def test_a_segment_that_the_engine_cannot_speak_has_an_outcome_and_the_others_continue(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    def fail(segment: SpeechSegment) -> None:
        if segment.text == TEXTS[1]:
            raise SegmentError(segment, "no token came out")

    process.engine.before_step = fail
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:3], store.id))
    process.engine.gate.set()
    process.start().serve(chapter)
    until(has_results(chapter, 3), "all outcomes")
    assert [outcome.kind for outcome in results(chapter)] == ["spoken", "engine", "spoken"]


def test_an_error_of_redis_while_claiming_is_logged_and_the_threads_continue(
    db: redis.Redis, process: NarrationProcess, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    db.set(keys.narrating("tone"), "not a sorted set")
    process.start()
    until(lambda: any(text.startswith("redis.away job=- error=WRONGTYPE") for text in caplog.messages), "a log line")
    db.delete(keys.narrating("tone"))
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id))
    process.workers.serve(chapter)
    process.engine.gate.set()
    until(has_results(chapter, 1), "the chapter to be spoken")


def test_an_unexpected_error_is_logged_with_its_segment_and_the_thread_continues(
    db: redis.Redis, process: NarrationProcess, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake of ours")

    process.engine.gate.set()
    chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
    chapter.on_segment = fail
    process.start().serve(chapter)
    until(has_results(chapter, len(TEXTS)), "all outcomes, from threads that failed before")
    assert "segment.error job=chapter segment=0" in caplog.messages


def test_a_segment_of_an_engine_that_broke_is_not_given_back_so_that_its_lease_counts_as_a_death(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    before = segment_threads()
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id))
    process.start().serve(chapter)
    until(lambda: process.engine.admitted, "the segment to be spoken")
    process.scheduler.give_up("the device is gone")
    until(lambda: not process.workers.busy, "the segment to end")
    assert len(segment_threads() - before) == THREADS, "its thread has ended; the others and that of the leases live"
    assert held_segments(db, "chapter") == [0]
    assert results(chapter) == []


# Ending


def test_a_process_that_closes_while_busy_speaks_what_it_holds_and_claims_nothing_more(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
    process.start().serve(chapter)
    until(holds(db, "chapter", *range(THREADS)), "all threads to be busy")
    process.workers.close()
    assert process.workers.busy
    process.engine.gate.set()
    until(lambda: not process.workers.busy, "the segments in hand to be spoken")
    assert [outcome.segment for outcome in results(chapter)] == list(range(THREADS))
    assert unclaimed_segments(db, "chapter") == list(range(THREADS, len(TEXTS)))


def test_segments_that_are_given_back_are_free_at_once_and_no_death_is_counted(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS, store.id))
    process.start().serve(chapter)
    until(holds(db, "chapter", *range(THREADS)), "all threads to be busy")
    process.workers.give_back(time.monotonic() + 30)
    assert not process.workers.busy
    assert unclaimed_segments(db, "chapter") == list(range(len(TEXTS)))
    assert chapter.segment_queue.claim("another-worker", expired_by=ANY_TIME, alone=False) == SegmentClaim(0, 0)
    assert results(chapter) == []


def test_giving_back_waits_no_longer_than_its_limit(db: redis.Redis, process: NarrationProcess, store: Store) -> None:
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id))
    may_end = threading.Event()

    def hang() -> None:
        may_end.wait(30)

    chapter.on_segment = hang
    process.engine.gate.set()
    process.start().serve(chapter)
    until(has_results(chapter, 1), "the thread to hang after its segment")
    process.workers.give_back(time.monotonic() + 0.01)
    assert process.workers.busy
    may_end.set()


def test_a_segment_whose_thread_hangs_is_given_back_for_it(
    db: redis.Redis, process: NarrationProcess, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(process.engine, "prepare", lambda _: may_end.wait(30))
    process.start().serve(start_chapter(db, chapter_of("chapter", TEXTS[:1], store.id)))
    until(lambda: process.workers.busy, "the segment to be held")
    process.workers.give_back(time.monotonic())
    assert process.workers.busy
    assert unclaimed_segments(db, "chapter") == [0]
    may_end.set()


def test_the_segments_of_a_left_chapter_are_dropped_and_other_chapters_continue(
    db: redis.Redis, process: NarrationProcess, store: Store
) -> None:
    left = start_chapter(db, chapter_of("left", TEXTS[:3], store.id))
    kept = start_chapter(db, chapter_of("kept", TEXTS[:3], store.id))
    db.delete(keys.narrating("tone"))
    process.start().serve(left)
    process.workers.serve(kept)
    until(lambda: len(process.engine.admitted) == 6, "both chapters to be spoken")
    process.workers.leave(left)
    until(lambda: unclaimed_segments(db, "left") == [0, 1, 2], "its segments to be free")
    assert held_segments(db, "kept") == [0, 1, 2]
    process.engine.gate.set()
    until(has_results(kept, 3), "the other chapter to be spoken")
    assert len(process.engine.admitted) == 6, "no segment of it was begun again"
    assert results(left) == []


def test_a_process_that_stops_ends_all_its_threads(db: redis.Redis, process: NarrationProcess, store: Store) -> None:
    before = segment_threads()
    chapter = start_chapter(db, chapter_of("chapter", TEXTS[:2], store.id))
    process.start().serve(chapter)
    until(holds(db, "chapter", 0, 1), "two threads to be busy and five to wait")
    started = segment_threads() - before
    assert len(started) == THREADS + 1, "one more renews the leases"
    process.workers.stop()
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(("rows", "threads"), [(1, 2), (3, 4), (4, 4), (8, 7)])
def test_there_is_one_more_thread_than_rows_for_batch_work(
    new_process: Callable[..., NarrationProcess], rows: int, threads: int
) -> None:
    before = segment_threads()
    new_process(rows=rows).start()
    assert len(segment_threads() - before) == threads + 1, "one more renews the leases"
