"""Claiming jobs from a real Redis: order, pauses, suspension, corrupt jobs, and lost replies."""

from __future__ import annotations

import json
import time
import zlib
from typing import TYPE_CHECKING

import pytest
import redis
from rq.job import JobStatus
from rq.suspension import resume, suspend

from tests.support.queued_jobs import QUEUE, enqueue, fetch, put, waiting
from voxspool.protocol import keys, narration
from voxspool.protocol.call import MAX_CALL_BYTES
from voxspool.protocol.jobs import JobSpec
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.standing import Neighbour, Standing
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration.chapter_job import MAX_CHAPTER_DEATHS
from voxspool_worker.queue import capacity as capacity_module
from voxspool_worker.queue import job_source as module
from voxspool_worker.queue.capacity import Capacity
from voxspool_worker.queue.job_source import JobSource
from voxspool_worker.queue.lifecycle import Lifecycle
from voxspool_worker.queue.outcomes import Outcomes
from voxspool_worker.queue.rq_records import RqRecords
from voxspool_worker.queue.spoilt_keys import SpoiltKeys
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.probation import FIRST_WAIT_S, FREE_ENDS, Probation

if TYPE_CHECKING:
    from voxspool_worker.queue.job_spec import ClaimedJob


class LimitedCapacity(Capacity):
    """A capacity that fails the test after too many calls, instead of letting it run for ever."""

    asked = 0

    def wait_until_open(self) -> bool:
        self.asked += 1
        assert self.asked < 100, "no place fell free"
        return super().wait_until_open()


class Source(JobSource):
    """The job source of a worker in burst mode: it returns None when nothing can be claimed."""

    def __init__(self, db: redis.Redis, jobs: int = 4) -> None:
        self.lifecycle = Lifecycle()
        self.lifecycle.burst = True
        self.capacity = LimitedCapacity(jobs, self.lifecycle.wake_up)
        self.lost_claims: list[str] = []
        self.errors: list[Exception] = []
        self.spoilt = SpoiltKeys()
        self.standing = Standing("a-host")
        self.probation = Probation(db, "a-worker", "tone", self.standing)
        records = RqRecords(lambda **_: db, "a-worker", self.standing)
        outcomes = Outcomes(records, Pipeline(ToneEngine(), db, "w"), self.capacity, Metrics(), self.lifecycle)
        super().__init__(
            "tone", records, lambda **_: db, self.capacity, outcomes, self.lifecycle, self.standing,
            self.probation, lost_claim=self.lost_claims.append, redis_away=self.errors.append, spoilt=self.spoilt,
        )  # fmt: skip

    def take(self) -> ClaimedJob | None:
        return self.next_job(lambda: False)

    def take_id(self) -> str | None:
        taken = self.take()
        return taken.run.job if taken else None


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity_module, "WAIT_S", 0.0)
    monkeypatch.setattr(module, "WAIT_S", 0.0)


def test_jobs_are_claimed_in_the_order_of_their_queue_and_decoded(db: redis.Redis) -> None:
    source = Source(db)
    for name in ("first", "second"):
        enqueue(db, name)
    taken = source.take()
    assert taken
    assert (taken.run.queue, taken.spec) == (QUEUE, JobSpec("Hello.", id="first", engine="tone", priority="batch"))
    assert source.take_id() == "second"
    assert source.take_id() is None


def test_a_worker_that_stops_claims_no_job(db: redis.Redis) -> None:
    source = Source(db)
    enqueue(db, "first")
    source.lifecycle.stopping = True
    assert source.take_id() is None
    assert waiting(db) == ["first"]


def test_a_look_at_empty_queues_uses_up_no_place(db: redis.Redis) -> None:
    source = Source(db, jobs=1)
    assert source.take_id() is None
    enqueue(db, "first")
    assert source.take_id() == "first"


def test_an_interactive_job_is_taken_while_all_places_of_batch_jobs_are_used(db: redis.Redis) -> None:
    source = Source(db, jobs=2)
    for name in ("first", "second", "third"):
        enqueue(db, name)
    for name in ("first", "second"):
        taken = source.take()
        assert taken
        assert taken.run.job == name
        source.capacity.begin(taken.run, chapter=False)
    assert source.take_id() is None
    put(db, "voxspool-tone-interactive", "urgent")
    assert source.take_id() == "urgent"
    assert waiting(db) == ["third"]


