"""Open streams whose job RQ has lost, in every way that its tools allow, are closed; the others stay open."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from rq import Queue
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from tests.support.queued_jobs import QUEUE, claim, deaths, enqueue, expire_lease, fetch, lease_s, records_of, waiting
from tests.support.segments import ANY_TIME
from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, MAX_KEEP_S
from voxspool.protocol.stream import Begin, Failed
from voxspool_worker.queue.open_streams import LOOK_S, OpenStreams
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import Why
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from voxspool_worker.jobs.execution import JobExecution

BEGIN = Begin(0, 24_000, "tone", "m", "v", "en", 0)
JOB = "a-job"


def open_stream(db: redis.Redis) -> tuple[JobExecution, Publisher]:
    """Enqueue a job, claim it and begin its stream, as a worker does; return its run and its publisher."""
    enqueue(db, JOB)
    run = claim(records_of(db)).run
    publisher = Publisher(Scripts(db), run, keep_s=60)
    publisher.begin(BEGIN, {})
    return run, publisher


def let_die(db: redis.Redis, run: JobExecution) -> None:
    """End the lease of a run and of its stream, as time does after the death of its worker."""
    db.hset(keys.control(run.job), "lease_until", 1)
    db.zadd(keys.OPEN, {run.job: 1})
    if lease_s(db, run) is not None:
        expire_lease(db, run)


def rescue(db: redis.Redis) -> None:
    Recovery(records_of(db, "a-rescuer"), RqQueues(db), db, lambda: None).rescue(ANY_TIME / 2000)


def last_entry(db: redis.Redis) -> tuple[bytes, dict[str, object]]:
    ((_, fields),) = db.xrevrange(keys.audio(JOB), count=1)
    return fields[b"type"], json.loads(fields[b"data"])


def state(db: redis.Redis) -> bytes | None:
    return db.hget(keys.control(JOB), "state")


def rq_cancel(db: redis.Redis) -> None:
    fetch(db, JOB).cancel()


def rq_delete(db: redis.Redis) -> None:
    fetch(db, JOB).delete()


def rq_fails(db: redis.Redis) -> None:
    """Let RQ's cleaner give the job up, as a dashboard does that counts running jobs."""
    db.hset(f"rq:job:{JOB}", "retries_left", 0)
    StartedJobRegistry(QUEUE, connection=db, serializer=JSONSerializer).cleanup()


def flush_rq(db: redis.Redis) -> None:
    db.delete(*db.keys("rq:*"))


def let_hash_expire(db: redis.Redis) -> None:
    db.delete(f"rq:job:{JOB}")


