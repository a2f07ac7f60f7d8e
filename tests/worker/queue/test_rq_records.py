"""The records of a worker's runs, on a real Redis: claims, leases, ends, and jobs that are put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ResponseError
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.results import Result

from tests.support.queued_jobs import (
    QUEUE,
    claim,
    deaths,
    enqueue,
    expire_lease,
    fetch,
    lease_s,
    put,
    records_of,
    waiting,
)
from voxspool.protocol import keys
from voxspool.protocol.jobs import MAX_KEEP_S, queue_name
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.jobs.standing import Neighbour, Standing
from voxspool_worker.queue.rq_records import (
    LOST,
    PausedError,
    RqRecords,
    SuspendedError,
    Why,
    is_corrupt,
)
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    import redis

OTHER = "voxspool-tone-interactive"


@pytest.fixture
def records(db: redis.Redis) -> RqRecords:
    return records_of(db)


@pytest.fixture
def run(db: redis.Redis, records: RqRecords) -> JobExecution:
    """The run of a job that was just claimed."""
    enqueue(db, "a-job")
    return claim(records).run


def hold(db: redis.Redis, run: JobExecution, **fields: str) -> None:
    """Make a run the holder of the stream of its job, as `begin` does."""
    db.hset(keys.control(run.job), mapping={"holder": run.id, **fields})


# Claims


def test_the_first_job_of_the_first_queue_that_has_one_is_claimed(db: redis.Redis, records: RqRecords) -> None:
    for job in ("first", "second"):
        enqueue(db, job)
    claimed = records.claim([OTHER, QUEUE], "a-run")
    assert claimed
    assert (claimed.run.queue, claimed.run.job, claimed.run.id, claimed.run.deaths) == (QUEUE, "first", "a-run", 0)
    assert claimed.fields[b"status"] == b"queued", "the hash as it was before the claim"
    assert waiting(db) == ["second"]
    assert lease_s(db, claimed.run) == pytest.approx(LEASE_S, abs=1)
    job = fetch(db, "first")
    assert job.get_status() is JobStatus.STARTED
    assert job.worker_name == "a-worker"
    assert StartedJobRegistry(QUEUE, connection=db).get_job_ids(cleanup=False) == ["first"]


def test_empty_queues_and_deleted_jobs_give_no_claim(db: redis.Redis, records: RqRecords) -> None:
    assert records.claim([QUEUE], "a-run") is None
    enqueue(db, "deleted")
    db.delete("rq:job:deleted")
    assert records.claim([QUEUE], "a-run") is None
    assert waiting(db) == []


def test_suspended_workers_claim_nothing(db: redis.Redis, records: RqRecords) -> None:
    enqueue(db, "a-job")
    db.set("rq:suspended", 1)
    with pytest.raises(SuspendedError):
        records.claim([QUEUE], "a-run")
    assert waiting(db) == ["a-job"]


def test_a_paused_queue_is_skipped_and_reported_if_no_other_has_jobs(db: redis.Redis, records: RqRecords) -> None:
    put(db, OTHER, "paused")
    db.sadd(keys.PAUSED, OTHER)
    with pytest.raises(PausedError) as paused:
        records.claim([OTHER, QUEUE], "a-run")
    assert paused.value.queues == {OTHER}
    enqueue(db, "open")
    claimed = records.claim([OTHER, QUEUE], "a-run")
    assert claimed
    assert claimed.run.job == "open"


@pytest.mark.parametrize(("written", "count"), [("2", 2), ("x", 0), ("-1", 0), ("9" * 5000, int("9" * 20))])
def test_the_deaths_of_a_claimed_job_are_read_and_an_invalid_number_counts_as_none(
    db: redis.Redis, records: RqRecords, written: str, count: int
) -> None:
    enqueue(db, "a-job")
    db.hset("rq:job:a-job", "deaths", written)
    assert claim(records).run.deaths == count


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("data", b"x" * 9 * 2**20, "bytes, and the limit is 8388608"), ("f", b"", "101 fields, and the limit is 100")],
    ids=["size", "fields"],
)
def test_the_fields_of_a_hash_that_is_too_large_stay_in_redis(
    db: redis.Redis, records: RqRecords, field: str, value: bytes, said: str
) -> None:
    enqueue(db, "a-job")
    count = 1 if value else 101 - db.hlen("rq:job:a-job")
    db.hset("rq:job:a-job", mapping={f"{field}{number or ''}": value for number in range(count)})
    claimed = records.claim([QUEUE], "a-run")
    assert claimed
    assert (claimed.run.job, claimed.fields) == ("a-job", {})
    assert said in claimed.problem
    assert lease_s(db, claimed.run), "it is claimed, so that it can be marked failed"


def test_many_ids_without_a_job_are_removed_in_several_steps(db: redis.Redis, records: RqRecords) -> None:
    db.rpush(f"rq:queue:{QUEUE}", *(f"gone-{number}" for number in range(2500)), b"x" * 5000)
    enqueue(db, "a-job")
    assert claim(records).run.job == "a-job"
    assert waiting(db) == []


# Keys of another type


SPOILERS = {
    "string": lambda db, key: db.set(key, "x"),
    "list": lambda db, key: db.rpush(key, "x"),
    "hash": lambda db, key: db.hset(key, "x", "y"),
    "zset": lambda db, key: db.zadd(key, {"x": 1}),
}


@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize(("name", "wanted"), [("queue", "list"), ("wip", "zset")])
def test_a_queue_with_a_key_of_another_type_is_skipped_and_named_and_loses_no_job(
    db: redis.Redis, records: RqRecords, name: str, wanted: str, kind: str
) -> None:
    put(db, OTHER, "waits")
    spoilt = f"rq:{name}:{OTHER}"
    if name == "queue":
        db.delete(spoilt)
    SPOILERS[kind](db, spoilt)
    enqueue(db, "a-job")
    found = records.claim([OTHER, QUEUE], "a-run")
    assert found
    assert found.run.job == "a-job"
    assert records.spoilt == {f"{spoilt} is a {kind}, not a {wanted}"}
    assert records.claim([OTHER, QUEUE], "another") is None
    assert records.spoilt, "also if no queue can be used"
    if name == "wip":
        assert waiting(db, OTHER) == ["waits"]
    db.delete(spoilt)
    put(db, OTHER, "later")
    found = records.claim([OTHER, QUEUE], "a-third")
    assert found
    assert found.run.queue == OTHER
    assert records.spoilt == frozenset()


def test_a_set_of_paused_queues_of_another_type_pauses_nothing_and_is_named(
    db: redis.Redis, records: RqRecords
) -> None:
    enqueue(db, "a-job")
    db.set(keys.PAUSED, "x")
    assert claim(records).run.job == "a-job"
    assert records.spoilt == {f"{keys.PAUSED} is a string, not a set"}


@pytest.mark.parametrize("kind", SPOILERS)
def test_a_suspension_of_any_type_suspends_as_with_rq(db: redis.Redis, records: RqRecords, kind: str) -> None:
    enqueue(db, "a-job")
    SPOILERS[kind](db, "rq:suspended")
    with pytest.raises(SuspendedError):
        records.claim([QUEUE], "a-run")
    assert waiting(db) == ["a-job"]


@pytest.mark.parametrize("key", ["rq:executions:a-job", "rq:worker:a-worker:executions"])
def test_a_record_of_runs_of_another_type_is_replaced(db: redis.Redis, records: RqRecords, key: str) -> None:
    enqueue(db, "a-job")
    db.hset(key, "x", "y")
    run = claim(records).run
    assert lease_s(db, run)
    assert db.type(key) != b"hash"


@pytest.mark.parametrize(
    "key",
    [
        f"rq:wip:{QUEUE}", f"rq:finished:{QUEUE}", "rq:executions:a-job", "rq:worker:a-worker:executions",
        "rq:results:a-job",
    ],
)  # fmt: skip
def test_a_run_goes_on_and_ends_although_a_key_that_lists_it_has_another_type(
    db: redis.Redis, records: RqRecords, run: JobExecution, key: str
) -> None:
    hold(db, run)
    db.delete(key)
    db.set(key, "x")
    assert records.renew_lease(run) == "ok"
    assert records.finish(run, fetch(db, "a-job"), JobStatus.FINISHED, {}) == "done"
    assert db.hget("rq:job:a-job", "status") == b"finished"
    assert db.ttl("rq:job:a-job") > 0


@pytest.mark.parametrize(
    "key",
    ["rq:queues", "rq:executions:a-job", "rq:worker:a-worker:executions", keys.control("a-job")],
)
def test_a_job_is_put_back_although_a_key_beside_its_queue_has_another_type(
    db: redis.Redis, records: RqRecords, run: JobExecution, key: str
) -> None:
    db.delete(key)
    db.set(key, "x")
    expire_lease(db, run)
    assert records.requeue(run, Why.EXPIRED, expired_by=db.time()[0]) == "requeued"
    assert waiting(db) == ["a-job"]
    assert lease_s(db, run) is None


# Leases


def test_a_renewed_lease_has_its_full_length_again(db: redis.Redis, records: RqRecords, run: JobExecution) -> None:
    expire_lease(db, run)
    assert records.renew_lease(run) == "ok"
    assert lease_s(db, run) == pytest.approx(LEASE_S, abs=1)


def test_the_readers_of_a_stream_can_read_the_lease_of_its_holder(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    hold(db, run)
    records.renew_lease(run)
    until_ms = int(db.hget(keys.control("a-job"), "lease_until"))  # type: ignore[arg-type] - it was written
    assert until_ms / 1000 - db.time()[0] == pytest.approx(LEASE_S, abs=1)
    assert 0 < db.ttl(keys.control("a-job")) <= MAX_KEEP_S


def test_a_run_whose_job_was_put_back_has_lost_its_lease(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    records.requeue(run, Why.RETURNED)
    assert records.renew_lease(run) == LOST
    assert lease_s(db, run) is None


def test_the_renewal_of_a_cancelled_run_returns_who_cancelled_it(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    hold(db, run, cancel="kim")
    assert records.renew_lease(run) == "cancelled by kim"


def test_a_job_that_was_cancelled_or_deleted_with_rqs_tools_is_cancelled(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    hold(db, run)
    fetch(db, "a-job").delete()
    db.zrem(run.lease_key, run.composite)
    assert records.renew_lease(run) == "cancelled by RQ"


def test_a_full_redis_still_renews_leases(db: redis.Redis, records: RqRecords, run: JobExecution) -> None:
    expire_lease(db, run)
    db.config_set("maxmemory", 1)
    assert records.renew_lease(run) == "ok"
    assert lease_s(db, run) == pytest.approx(LEASE_S, abs=1)


# Ends


@pytest.mark.parametrize(
    ("status", "outcome", "kind"),
    [
        (JobStatus.FINISHED, {"state": "done"}, Result.Type.SUCCESSFUL),
        (JobStatus.FAILED, "no voice", Result.Type.FAILED),
        (JobStatus.STOPPED, "cancelled by kim", Result.Type.FAILED),
    ],
)
def test_the_end_of_a_run_is_recorded_as_rqs_result(
    db: redis.Redis, records: RqRecords, run: JobExecution, status: JobStatus, outcome: object, kind: Result.Type
) -> None:
    assert records.finish(run, fetch(db, "a-job"), status, outcome) == "done"
    job = fetch(db, "a-job")
    result = job.latest_result()
    assert result
    assert (job.get_status(), result.type) == (status, kind)
    assert outcome in (result.return_value, result.exc_string)
    registry = "finished" if status is JobStatus.FINISHED else "failed"
    assert db.zrange(f"rq:{registry}:{QUEUE}", 0, -1) == [b"a-job"]
    assert lease_s(db, run) is None
    assert db.keys("rq:execution*") == db.keys("rq:worker:*") == []


def test_a_run_that_lost_its_lease_records_no_end(db: redis.Redis, records: RqRecords, run: JobExecution) -> None:
    records.requeue(run, Why.RETURNED)
    assert records.finish(run, fetch(db, "a-job"), JobStatus.FINISHED, {}) == LOST
    assert fetch(db, "a-job").get_status() is JobStatus.QUEUED
    assert not db.exists("rq:results:a-job")
    assert waiting(db) == ["a-job"]


def test_an_end_that_is_sent_again_because_its_reply_was_lost_is_recorded_once(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    job = fetch(db, "a-job")
    for _ in range(2):
        assert records.finish(run, job, JobStatus.FINISHED, {}) == "done"
    assert db.xlen("rq:results:a-job") == 1


def test_a_record_is_kept_no_longer_than_the_limit(db: redis.Redis, records: RqRecords) -> None:
    enqueue(db, "a-job", result_ttl=10 * MAX_KEEP_S)
    one = claim(records)
    records.finish(one.run, one.job, JobStatus.FINISHED, {})
    assert 0 < db.ttl("rq:job:a-job") <= MAX_KEEP_S


def test_jobs_that_depend_on_an_ended_one_are_enqueued(db: redis.Redis, records: RqRecords) -> None:
    enqueue(db, "next", depends_on=enqueue(db, "a-job"))
    one = claim(records)
    assert waiting(db) == []
    assert records.finish(one.run, one.job, JobStatus.FINISHED, {}) == "done"
    assert waiting(db) == ["next"]
    assert fetch(db, "a-job").get_status() is JobStatus.FINISHED


def test_the_end_is_recorded_even_if_a_dependent_cannot_be_enqueued(
    db: redis.Redis, records: RqRecords, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(db, "next", depends_on=enqueue(db, "a-job"))
    one = claim(records)
    db.set("rq:job:next", "not a hash")
    assert records.finish(one.run, one.job, JobStatus.FINISHED, {}) == "done"
    assert fetch(db, "a-job").get_status() is JobStatus.FINISHED
    assert "job.dependents_failed job=a-job" in caplog.messages


# Jobs that are put back


def test_a_returned_job_is_first_in_its_queue_and_counts_no_death(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    enqueue(db, "behind")
    hold(db, run)
    assert records.requeue(run, Why.RETURNED) == "requeued"
    assert waiting(db) == ["a-job", "behind"]
    assert deaths(db, "a-job") == 0
    assert fetch(db, "a-job").get_status() is JobStatus.QUEUED
    assert db.hget(keys.control("a-job"), "holder") is None
    assert records.requeue(run, Why.RETURNED) == "gone"


def test_a_job_may_go_to_the_end_or_to_another_queue(db: redis.Redis, records: RqRecords) -> None:
    for job in ("a-job", "behind"):
        enqueue(db, job)
    first = claim(records).run
    assert records.requeue(first, Why.RETURNED, last=True) == "requeued"
    assert waiting(db) == ["behind", "a-job"]
    second = claim(records, "second").run
    piper = queue_name("piper", "batch")
    assert records.requeue(second, Why.RETURNED, to=piper) == "requeued"
    assert waiting(db, piper) == ["behind"]
    assert fetch(db, "behind").origin == piper
    assert db.sismember("rq:queues", f"rq:queue:{piper}")


def test_a_job_with_a_valid_lease_is_not_requeued_as_expired(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    assert records.requeue(run, Why.EXPIRED) == "alive"
    assert waiting(db) == []
    expire_lease(db, run)
    assert records.requeue(run, Why.EXPIRED) == "requeued"
    assert deaths(db, "a-job") == 1


def test_deaths_in_one_segment_add_up_and_a_completed_segment_resets_them(db: redis.Redis, records: RqRecords) -> None:
    enqueue(db, "a-job")
    counts = []
    for number, segments in enumerate(["0", "0", "1", "1"]):
        run = claim(records, f"run-{number}").run
        db.hset(keys.control("a-job"), "marked_segments", segments)
        records.requeue(run, Why.BROKEN)
        counts.append(deaths(db, "a-job"))
    assert counts == [1, 2, 1, 2]


def on(host: str, *, completed: bool = False, other_host: str = "") -> Standing:
    """Return what is known of a worker on a host, and of one on another host that lives."""
    others = (Neighbour(other_host, frozenset([QUEUE]), completed=True, process=""),) if other_host else ()
    return Standing(host, completed, others)


@pytest.mark.parametrize(
    ("workers", "died_on", "blamed"),
    [
        ([on("a"), on("b")], b"a b", b"0"),
        ([on("a"), on("b"), on("a")], b"a b", b"0"),
        ([on("a", completed=True), on("a")], b"a", b"0"),
        ([on("a"), on("a", completed=True)], b"a", b"1"),
        ([on("a"), on("a", completed=True, other_host="b")], b"a", b"0"),
        ([on("a"), on("aa")], b"a aa", b"0"),
    ],
)
def test_it_is_recorded_where_workers_died_and_whether_they_had_completed_anything(
    db: redis.Redis, workers: list[Standing], died_on: bytes, blamed: bytes
) -> None:
    enqueue(db, "a-job")
    for number, worker in enumerate(workers):
        records = RqRecords(lambda **_: db, f"w{number}", worker)
        expire_lease(db, run := claim(records, f"run-{number}").run)
        assert records.requeue(run, Why.EXPIRED) == "requeued"
    assert db.hmget("rq:job:a-job", "deaths", "died_on", "blamed") == [b"%d" % len(workers), died_on, blamed]
    run = claim(records_of(db), "last").run
    assert (run.deaths, run.died_on, run.blamed) == (len(workers), len(died_on.split()), blamed == b"1")


def test_a_later_death_beside_other_jobs_proves_nothing(db: redis.Redis) -> None:
    enqueue(db, "a-job")
    for host in ("a", "b"):
        records = RqRecords(lambda **_: db, "w", on(host, completed=True))
        found = records.claim([QUEUE], f"run-{host}", alone=False)
        assert found
        records.requeue(found.run, Why.BROKEN)
    assert db.hmget("rq:job:a-job", "deaths", "died_on", "blamed") == [b"2", b"a", b"0"]


def test_a_completed_segment_clears_the_hosts_too(db: redis.Redis) -> None:
    enqueue(db, "a-job")
    for number, host in enumerate("aab"):
        records = RqRecords(lambda **_: db, "w", on(host, completed=True))
        run = claim(records, f"run-{number}").run
        db.hset(keys.control("a-job"), "marked_segments", number // 2)
        records.requeue(run, Why.BROKEN)
    assert db.hmget("rq:job:a-job", "deaths", "died_on", "blamed") == [b"1", b"b", b"0"]


@pytest.mark.parametrize(
    ("run", "poison"),
    [
        (JobExecution("q", "j", "r", deaths=1, died_on=2, blamed=True), False),
        (JobExecution("q", "j", "r", deaths=2, died_on=2), True),
        (JobExecution("q", "j", "r", deaths=2, died_on=1), False),
        (JobExecution("q", "j", "r", deaths=2, died_on=1, blamed=True), True),
        (JobExecution("q", "j", "r", deaths=3, died_on=1), False),
        (JobExecution("q", "j", "r", deaths=4, died_on=1), True),
        (JobExecution("q", "j", "r", deaths=4), True),
    ],
)
def test_a_job_is_poison_when_it_and_not_a_machine_is_the_cause(run: JobExecution, poison: bool) -> None:  # noqa: FBT001
    assert run.is_poison(2) is poison


def test_a_job_that_has_ended_does_not_go_back(db: redis.Redis, records: RqRecords, run: JobExecution) -> None:
    db.hset("rq:job:a-job", "status", "canceled")
    assert records.requeue(run, Why.RETURNED) == "over"
    assert waiting(db) == []
    assert lease_s(db, run) is None


def test_a_job_can_be_put_back_if_redis_is_full(db: redis.Redis, records: RqRecords, run: JobExecution) -> None:
    db.config_set("maxmemory", 1)
    assert records.requeue(run, Why.RETURNED) == "requeued"
    assert waiting(db) == ["a-job"]


def test_a_second_delivery_is_forgotten_only_while_the_holder_has_a_lease(
    db: redis.Redis, records: RqRecords, run: JobExecution
) -> None:
    db.rpush(f"rq:queue:{QUEUE}", "a-job")
    second = claim(records, "second").run
    assert records.forget(second) == "kept", "nobody holds the stream"
    hold(db, run)
    assert records.forget(second) == "forgotten"
    assert lease_s(db, second) is None
    assert lease_s(db, run)
    db.rpush(f"rq:queue:{QUEUE}", "a-job")
    third = claim(records, "third").run
    db.zrem(run.lease_key, run.composite)
    assert records.forget(third) == "kept"
    assert lease_s(db, third)


def test_a_claim_whose_reply_was_lost_is_found_by_its_name(db: redis.Redis, records: RqRecords) -> None:
    enqueue(db, "a-job")
    run = claim(records, "a-name").run
    queues = [OTHER, QUEUE]
    assert records.lost_claims(["a-name", "never executed"], queues) == [
        type(run)(queue, "a-job", "a-name") for queue in queues
    ]
    assert records.lost_claims(["never executed"], queues) == []
    assert records_of(db, "another-worker").lost_claims(["a-name"], queues) == []


@pytest.mark.parametrize(
    ("error", "corrupt"),
    [
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), True),
        (ResponseError("ERR hash value is not an integer"), True),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), False),
        (ConnectionError("WRONGTYPE"), False),
    ],
)
def test_is_corrupt_is_true_only_for_errors_that_every_further_run_would_meet(error: Exception, corrupt: bool) -> None:  # noqa: FBT001
    assert is_corrupt(error) is corrupt