def test_nothing_is_taken_if_all_queues_close_while_jobs_are_claimed(
    db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(db)
    enqueue(db, "first")
    monkeypatch.setattr(source.capacity, "takes", lambda _: False)
    monkeypatch.setattr(source.capacity, "wait_until_open", lambda: True)
    assert source.take_id() is None
    assert (waiting(db), source.errors) == (["first"], [])


def test_a_paused_queue_is_left_alone(db: redis.Redis) -> None:
    source = Source(db)
    enqueue(db, "first")
    db.sadd(keys.PAUSED, QUEUE)
    assert source.take_id() is None
    db.delete(keys.PAUSED)
    assert source.take_id() == "first"


def test_suspended_workers_claim_no_job_until_they_are_resumed(db: redis.Redis) -> None:
    source = Source(db)
    enqueue(db, "first")
    suspend(db)
    assert source.take_id() is None
    assert source.suspended
    resume(db)
    assert source.take_id() == "first"
    assert not source.suspended


def test_a_job_that_cannot_be_read_fails_and_the_next_one_is_taken(db: redis.Redis) -> None:
    source = Source(db)
    db.rpush(f"rq:queue:{QUEUE}", "corrupt")
    db.hset("rq:job:corrupt", mapping={"created_at": "yesterday", "data": b"\xff"})
    enqueue(db, "good")
    assert source.take_id() == "good"
    assert db.hget(keys.control("corrupt"), "state") == b"failed"


BOMB = zlib.compress(b" " * (MAX_CALL_BYTES + 1))


@pytest.mark.parametrize(
    ("fields", "code", "saying"),
    [
        ({"data": BOMB}, "invalid-job", "4,194,304 bytes of JSON"),
        ({"data": b"x" * 9 * 2**20}, "invalid-job", "the limit is 8388608"),
        (
            {"data": BOMB, "deaths": "2", "died_at": "3", "died_on": "a b"},
            "poison",
            "2 workers in a row died in segment 3",
        ),
        ({"deaths": "2", "died_on": "a b"}, "poison", "2 workers in a row"),
    ],
    ids=["expands", "large", "its deaths come first", "deaths"],
)
def test_a_job_that_no_worker_may_read_fails_with_a_clear_code_and_the_next_one_is_taken(
    db: redis.Redis, fields: dict[str, bytes | str], code: str, saying: str
) -> None:
    source = Source(db)
    enqueue(db, "deadly")
    db.hset("rq:job:deadly", mapping=fields)  # type: ignore[arg-type]
    enqueue(db, "good")
    assert source.take_id() == "good"
    ((_, last),) = db.xrevrange(keys.audio("deadly"), count=1)
    assert (last[b"type"], json.loads(last[b"data"])["code"]) == (b"failed", code)
    assert saying in json.loads(last[b"data"])["sentence"]
    assert db.hget("rq:job:deadly", "status") == b"failed"
    assert lease_s_of(db, "deadly") == []


def lease_s_of(db: redis.Redis, job: str) -> list[bytes]:
    """Return the leases of a job."""
    return [run for run in db.zrange(f"rq:wip:{QUEUE}", 0, -1) if run.startswith(job.encode())]


@pytest.mark.parametrize(("deaths", "taken"), [(MAX_CHAPTER_DEATHS - 1, "chapter"), (MAX_CHAPTER_DEATHS, None)])
@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_a_chapter_may_crash_more_workers_than_a_speech(
    db: redis.Redis, pack: type[bytes], deaths: int, taken: str | None
) -> None:
    source = Source(db)
    spec = narration.chapter("chapter", [narration.Passage("Hello.")], "0" * 32, engine="tone")
    call = json.dumps([narration.TASK, None, [spec.encode()], {}]).encode()
    db.hset("rq:job:chapter", mapping={"status": "queued", "data": pack(call), "deaths": deaths, "died_on": "a b"})
    db.rpush(f"rq:queue:{QUEUE}", "chapter")
    assert source.take_id() == taken
    assert not db.exists(keys.pool("chapter")), "it was not planned"


@pytest.mark.parametrize("job", [b"a b", b"x" * 300 + b"!"])
def test_a_job_with_an_id_that_rq_refuses_is_removed_and_the_next_one_is_taken(db: redis.Redis, job: bytes) -> None:
    source = Source(db)
    db.hset(b"rq:job:" + job, mapping={"status": "queued", "data": b"[]"})
    db.rpush(f"rq:queue:{QUEUE}", job)
    enqueue(db, "good")
    assert source.take_id() == "good"
    assert waiting(db) == []


def test_batch_work_is_left_to_others_for_a_while(db: redis.Redis) -> None:
    source = Source(db)
    enqueue(db, "first")
    source.capacity.leave_batch_to_others()
    assert source.take_id() is None
    assert waiting(db) == ["first"]


def test_a_claim_whose_reply_was_lost_is_reported_by_its_name(db: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(db)
    names: list[str] = []

    def lose(queues: list[str], name: str, **options: bool) -> None:
        del queues, options
        names.append(name)
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(source._records, "claim", lose)
    assert source.take_id() is None
    assert source.lost_claims == names
    assert len(source.errors) == 1


def test_a_spoilt_queue_is_logged_once_and_named_until_it_is_repaired(
    db: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source, key = Source(db), f"rq:queue:{QUEUE}"
    db.set(key, "x")
    for _ in range(3):
        assert source.take_id() is None
    assert source.spoilt.all == [f"{key} is a string, not a list"]
    assert source.failing_since is None, "the other queues can be used"
    assert len([line for line in caplog.messages if key in line]) == 1
    db.delete(key)
    enqueue(db, "first")
    assert source.take_id() == "first"
    assert source.spoilt.all == []
    assert caplog.messages[-1].startswith(f"redis.repaired {key}")


def test_claims_fail_if_no_queue_can_be_used_or_redis_refuses_them(
    db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(db)
    for queue in source.queues:
        db.set(f"rq:wip:{queue}", "x")
        put(db, queue, f"job-in-{queue}")
    assert source.take_id() is None
    assert source.failing_since
    for queue in source.queues:
        db.delete(f"rq:wip:{queue}")
    assert source.take_id()
    assert source.failing_since is None

    def refuse(queues: list[str], name: str, **options: bool) -> None:
        del queues, name, options
        raise redis.ResponseError("refused")

    monkeypatch.setattr(source._records, "claim", refuse)
    assert source.take_id() is None
    assert source.failing_since


# Jobs that workers died of


def doubtful(db: redis.Redis, job: str, died_on: str = "a-host") -> None:
    """Enqueue a job that two workers of a host died of."""
    enqueue(db, job)
    db.hset(f"rq:job:{job}", mapping={"deaths": 2, "died_at": 0, "died_on": died_on, "blamed": 0})


def neighbour(host: str, *, completed: bool = True, queue: str = QUEUE) -> Neighbour:
    return Neighbour(host, frozenset([queue]), completed, "")


def test_a_worker_that_has_completed_nothing_takes_other_jobs_before_one_that_two_of_its_host_died_of(
    db: redis.Redis,
) -> None:
    source = Source(db)
    doubtful(db, "doubtful")
    enqueue(db, "behind")
    put(db, "voxspool-auto-batch", "elsewhere")
    assert [source.take_id() for _ in range(4)] == ["behind", "elsewhere", "doubtful", None]


def test_a_worker_that_has_completed_a_segment_takes_them_in_their_order(db: redis.Redis) -> None:
    source = Source(db)
    source.standing.completed = True
    doubtful(db, "doubtful")
    enqueue(db, "behind")
    assert [source.take_id() for _ in range(3)] == ["doubtful", "behind", None]


@pytest.mark.parametrize(
    ("other", "completed", "left"),
    [
        (neighbour("another-host", completed=False), True, True),
        (neighbour("a-host", completed=True), False, True),
        (neighbour("a-host", completed=True), True, False),
        (neighbour("a-host", completed=False), False, False),
        (neighbour("another-host", queue="voxspool-piper-batch"), False, False),
    ],
)
def test_such_a_job_is_left_to_a_worker_that_can_tell_more(
    db: redis.Redis,
    other: Neighbour,
    completed: bool,  # noqa: FBT001
    left: bool,  # noqa: FBT001
) -> None:
    source = Source(db)
    source.standing.completed, source.standing.neighbours = completed, (other,)
    doubtful(db, "doubtful")
    assert source.take_id() == (None if left else "doubtful")
    assert waiting(db) == (["doubtful"] if left else [])


def test_jobs_that_another_host_or_enough_deaths_have_decided_about_are_taken_by_any_worker(db: redis.Redis) -> None:
    source = Source(db)
    source.standing.neighbours = (neighbour("another-host"),)
    doubtful(db, "elsewhere", "another-host")
    doubtful(db, "two-hosts", "a-host another-host")
    doubtful(db, "blamed")
    db.hset("rq:job:blamed", "blamed", 1)
    doubtful(db, "enough")
    db.hset("rq:job:enough", "deaths", 4)
    assert source.take_id() == "elsewhere"
    assert source.take_id() is None
    assert {fetch(db, job).get_status() for job in ("two-hosts", "blamed", "enough")} == {JobStatus.FAILED}
    assert waiting(db) == []


def test_a_worker_on_probation_takes_nothing_until_its_wait_is_over(db: redis.Redis) -> None:
    source = Source(db)
    db.hset(keys.fruitless("a-host", "tone"), mapping={str(number): 1 for number in range(FREE_ENDS)})
    source.probation.begin()
    enqueue(db, "first")
    wait_s = source.probation.wait_s
    assert wait_s == pytest.approx(FIRST_WAIT_S, abs=1)
    source.probation._clock = lambda: time.monotonic() + wait_s
    assert source.take_id() == "first"
    assert db.hexists(keys.fruitless("a-host", "tone"), "a-worker"), "it has taken a job and completed nothing"