@pytest.mark.parametrize(
    ("lose", "end"),
    [
        (rq_cancel, b"cancelled"), (rq_delete, b"cancelled"), (flush_rq, b"cancelled"),
        (let_hash_expire, b"cancelled"), (rq_fails, b"failed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_the_stream_of_a_job_that_rq_lost_while_its_worker_was_dead_is_closed(
    db: redis.Redis, lose: Callable[[redis.Redis], None], end: bytes
) -> None:
    run, publisher = open_stream(db)
    let_die(db, run)
    lose(db)
    rescue(db)
    rescue(db)
    assert last_entry(db)[0] == state(db) == end
    assert [entry for entry, _ in db.xrange(keys.audio(JOB))] == [b"1-1", b"2-1"], "no number is missing"
    for key in (keys.audio(JOB), keys.control(JOB)):
        assert 0 < db.ttl(key) <= DEFAULT_KEEP_S
    assert db.zcard(keys.OPEN) == 0
    with pytest.raises(Exception, match="lease lost"):
        publisher.publish(Failed(0, "x", "y", retryable=False))


@pytest.mark.parametrize("empty", [lambda queue, _: queue.empty(), lambda _, db: db.delete(f"rq:queue:{QUEUE}")])
def test_the_stream_of_a_job_that_waits_for_its_next_run_is_closed_if_its_queue_is_emptied(
    db: redis.Redis, empty: Callable[[Queue, redis.Redis], object]
) -> None:
    run, _ = open_stream(db)
    assert records_of(db).requeue(run, Why.RETURNED) == "requeued"
    db.zadd(keys.OPEN, {JOB: 1})
    rescue(db)
    assert state(db) == b"running", "it waits in its queue"
    assert db.zscore(keys.OPEN, JOB) == pytest.approx(db.time()[0] + LOOK_S, abs=2)
    empty(Queue(QUEUE, connection=db, serializer=JSONSerializer), db)
    db.zadd(keys.OPEN, {JOB: 1})
    rescue(db)
    assert state(db) == b"cancelled"
    assert last_entry(db)[1] == {"by": "RQ"}


def test_a_job_that_lost_its_lease_to_a_deleted_key_is_put_back_and_no_death_is_counted(db: redis.Redis) -> None:
    run, _ = open_stream(db)
    let_die(db, run)
    db.delete(run.lease_key)
    rescue(db)
    assert waiting(db) == [JOB]
    assert (fetch(db, JOB).get_status(), deaths(db, JOB)) == (JobStatus.QUEUED, 0)
    assert Publisher(Scripts(db), claim(records_of(db), "next").run, keep_s=60).begin(BEGIN, {}).attempt == 2


def test_a_running_job_and_one_that_is_put_back_keep_their_streams(db: redis.Redis) -> None:
    run, _ = open_stream(db)
    db.zadd(keys.OPEN, {JOB: 1})
    assert OpenStreams(db).settle(JOB, db.time()[0]) == "running"
    assert db.zscore(keys.OPEN, JOB) > db.time()[0] + 5, "it is looked at when its lease ends"
    db.hset(keys.control(JOB), "lease_until", 1)
    assert OpenStreams(db).settle(JOB, db.time()[0]) == "running", "its lease in RQ decides"
    let_die(db, run)
    rescue(db)
    assert (state(db), waiting(db)) == (b"running", [JOB])


def test_a_stream_is_looked_at_when_its_lease_must_have_ended_and_also_if_redis_clock_was_set_back(
    db: redis.Redis,
) -> None:
    open_stream(db)
    now_s, streams = db.time()[0], OpenStreams(db)
    assert streams.due(now_s) == []
    assert streams.due(now_s + 11) == [JOB]
    assert streams.due(now_s - 3600) == [JOB]


def test_a_closed_stream_is_looked_at_no_more(db: redis.Redis) -> None:
    _, publisher = open_stream(db)
    assert db.zrange(keys.OPEN, 0, -1) == [JOB.encode()]
    publisher.publish(Failed(0, "x", "y", retryable=False))
    assert db.zcard(keys.OPEN) == 0


@pytest.mark.parametrize("spoilt", [keys.control(JOB), f"rq:job:{JOB}", f"rq:executions:{JOB}", keys.audio(JOB)])
def test_a_key_of_another_type_does_not_keep_other_streams_open(db: redis.Redis, spoilt: str) -> None:
    run, _ = open_stream(db)
    let_die(db, run)
    db.delete(run.lease_key, spoilt)
    db.set(spoilt, "x")
    db.hset(keys.control("other"), mapping={"state": "running", "pos": 7})
    db.zadd(keys.OPEN, {"other": 2})
    rescue(db)
    assert db.hget(keys.control("other"), "state") == b"cancelled"


@pytest.mark.parametrize("origin", ["a-queue-of-others", ""])
@pytest.mark.parametrize("status", ["queued", "canceled"])
def test_the_queue_of_a_job_may_be_any_text(db: redis.Redis, origin: str, status: str) -> None:
    run, _ = open_stream(db)
    let_die(db, run)
    db.delete(run.lease_key)
    db.hset(f"rq:job:{JOB}", mapping={"origin": origin, "status": status})
    rescue(db)
    assert state(db) == (b"running" if status == "queued" else b"cancelled")


def test_a_spoilt_set_of_open_streams_stops_neither_a_job_nor_the_recovery(
    db: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    db.set(keys.OPEN, "x")
    run, publisher = open_stream(db)
    publisher.publish(Failed(0, "x", "y", retryable=False))
    expire_lease(db, run)
    rescue(db)
    assert waiting(db) == [JOB]
    assert any(keys.OPEN in line for line in caplog.messages)


def test_a_stream_that_has_begun_expires_even_if_nobody_ever_looks_at_it(db: redis.Redis) -> None:
    open_stream(db)
    for key in (keys.audio(JOB), keys.control(JOB)):
        assert 0 < db.ttl(key) <= MAX_KEEP_S


def test_a_job_that_the_documented_script_cancelled_is_not_spoken_after_its_stream_has_expired(db: redis.Redis) -> None:
    enqueue(db, JOB)
    script = db.register_script((files("voxspool.lua") / "cancel.lua").read_text(encoding="utf-8"))
    assert script(keys=[keys.audio(JOB), keys.control(JOB)], args=["alice", '{"by":"alice"}', 60]) == b"cancelled"
    assert db.ttl(keys.audio(JOB)) <= 60
    db.delete(keys.audio(JOB))  # it expires, while the job still waits
    run = claim(records_of(db)).run
    with pytest.raises(Exception, match="cancelled"):
        Publisher(Scripts(db), run, keep_s=60).begin(BEGIN, {})
