"""Every script is sent twice, as redis-py does if a reply was lost: the outcome is that of one call."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rq.job import JobStatus

from tests.support.processes import until
from tests.support.queued_jobs import QUEUE, claim, deaths, enqueue, expire_lease, fetch, put, waiting
from tests.support.segments import ANY_TIME, NarrationProcess, chapter_of, start_chapter
from voxspool import Client
from voxspool.protocol import keys
from voxspool.protocol.jobs import queue_name
from voxspool.protocol.stream import Audio, Begin, End, Mark
from voxspool.queue import ending
from voxspool.store.segments import Store
from voxspool_worker.narration.running_chapters import RunningChapter
from voxspool_worker.narration.segment_queue import SegmentQueue, SegmentScripts
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.queue.open_streams import OpenStreams
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import RqRecords, Why
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import RedisServer

BEGIN = Begin(0, 24_000, "tone", "m", "v", "en", 0)
SAMPLES = b"\0\0" * 100


class Twice(redis.Redis):
    """A client that sends each script twice and returns the second reply."""

    def evalsha(self, *args: Any) -> Any:  # type: ignore[override]  # noqa: ANN401 - redis-py's
        super().evalsha(*args)
        return super().evalsha(*args)


@pytest.fixture
def twice(db: redis.Redis, shared_redis_server: RedisServer) -> Iterator[Twice]:
    del db  # it has emptied the server
    with contextlib.closing(Twice(port=shared_redis_server.port, encoding_errors="surrogateescape")) as client:
        yield client


@pytest.fixture
def records(db: redis.Redis, twice: Twice) -> RqRecords:
    """The records of a worker; the one script that a worker never sends again, which claims a job, is sent once."""
    return RqRecords(lambda **options: db if options else twice, "a-worker")


def test_a_speech_is_published_and_recorded_once(db: redis.Redis, twice: Twice, records: RqRecords) -> None:
    enqueue(db, "a-job")
    one = claim(records)
    publisher = Publisher(Scripts(twice), one.run, 60)
    assert publisher.begin(BEGIN, {}).attempt == 1
    publisher.publish(Audio(0, SAMPLES))
    publisher.publish(Mark(0, 100, 0, 0, 6, 1))
    assert records.renew_lease(one.run) == "ok"
    publisher.publish(End(100, 100 / 24_000, 1, first_chunk_s=None, real_time_factor=None))
    assert records.finish(one.run, one.job, JobStatus.FINISHED, {}) == "done"
    assert [entry for entry, _ in db.xrange(keys.audio("a-job"))] == [b"1-1", b"1-2", b"1-3", b"1-4"]
    assert (db.xlen("rq:results:a-job"), db.zcard(keys.OPEN)) == (1, 0)
    assert db.zrange(f"rq:finished:{QUEUE}", 0, -1) == [b"a-job"]


@pytest.mark.parametrize(("why", "count"), [(Why.EXPIRED, 1), (Why.BROKEN, 1), (Why.RETURNED, 0)])
def test_a_job_is_put_back_once_and_one_death_is_counted(
    db: redis.Redis, records: RqRecords, why: Why, count: int
) -> None:
    enqueue(db, "a-job")
    run = claim(records).run
    expire_lease(db, run)
    records.requeue(run, why, expired_by=db.time()[0])
    assert (waiting(db), deaths(db, "a-job")) == (["a-job"], count)


def test_a_job_moves_once(db: redis.Redis, twice: Twice) -> None:
    queue, to = queue_name("xtts", "batch"), queue_name("auto", "batch")
    put(db, queue, "a-job")
    RqQueues(twice).move("a-job", queue, to)
    assert (waiting(db, queue), waiting(db, to)) == ([], ["a-job"])


def test_a_stream_that_rq_lost_is_closed_once_and_a_job_that_lost_its_lease_is_put_back_once(
    db: redis.Redis, twice: Twice, records: RqRecords
) -> None:
    for job in ("lost", "started"):
        enqueue(db, job)
        Publisher(Scripts(db), claim(records, f"run-of-{job}").run, 60).begin(BEGIN, {})
        db.hset(keys.control(job), "lease_until", 1)
    fetch(db, "lost").delete()
    db.delete(f"rq:wip:{QUEUE}")
    for job in ("lost", "started"):
        OpenStreams(twice).settle(job, ANY_TIME / 2000)
    assert [entry for entry, _ in db.xrange(keys.audio("lost"))] == [b"1-1", b"2-1"]
    assert waiting(db) == ["started"]


def test_a_producer_enqueues_and_cancels_once(db: redis.Redis, shared_redis_server: RedisServer) -> None:
    with Client(redis=lambda: Twice(port=shared_redis_server.port)) as client:
        placed = client.enqueue("Hello.", id="a-job", engine="tone")
        assert waiting(db, queue_name("tone", "interactive")) == ["a-job"]
        assert placed.cancel("kim") == "cancelled"
    assert db.xlen(keys.audio("a-job")) == 1
    assert waiting(db, queue_name("tone", "interactive")) == []
    assert ending.cancel(db, "a-job", "kim", 60) == "cancelled"


def test_each_segment_of_a_chapter_is_spoken_once_and_no_death_is_counted(
    db: redis.Redis, twice: Twice, tmp_path: Path
) -> None:
    texts = [f"Sentence {number}." for number in range(12)]
    store, handle = Store(tmp_path / "store"), StoreHandle(tmp_path / "store")
    handle.start()
    handle.store()
    chapter = start_chapter(db, chapter_of("chapter", texts, store.id))
    queue = SegmentQueue(SegmentScripts(twice), "chapter", "tone", chapter.plan.digest)
    process = NarrationProcess(twice, handle, "a-worker")
    process.start().serve(RunningChapter("chapter", chapter.plan, queue))
    try:
        until(lambda: len(queue.results(0)) == len(texts), "all outcomes")
    finally:
        process.stop()
    assert Counter(process.engine.spoken_texts) == Counter(texts)
    assert sorted(outcome.segment for outcome in queue.results(0)) == list(range(len(texts)))
    assert not [name for name in db.hgetall(keys.pool("chapter")) if name.startswith((b"deaths", b"claim"))]
