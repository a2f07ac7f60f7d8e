"""The heartbeat of a worker: what it renews, requeues and ends, on a real Redis with a clock of the test."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.processes import until
from tests.support.queued_jobs import (
    QUEUE,
    claim,
    deaths,
    enqueue,
    expire_lease,
    lease_s,
    records_of,
    waiting,
)
from voxspool.protocol import keys
from voxspool_worker.jobs.cancellation import CancelToken, EndedEarlyError, Reason
from voxspool_worker.queue.heartbeat import BEAT_S, FIRST_LOOK_S, LATE_S, LOST_CLAIM_BEATS, PATIENCE_S, Heartbeat
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import RqRecords, Why
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from voxspool_worker.jobs.execution import JobExecution


class UnreliableRecords(RqRecords):
    """Records whose replies to `requeue` are lost on demand."""

    unreachable = False

    def requeue(self, run: JobExecution, why: Why, **options: Any) -> str:  # noqa: ANN401 - passed on
        if self.unreachable:
            raise RedisConnectionError("refused")
        return super().requeue(run, why, **options)


class Queues(RqQueues):
    """Queues on a Redis whose clock goes as the test's clock does, and jumps on demand."""

    def __init__(self, db: redis.Redis, worker: Worker) -> None:
        super().__init__(db)
        self._worker = worker
        self._began_s, self._began_at_s = super().time_s(), worker.now_s

    def time_s(self) -> float:
        return self._began_s + self._worker.now_s - self._began_at_s + self._worker.redis_lead_s


class Worker:
    """The heartbeat of one worker, with a clock of the test."""

    def __init__(self, db: redis.Redis, clock: Callable[[], float] | None = None) -> None:
        self.db = db
        self.now_s = 1000.0
        self.running: list[tuple[JobExecution, CancelToken]] = []
        self.cards = 0
        self.errors: list[Exception] = []
        self.records = UnreliableRecords(lambda **_: db, "a-worker")
        self.card: Callable[[], None] = lambda: None
        """Called at each renewal of the card."""
        self._queues = queues = Queues(db, self)
        clock = clock or (lambda: self.now_s)
        self.redis_lead_s = 0.0
        """How far the clock of Redis is ahead of this one, beside what it was at the start: a jump changes it."""
        self.heartbeat = Heartbeat(
            self.records,
            queues,
            Recovery(self.records, queues, db, lambda: None),
            [QUEUE],
            lambda: self.running,
            renew_card=self._renew_card,
            redis_away=self.errors.append,
            clock=clock,
        )

    @property
    def redis_s(self) -> float:
        """The time of Redis, in seconds."""
        return self._queues.time_s()

    def _renew_card(self) -> None:
        self.cards += 1
        self.card()

    def start_job(self, job: str) -> tuple[JobExecution, CancelToken]:
        """Enqueue and claim a job."""
        enqueue(self.db, job)
        self.running.append((claim(self.records, f"run-of-{job}").run, CancelToken(60.0)))
        return self.running[-1]


@pytest.fixture
def worker(db: redis.Redis) -> Worker:
    return Worker(db)


def ending(token: CancelToken) -> tuple[Reason, str] | None:
    """Return why a job must end early, and by whom; None if it may continue."""
    try:
        token.check()
    except EndedEarlyError as ended:
        return ended.reason, ended.by
    return None


# Leases


def test_a_beat_renews_the_lease_of_every_run_and_the_card(db: redis.Redis, worker: Worker) -> None:
    started = [worker.start_job(job) for job in ("a", "b")]
    for run, _ in started:
        expire_lease(db, run)
    worker.heartbeat.beat()
    for run, token in started:
        assert lease_s(db, run) == pytest.approx(LEASE_S, abs=1)
        assert ending(token) is None
    assert worker.cards == 1


def test_a_run_that_lost_its_lease_ends_and_the_others_continue(db: redis.Redis, worker: Worker) -> None:
    (lost, lost_token), (_, kept_token) = worker.start_job("lost"), worker.start_job("kept")
    records_of(db, "a-rescuer").requeue(lost, Why.RETURNED)
    worker.heartbeat.beat()
    assert ending(lost_token) == (Reason.LEASE_LOST, "")
    assert ending(kept_token) is None


def test_a_cancelled_run_ends_with_the_name_of_who_cancelled_it(db: redis.Redis, worker: Worker) -> None:
    run, token = worker.start_job("a-job")
    db.hset(keys.control("a-job"), mapping={"holder": run.id, "cancel": "kim"})
    worker.heartbeat.beat()
    assert ending(token) == (Reason.CANCELLED, "kim")


