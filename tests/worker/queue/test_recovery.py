"""Which jobs of other workers are put back, and which move to `auto`, on a real Redis with a clock of the test."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.manual_clock import ManualClock
from tests.support.queued_jobs import (
    begin,
    deaths,
    expire_lease,
    lease_s,
    put,
    records_of,
    remove_card,
    waiting,
    write_card,
)
from tests.support.segments import chapter_of, start_chapter
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec, all_queue_names, queue_name
from voxspool.workers import live
from voxspool_worker.monitoring.process_identity import own_process
from voxspool_worker.narration.segment_queue import holder_prefix
from voxspool_worker.queue.recovery import MAX_JOBS, MAX_ROUND_S, PATIENCE_S, Recovery, can_move
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import ANY_TIME, RqRecords

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import RedisServer
    from voxspool_worker.jobs.execution import JobExecution

AUTO, PIPER, TONE, XTTS = (queue_name(engine, "interactive") for engine in ("auto", "piper", "tone", "xtts"))


@pytest.fixture
def rescued() -> list[str]:
    """One entry for each call of `on_rescue`."""
    return []


@pytest.fixture
def recovery(workers_client: redis.Redis, clock: ManualClock, rescued: list[str]) -> Recovery:
    return recovery_of(workers_client, clock, lambda: rescued.append("rescued"))


def recovery_of(db: redis.Redis, clock: Callable[[], float], on_rescue: Callable[[], None] = lambda: None) -> Recovery:
    return Recovery(records_of(db, "a-rescuer"), RqQueues(db), db, on_rescue, clock)


def claimed(db: redis.Redis, queue: str, job: str) -> JobExecution:
    """Enqueue a job and claim it for a worker that does not exist."""
    put(db, queue, job)
    claim = records_of(db, "a-dead-worker").claim([queue], f"run-of-{job}")
    assert claim
    return claim.run


# Jobs of dead workers


def test_a_job_with_an_expired_lease_goes_back_to_the_front_and_counts_a_death(
    db: redis.Redis, recovery: Recovery, rescued: list[str]
) -> None:
    run = claimed(db, TONE, "lost")
    put(db, TONE, "behind")
    expire_lease(db, run)
    recovery.rescue(ANY_TIME)
    assert waiting(db, TONE) == ["lost", "behind"]
    assert deaths(db, "lost") == 1
    assert lease_s(db, run) is None
    assert rescued == ["rescued"]


def test_a_job_with_a_valid_lease_is_not_put_back(db: redis.Redis, recovery: Recovery, rescued: list[str]) -> None:
    run = claimed(db, TONE, "spoken")
    recovery.rescue(ANY_TIME)
    assert waiting(db, TONE) == []
    assert lease_s(db, run)
    assert rescued == []


def test_jobs_in_the_queues_of_all_engines_are_put_back(
    db: redis.Redis, recovery: Recovery, rescued: list[str]
) -> None:
    queues = [*all_queue_names(), queue_name("my-engine", "batch")]
    write_card(db, "tone", {"sine": []})
    for queue in queues:
        expire_lease(db, claimed(db, queue, f"job-in-{queue}"))
    recovery.rescue(ANY_TIME)
    assert len(rescued) == len(queues)
    assert db.keys("rq:wip:*") == []


def test_only_one_of_several_workers_puts_a_job_back(db: redis.Redis, recovery: Recovery, rescued: list[str]) -> None:
    expire_lease(db, claimed(db, TONE, "lost"))
    again: list[str] = []
    recovery.rescue(ANY_TIME)
    recovery_of(db, ManualClock(), lambda: again.append("rescued")).rescue(ANY_TIME)
    assert (len(rescued), len(again)) == (1, 0)
    assert waiting(db, TONE) == ["lost"]
    assert deaths(db, "lost") == 1


@pytest.mark.parametrize(
    "clock",
    [itertools.count(0.0, 5.0), itertools.chain([0.0], itertools.repeat(MAX_ROUND_S + 0.1))],
    ids=["slow at each queue", "away at the first queue"],
)
def test_a_round_in_which_redis_was_slow_puts_no_job_back(db: redis.Redis, clock: itertools.count[float]) -> None:
    run = claimed(db, TONE, "spoken")
    expire_lease(db, run)  # its worker is alive but could not renew it
    put(db, XTTS, "waiting")
    write_card(db, "tone", {"sine": []})
    recovery_of(db, clock.__next__).rescue(ANY_TIME)
    assert lease_s(db, run) is not None
    assert waiting(db, XTTS) == ["waiting"]


def test_a_corrupt_registry_does_not_stop_the_rescue_in_other_queues(
    db: redis.Redis, recovery: Recovery, rescued: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    db.set(f"rq:wip:{AUTO}", "not a sorted set")
    expire_lease(db, claimed(db, TONE, "lost"))
    recovery.rescue(ANY_TIME)
    assert waiting(db, TONE) == ["lost"]
    assert rescued == ["rescued"]
    assert any(line.startswith(f"rescue.refused queue={AUTO} ") for line in caplog.messages)


# Workers of this machine


def register(db: redis.Redis, worker: str, process: str) -> None:
    db.sadd(keys.WORKERS, worker)
    db.hset(keys.worker(worker), "process", process)


def gone_process() -> str:
    """Return the name of a process of this machine that is gone: its id belongs to this one now."""
    machine, pid, start = own_process().split(" ")
    return f"{machine} {pid} {start}0"


def test_the_jobs_and_segments_of_a_process_that_is_gone_go_back_though_their_leases_last(
    db: redis.Redis, recovery: Recovery, rescued: list[str]
) -> None:
    runs = [claimed(db, queue, f"job-in-{queue}") for queue in (TONE, XTTS)]
    chapter = start_chapter(db, chapter_of("chapter", ["One.", "Two."]))
    for worker in ("a-dead-worker", "a-live-worker"):
        assert chapter.segment_queue.claim(f"{holder_prefix(worker)}x", expired_by=0, alone=True)
    register(db, "a-dead-worker", gone_process())
    register(db, "a-live-worker", own_process())
    recovery.rescue_from_gone()
    assert rescued == [], "its process is not known yet"
    recovery.find_neighbours()
    recovery.rescue_from_gone()
    recovery.rescue_from_gone()
    assert len(rescued) == 2
    for run in runs:
        assert waiting(db, run.queue) == [run.job]
        assert deaths(db, run.job) == 1
    assert db.zrange(keys.unspoken("chapter"), 0, 0, withscores=True) == [(b"000000", 1.0)]
    assert db.zscore(keys.unspoken("chapter"), "000001") > 1
    assert db.smembers(keys.WORKERS) == {b"a-live-worker"}
    assert db.keys(f"{keys.worker('*')}") == [keys.worker("a-live-worker").encode()]


def test_the_jobs_of_a_process_that_lives_or_of_another_machine_wait_for_their_leases(
    db: redis.Redis, recovery: Recovery, rescued: list[str]
) -> None:
    run = claimed(db, TONE, "spoken")
    for process in (own_process(), gone_process().replace("/", "-elsewhere/", 1), "", "x y z", "\xff"):
        register(db, "a-dead-worker", process)
        recovery.find_neighbours()
        recovery.rescue_from_gone()
    assert lease_s(db, run)
    assert rescued == []


# Jobs that no worker of their engine will take


def test_jobs_of_an_engine_do_not_move_while_it_has_a_live_worker(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "xtts", {"ana": []})
    write_card(db, "tone", {"sine": []})
    put(db, XTTS, "patient")
    recovery.rescue(ANY_TIME)
    assert waiting(db, XTTS) == ["patient"]
    remove_card(db, "xtts")
    recovery.rescue(ANY_TIME)
    assert (waiting(db, XTTS), waiting(db, AUTO)) == ([], ["patient"])


def test_batch_jobs_wait_for_a_restart_of_their_worker(db: redis.Redis, recovery: Recovery, clock: ManualClock) -> None:
    queue, auto = queue_name("xtts", "batch"), queue_name("auto", "batch")
    write_card(db, "tone", {"sine": []})
    put(db, queue, "book")
    for _ in range(2):
        recovery.rescue(ANY_TIME)
        clock.now_s += PATIENCE_S["batch"] - 1
        recovery.rescue(ANY_TIME)
        assert waiting(db, queue) == ["book"]
        write_card(db, "xtts", {"ana": []})
        recovery.rescue(ANY_TIME)  # the worker was back in between: the wait starts again
        remove_card(db, "xtts")
    recovery.rescue(ANY_TIME)
    clock.now_s += PATIENCE_S["batch"]
    recovery.rescue(ANY_TIME)
    assert waiting(db, auto) == ["book"]


def test_jobs_that_stay_do_not_prevent_the_jobs_behind_them_from_moving(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    for number in range(MAX_JOBS + 3):
        put(db, XTTS, f"named-{number}", engine="xtts")
    put(db, XTTS, "behind")
    db.rpush(f"rq:queue:{XTTS}", b"\xff\xfe", "nobody")
    for _ in range(2):
        recovery.rescue(ANY_TIME)
    assert waiting(db, AUTO) == ["behind"]
    assert db.llen(f"rq:queue:{XTTS}") == MAX_JOBS + 5


def test_no_more_jobs_move_than_other_engines_can_start_soon(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    for number in range(MAX_JOBS + 3):
        put(db, XTTS, f"job-{number}")
    for _ in range(3):
        recovery.rescue(ANY_TIME)
    assert waiting(db, AUTO) == [f"job-{number}" for number in range(MAX_JOBS)]
    db.ltrim(f"rq:queue:{AUTO}", 1, 0)  # they were taken
    recovery.rescue(ANY_TIME)
    assert waiting(db, AUTO) == [f"job-{number}" for number in range(MAX_JOBS, MAX_JOBS + 3)]


def test_several_workers_move_each_job_once_and_in_order(shared_redis_server: RedisServer, db: redis.Redis) -> None:
    write_card(db, "tone", {"sine": []})
    jobs = [f"job-{number}" for number in range(MAX_JOBS)]
    for job in jobs:
        put(db, XTTS, job)
    clients = [type(db)(port=shared_redis_server.port) for _ in range(4)]
    rescuers = [
        Recovery(RqRecords(lambda client=client, **_: client, "w"), RqQueues(client), client, lambda: None)
        for client in clients
    ]
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(rescuer.rescue, ANY_TIME) for rescuer in rescuers]:
            done.result()
    for one in clients:
        one.close()
    assert (waiting(db, AUTO), waiting(db, XTTS)) == (jobs, [])


def test_a_corrupt_queue_does_not_prevent_jobs_of_others_from_moving(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    db.set(f"rq:queue:{PIPER}", "not a list")
    put(db, XTTS, "fine")
    recovery.rescue(ANY_TIME)
    assert waiting(db, AUTO) == ["fine"]


def test_with_a_corrupt_set_of_queues_no_job_is_lost_and_the_recovery_continues_after_a_repair(
    db: redis.Redis, recovery: Recovery
) -> None:
    write_card(db, "tone", {"sine": []})
    put(db, XTTS, "fine")
    db.delete("rq:queues")
    db.set("rq:queues", "not a set")
    recovery.rescue(ANY_TIME)
    assert waiting(db, XTTS) == ["fine"]
    db.delete("rq:queues")
    recovery.rescue(ANY_TIME)
    assert (waiting(db, XTTS), waiting(db, AUTO)) == ([], ["fine"])


def test_a_job_of_an_engine_of_another_distribution_moves_too(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    theirs = queue_name("my-engine", "interactive")
    put(db, theirs, "anyones")
    put(db, theirs, "its", engine="my-engine")
    recovery.rescue(ANY_TIME)
    assert (waiting(db, AUTO), waiting(db, theirs)) == (["anyones"], ["its"])


def test_a_job_that_has_begun_waits_for_its_engine(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    put(db, XTTS, "begun")
    begin(db, XTTS, engine="xtts")
    recovery.rescue(ANY_TIME)
    assert (waiting(db, XTTS), waiting(db, AUTO)) == (["begun"], [])


def test_a_paused_queue_keeps_its_jobs(db: redis.Redis, recovery: Recovery) -> None:
    write_card(db, "tone", {"sine": []})
    put(db, XTTS, "waits")
    db.sadd(keys.PAUSED, XTTS)
    recovery.rescue(ANY_TIME)
    assert waiting(db, XTTS) == ["waits"]
    db.srem(keys.PAUSED, XTTS)
    recovery.rescue(ANY_TIME)
    assert waiting(db, AUTO) == ["waits"]


def test_without_any_live_worker_no_job_moves(db: redis.Redis, recovery: Recovery) -> None:
    put(db, XTTS, "waits")
    recovery.rescue(ANY_TIME)
    assert (waiting(db, XTTS), waiting(db, AUTO)) == (["waits"], [])


@pytest.mark.parametrize(
    ("spec", "movable"),
    [
        (JobSpec("Hello.", id="a-job"), True),
        (JobSpec("Hello.", id="another"), False),
        (JobSpec("Hello.", id="a-job", engine="xtts"), False),
        (JobSpec("Hello.", id="a-job", voice="sine"), True),
        (JobSpec("Hello.", id="a-job", voice="ana"), False),
        (JobSpec("Hello.", id="a-job", language="en"), True),
        (JobSpec("Hello.", id="a-job", language="de"), False),
    ],
)
def test_a_job_moves_only_if_a_live_worker_can_speak_it(db: redis.Redis, spec: JobSpec, movable: bool) -> None:  # noqa: FBT001
    write_card(db, "tone", {"sine": ["en"]})
    assert can_move("a-job", spec.encode(), live(db)) is movable


@pytest.mark.parametrize("argument", [None, 7, {}, {"text": 3}])
def test_an_invalid_job_does_not_move(db: redis.Redis, argument: object) -> None:
    write_card(db, "tone", {"sine": []})
    assert not can_move("a-job", argument, live(db))
