"""The registration of a worker, on a real Redis: its card, RQ's record of it, and the lists of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rq import Worker
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from tests.support.queued_jobs import QUEUE
from voxspool.protocol import keys
from voxspool_worker.queue.rq_registration import DEATH_S, RqRegistration, own_address

if TYPE_CHECKING:
    import redis

NAME = "a-worker"
CARD = {"engine": "tone", "jobs": 8}
STATISTICS = {"successful_job_count": 2, "failed_job_count": 1, "total_working_time": 3.5}


@pytest.fixture
def registration(db: redis.Redis) -> RqRegistration:
    return RqRegistration(db, NAME, [QUEUE, "voxspool-tone-interactive"])


def test_a_worker_that_renewed_is_found_by_its_card_and_by_rq(db: redis.Redis, registration: RqRegistration) -> None:
    registration.renew(CARD, WorkerStatus.IDLE, STATISTICS)
    assert db.smembers(keys.WORKERS) == {NAME.encode()}
    assert db.hgetall(keys.worker(NAME)) == {b"engine": b"tone", b"jobs": b"8"}
    assert [worker.name for worker in Worker.all(connection=db)] == [NAME]
    for queue in (QUEUE, "voxspool-tone-interactive"):
        assert db.smembers(f"rq:workers:{queue}") == {f"rq:worker:{NAME}".encode()}


def test_each_renewal_extends_the_lifetimes(db: redis.Redis, registration: RqRegistration) -> None:
    registration.renew(CARD, WorkerStatus.IDLE, STATISTICS)
    renewed = (keys.worker(NAME), f"rq:worker:{NAME}")
    for key in renewed:
        assert 0 < db.ttl(key) <= keys.WORKER_TTL_S
        db.expire(key, 1)
    registration.renew(CARD | {"jobs": 3}, WorkerStatus.BUSY, STATISTICS)
    assert all(db.ttl(key) > 1 for key in renewed)
    assert db.hget(keys.worker(NAME), "jobs") == b"3"
    assert db.hget(f"rq:worker:{NAME}", "state") == b"busy"


def test_a_full_redis_does_not_make_a_worker_look_dead(db: redis.Redis, registration: RqRegistration) -> None:
    registration.renew(CARD, WorkerStatus.IDLE, STATISTICS)
    db.sadd(f"rq:worker:{NAME}:executions", "a-job:a-run")
    db.expire(keys.worker(NAME), 1)
    db.config_set("maxmemory", 1)
    registration.renew(CARD, WorkerStatus.IDLE, STATISTICS)
    assert db.ttl(keys.worker(NAME)) > 1


def test_a_worker_that_signs_off_leaves_rqs_record_for_a_minute_and_nothing_else(
    db: redis.Redis, registration: RqRegistration
) -> None:
    registration.renew(CARD, WorkerStatus.IDLE, STATISTICS)
    db.sadd(f"rq:worker:{NAME}:executions", "a-job:a-run")
    RqRegistration(db, "another", [QUEUE]).renew(CARD, WorkerStatus.IDLE, STATISTICS)
    registration.sign_off(db)
    assert db.smembers(keys.WORKERS) == {b"another"}
    assert db.keys(f"*{NAME}*") == [f"rq:worker:{NAME}".encode()]
    assert 0 < db.ttl(f"rq:worker:{NAME}") <= DEATH_S
    assert db.hexists(f"rq:worker:{NAME}", "death")
    assert db.smembers("rq:workers") == db.smembers(f"rq:workers:{QUEUE}") == {b"rq:worker:another"}


def test_the_record_has_the_fields_of_rqs_own_workers(db: redis.Redis, registration: RqRegistration) -> None:
    registration.renew(CARD, WorkerStatus.SUSPENDED, STATISTICS)
    theirs = Worker([QUEUE], connection=db, name="theirs", serializer=JSONSerializer)
    theirs.register_birth()
    theirs.set_state(WorkerStatus.IDLE)
    fields = set(db.hgetall(f"rq:worker:{NAME}"))
    assert fields - {name.encode() for name in STATISTICS} == set(db.hgetall(theirs.key))
    read = Worker.find_by_key(f"rq:worker:{NAME}", connection=db)
    assert read
    assert (read.get_state(), read.successful_job_count, read.failed_job_count) == ("suspended", 2, 1)
    assert (read.pid, read.hostname, read.version) == (theirs.pid, theirs.hostname, theirs.version)
    assert read.total_working_time == 3.5


def test_own_address_returns_the_address_that_redis_sees_or_unknown(
    db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_address(db, NAME) in {client["addr"] for client in db.client_list() if client["name"] == NAME}

    def unreadable() -> dict[str, str]:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(db, "client_info", unreadable)
    assert own_address(db, NAME) == "unknown"