def test_a_full_redis_renews_leases_and_ends_no_run(db: redis.Redis, worker: Worker) -> None:
    run, token = worker.start_job("a-job")
    expire_lease(db, run)
    db.config_set("maxmemory", 1)
    worker.heartbeat.beat()
    assert lease_s(db, run) == pytest.approx(LEASE_S, abs=1)
    assert ending(token) is None


# Jobs that are put back


def test_the_job_of_a_released_run_goes_back_at_the_next_beat(db: redis.Redis, worker: Worker) -> None:
    run, _ = worker.start_job("a-job")
    worker.running.clear()
    worker.heartbeat.release(run)
    assert waiting(db) == []
    worker.heartbeat.beat()
    assert waiting(db) == ["a-job"]
    assert deaths(db, "a-job") == 0


def test_a_released_run_stays_in_the_list_until_redis_answers(db: redis.Redis, worker: Worker) -> None:
    run, _ = worker.start_job("a-job")
    worker.running.clear()
    worker.heartbeat.release(run)
    worker.records.unreachable = True
    with pytest.raises(RedisConnectionError):
        worker.heartbeat.beat()
    worker.records.unreachable = False
    worker.heartbeat.beat()
    assert waiting(db) == ["a-job"]
    worker.heartbeat.beat()
    assert waiting(db) == ["a-job"], "once"


def test_the_job_of_a_claim_whose_reply_was_lost_goes_back(db: redis.Redis, worker: Worker) -> None:
    enqueue(db, "a-job")
    claim(worker.records, "lost")
    worker.heartbeat.lose_claim("lost")
    worker.heartbeat.beat()
    assert waiting(db) == ["a-job"]
    assert deaths(db, "a-job") == 0


@pytest.mark.parametrize(("beats", "found"), [(LOST_CLAIM_BEATS - 1, True), (LOST_CLAIM_BEATS, False)])
def test_a_late_claim_is_searched_for_at_several_beats(
    db: redis.Redis,
    worker: Worker,
    beats: int,
    found: bool,  # noqa: FBT001
) -> None:
    worker.heartbeat.lose_claim("late")
    for _ in range(beats):
        worker.heartbeat.beat()
    enqueue(db, "a-job")
    claim(worker.records, "late")
    worker.heartbeat.beat()
    assert waiting(db) == (["a-job"] if found else [])


# Outages of Redis


def test_redis_is_not_new_while_beats_are_on_time(worker: Worker) -> None:
    for _ in range(3):
        worker.heartbeat.beat()
        worker.now_s += BEAT_S
    assert not worker.heartbeat.redis_is_new
    assert worker.heartbeat.redis_back == 0.0


def test_after_too_long_a_gap_redis_counts_as_unavailable_and_then_as_new(worker: Worker) -> None:
    worker.heartbeat.beat()
    worker.now_s += LATE_S + 0.1
    assert worker.heartbeat.redis_is_new
    assert worker.heartbeat.redis_back == worker.now_s, "it is away still"
    worker.heartbeat.beat()
    back_s = worker.now_s + PATIENCE_S
    assert worker.heartbeat.redis_is_new
    for _ in range(2):
        worker.now_s += BEAT_S
        worker.heartbeat.beat()
    assert worker.now_s == back_s
    assert not worker.heartbeat.redis_is_new
    assert worker.heartbeat.redis_back == back_s


def test_no_job_is_rescued_shortly_after_an_outage(db: redis.Redis, worker: Worker) -> None:
    enqueue(db, "a-job")
    run = claim(records_of(db, "another-worker")).run
    expire_lease(db, run)
    worker.now_s += LATE_S + 0.1
    for _ in range(2):
        worker.heartbeat.rescue()
        assert waiting(db) == []
        worker.heartbeat.beat()
    worker.now_s += BEAT_S
    worker.heartbeat.beat()
    worker.now_s += PATIENCE_S - BEAT_S
    worker.heartbeat.beat()
    worker.heartbeat.rescue()
    assert waiting(db) == ["a-job"]


# Jumps of Redis's clock


def dead_run(db: redis.Redis, worker: Worker) -> JobExecution:
    """Let a worker that has judged leases for a while see the expired lease of another one."""
    enqueue(db, "a-job")
    run = claim(records_of(db, "another-worker")).run
    expire_lease(db, run)
    worker.heartbeat.beat()
    worker.now_s += FIRST_LOOK_S
    worker.heartbeat.beat()
    assert worker.heartbeat.expired_by == pytest.approx(worker.redis_s)
    return run


