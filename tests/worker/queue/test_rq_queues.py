"""Waiting jobs, expired leases and expired records of RQ, on a real Redis."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ResponseError
from rq import Queue, Worker
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from tests.support.queued_jobs import (
    QUEUE,
    begin,
    claim,
    enqueue,
    expire_lease,
    fetch,
    lease_s,
    put,
    records_of,
    waiting,
)
from voxspool.protocol import keys
from voxspool.protocol.jobs import MAX_KEEP_S, TASK, JobSpec, queue_name
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import Why
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    import redis


AUTO, XTTS = (queue_name(engine, "interactive") for engine in ("auto", "xtts"))


@pytest.fixture
def queues(workers_client: redis.Redis) -> RqQueues:
    return RqQueues(workers_client)


def test_waiting_jobs_are_returned_in_order_with_their_argument(db: redis.Redis, queues: RqQueues) -> None:
    for job in ("a", "b", "c"):
        enqueue(db, job)
    found = list(queues.waiting(QUEUE, 1, 2))
    assert [job for job, _ in found] == ["b", "c"]
    assert [JobSpec.decode(argument).id for _, argument in found] == ["b", "c"]
    assert [job for job, _ in queues.waiting(QUEUE, 0, 2)] == ["a", "b"]
    assert list(queues.waiting(QUEUE, 3, 2)) == []
    assert queues.length(QUEUE) == 3


def test_an_id_of_any_bytes_is_returned_and_has_no_argument(db: redis.Redis, queues: RqQueues) -> None:
    db.rpush(f"rq:queue:{QUEUE}", b"\xff\xfe", "nobody")
    ((first, argument), second) = queues.waiting(QUEUE, 0, 9)
    assert first.encode(errors="surrogateescape") == b"\xff\xfe"
    assert argument is None
    assert second == ("nobody", None)


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"[]", b"null", b'["f", null, [], {}]'])
def test_unreadable_data_have_no_argument(db: redis.Redis, queues: RqQueues, data: bytes) -> None:
    db.hset("rq:job:a-job", "data", data)
    assert queues.argument("a-job") is None


def test_the_argument_of_a_job_is_read_by_its_id(db: redis.Redis, queues: RqQueues) -> None:
    enqueue(db, "a-job")
    assert JobSpec.decode(queues.argument("a-job")).id == "a-job"
    assert queues.argument("nobody") is None


def test_a_waiting_job_moves_to_the_end_of_the_other_queue(db: redis.Redis, queues: RqQueues) -> None:
    for queue, job in ((AUTO, "first"), (XTTS, "moves"), (XTTS, "stays")):
        put(db, queue, job)
    assert queues.move("moves", XTTS, AUTO) == "moved"
    assert (waiting(db, AUTO), waiting(db, XTTS)) == (["first", "moves"], ["stays"])
    assert db.hget("rq:job:moves", "origin") == AUTO.encode()
    assert queues.move("moves", XTTS, AUTO) == "gone"


def test_a_job_that_has_begun_does_not_move(db: redis.Redis, queues: RqQueues) -> None:
    put(db, XTTS, "begun")
    begin(db, XTTS, engine="xtts")
    assert queues.move("begun", XTTS, AUTO) == "begun"
    assert waiting(db, XTTS) == ["begun"]


def test_a_job_stays_in_its_queue_if_it_cannot_be_added_to_the_other(db: redis.Redis) -> None:
    put(db, XTTS, "stays")
    db.set(f"rq:queue:{AUTO}", "not a list")
    with pytest.raises(ResponseError):
        RqQueues(db).move("stays", XTTS, AUTO)
    assert waiting(db, XTTS) == ["stays"]
    claim = records_of(db).claim([XTTS], "first")
    assert claim is not None
    with pytest.raises(ResponseError):
        records_of(db).requeue(claim.run, Why.RETURNED, to=AUTO)
    assert db.zscore(claim.run.lease_key, claim.run.composite), "its lease will bring it back"


def test_a_lease_is_expired_by_the_clock_of_redis(db: redis.Redis, queues: RqQueues) -> None:
    for job in ("dead", "alive"):
        enqueue(db, job)
    runs = [claim.run for name in ("run-1", "run-2") if (claim := records_of(db).claim([QUEUE], name))]
    assert queues.expired(QUEUE, db.time()[0]) == []
    expire_lease(db, runs[0])
    assert queues.expired(QUEUE, db.time()[0]) == [runs[0]]
    assert queues.expired(AUTO, db.time()[0]) == []


def test_a_lease_that_a_clock_which_was_set_back_made_too_long_is_shortened(db: redis.Redis, queues: RqQueues) -> None:
    for job in ("too-long", "alive"):
        enqueue(db, job)
    runs = [claim.run for name in ("run-1", "run-2") if (claim := records_of(db).claim([QUEUE], name))]
    db.zincrby(runs[0].lease_key, 3600, runs[0].composite)
    before_s = lease_s(db, runs[1])
    queues.shorten_leases(QUEUE, db.time()[0])
    assert lease_s(db, runs[0]) == pytest.approx(LEASE_S, abs=1)
    assert lease_s(db, runs[1]) == pytest.approx(before_s, abs=1)


def test_expired_jobs_leave_rqs_registries_and_others_stay(db: redis.Redis, queues: RqQueues) -> None:
    now_s = db.time()[0]
    for registry in ("finished", "failed"):
        db.zadd(f"rq:{registry}:{QUEUE}", {"expired": now_s - 1, "kept": now_s + 99, "kept for ever": -1})
    db.zadd(f"rq:canceled:{QUEUE}", {"expired": now_s - MAX_KEEP_S - 1, "kept": now_s - 1})
    db.zadd(f"rq:finished:{AUTO}", {"of a queue that is not served": now_s - 1})
    queues.remove_expired([QUEUE])
    for registry in ("finished", "failed"):
        assert db.zrange(f"rq:{registry}:{QUEUE}", 0, -1) == [b"kept for ever", b"kept"]
    assert db.zrange(f"rq:canceled:{QUEUE}", 0, -1) == [b"kept"]
    assert db.zcard(f"rq:finished:{AUTO}") == 1


def test_a_dependent_job_is_enqueued_even_if_the_worker_died_between_the_two_steps(
    db: redis.Redis, queues: RqQueues
) -> None:
    parent = enqueue(db, "parent")
    enqueue(db, "dependent", depends_on=parent)
    assert records_of(db).claim([QUEUE], "a-run")
    parent.set_status(JobStatus.FINISHED)
    Queue(QUEUE, connection=db, serializer=JSONSerializer).move_dependents_to_ready(parent)
    assert waiting(db) == []
    for _ in range(2):
        queues.enqueue_ready([QUEUE])
        assert waiting(db) == ["dependent"]


def schedule(db: redis.Redis, job: str, seconds: int) -> None:
    """Schedule a job as RQ's users do."""
    spec = JobSpec("Hello.", id=job, engine="tone", priority="batch")
    queue = Queue(QUEUE, connection=db, serializer=JSONSerializer)
    queue.enqueue_in(timedelta(seconds=seconds), TASK, spec.encode(), job_id=job, description="x")


def test_scheduled_jobs_are_enqueued_when_their_time_has_come(db: redis.Redis, queues: RqQueues) -> None:
    schedule(db, "due", -1)
    schedule(db, "later", 3600)
    schedule(db, "gone", -1)
    db.delete("rq:job:gone")
    assert waiting(db) == []
    assert queues.enqueue_due([QUEUE], 100) == ["due"]
    assert queues.enqueue_due([QUEUE], 100) == []
    assert waiting(db) == ["due"]
    assert db.zrange(f"rq:scheduled:{QUEUE}", 0, -1) == [b"later"]
    assert fetch(db, "due").get_status() is JobStatus.QUEUED
    assert claim(records_of(db)).run.job == "due"


def test_a_corrupt_registry_does_not_keep_scheduled_jobs_of_other_queues(db: redis.Redis, queues: RqQueues) -> None:
    schedule(db, "due", -1)
    db.set("rq:scheduled:voxspool-tone-interactive", "x")
    assert queues.enqueue_due(["voxspool-tone-interactive", QUEUE], 100) == ["due"]


def test_dead_workers_leave_all_lists_and_live_ones_stay(db: redis.Redis, queues: RqQueues) -> None:
    db.sadd(keys.WORKERS, "dead", "alive", b"\xff")
    db.hset(keys.worker("alive"), "engine", "tone")
    db.sadd("rq:worker:dead:executions", "a-job:a-run")
    db.sadd("rq:worker:alive:executions", "b-job:b-run")
    gone = Worker([Queue(QUEUE, connection=db)], connection=db, name="gone", serializer=JSONSerializer)
    gone.register_birth()
    db.delete("rq:worker:gone")
    queues.remove_dead_workers([QUEUE])
    assert db.smembers(keys.WORKERS) == {b"alive"}
    assert db.keys("rq:worker:*:executions") == [b"rq:worker:alive:executions"]
    assert db.smembers(f"rq:workers:{QUEUE}") == set()