@pytest.mark.parametrize("jump_s", [60.0, -60.0, 1.1, -1.1])
def test_after_a_jump_of_redis_clock_leases_are_renewed_and_no_job_is_rescued_for_a_while(
    db: redis.Redis, worker: Worker, jump_s: float
) -> None:
    dead_run(db, worker)
    own, token = worker.start_job("own")
    expire_lease(db, own)
    worker.redis_lead_s += jump_s
    worker.heartbeat.rescue()
    assert waiting(db) == []
    assert worker.heartbeat.expired_by == 0.0
    assert lease_s(db, own) == pytest.approx(LEASE_S, abs=1), "renewed at once"
    assert ending(token) is None
    for _ in range(2):
        worker.now_s += PATIENCE_S / 2
        worker.heartbeat.beat()
    worker.heartbeat.rescue()
    assert waiting(db) == ["a-job"]


def test_a_clock_that_drifts_slowly_is_followed(db: redis.Redis, worker: Worker) -> None:
    dead_run(db, worker)
    for _ in range(10):
        worker.redis_lead_s += 0.5
        worker.now_s += BEAT_S
        worker.heartbeat.beat()
        assert worker.heartbeat.expired_by == pytest.approx(worker.redis_s)


def test_a_jump_since_the_last_comparison_moves_no_lease_into_the_past(db: redis.Redis, worker: Worker) -> None:
    run = dead_run(db, worker)
    db.zadd(run.lease_key, {run.composite: int(worker.redis_s) + LEASE_S}, xx=True)
    expired_by = worker.heartbeat.expired_by
    worker.redis_lead_s += 60.0
    assert worker.heartbeat.expired_by == expired_by < db.zscore(run.lease_key, run.composite)


def test_a_worker_that_has_just_started_judges_no_lease_until_the_others_have_renewed_theirs(
    db: redis.Redis, worker: Worker
) -> None:
    enqueue(db, "a-job")
    expire_lease(db, claim(records_of(db, "another-worker")).run)
    worker.heartbeat.rescue()
    worker.now_s += FIRST_LOOK_S - 0.1
    worker.heartbeat.beat()
    worker.heartbeat.rescue()
    assert waiting(db) == []
    worker.now_s += 0.1
    worker.heartbeat.rescue()
    assert waiting(db) == ["a-job"]


def test_the_cards_of_live_workers_that_expired_in_a_jump_are_no_reason_to_remove_them(
    db: redis.Redis, worker: Worker
) -> None:
    dead_run(db, worker)
    db.sadd(keys.WORKERS, "a-live-worker")
    worker.redis_lead_s += 60.0
    worker.heartbeat._clean_up()
    assert db.sismember(keys.WORKERS, "a-live-worker")
    for _ in range(2):
        worker.now_s += PATIENCE_S / 2
        worker.heartbeat.beat()
    worker.heartbeat._clean_up()
    assert not db.sismember(keys.WORKERS, "a-live-worker")


# The thread


def test_the_thread_starts_all_tasks_at_once_rescues_after_its_first_look_and_stops(
    db: redis.Redis, worker: Worker
) -> None:
    enqueue(db, "left-behind")
    expire_lease(db, claim(records_of(db, "a-dead-worker")).run)
    db.zadd(f"rq:finished:{QUEUE}", {"expired": db.time()[0] - 1})
    thread = threading.Thread(target=worker.heartbeat.run)
    thread.start()
    until(lambda: worker.cards and not db.exists(f"rq:finished:{QUEUE}"), "the first round")
    assert waiting(db) == []
    worker.now_s += FIRST_LOOK_S
    until(lambda: waiting(db), "the next round")
    worker.heartbeat.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert worker.errors == []


@pytest.mark.parametrize("error", [RedisConnectionError("refused"), ValueError("a fault of ours")])
def test_no_error_ends_the_thread(db: redis.Redis, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    steps = itertools.count(0.0, BEAT_S)  # each look at the clock finds a beat due
    worker = Worker(db, steps.__next__)

    def fail_twice() -> None:
        if worker.cards <= 2:
            raise error
        worker.heartbeat.stop()

    worker.card = fail_twice
    worker.heartbeat.run()
    assert worker.cards >= 3
    if isinstance(error, RedisConnectionError):
        assert worker.errors == [error, error]
    else:
        assert caplog.messages.count("heartbeat.error") == 2


def test_a_beat_counts_only_if_redis_accepted_its_last_write(db: redis.Redis) -> None:
    worker = Worker(db)
    worker.now_s += BEAT_S
    worker.heartbeat.beat()
    accepted = worker.heartbeat.last_beat
    assert accepted == worker.now_s

    def refuse() -> None:
        raise RedisConnectionError("READONLY")

    worker.card = refuse
    worker.now_s += BEAT_S
    with pytest.raises(RedisConnectionError):
        worker.heartbeat.beat()
    assert worker.heartbeat.last_beat == accepted
