"""Recording the end of a run, on a real Redis: RQ's status, result and registries, and the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from rq.job import JobStatus
from rq.results import Result

from tests.support.queued_jobs import QUEUE, claim, enqueue, fetch, records_of, waiting
from voxspool.errors import InvalidJobError
from voxspool.protocol import keys
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.queue.capacity import Capacity
from voxspool_worker.queue.lifecycle import Lifecycle
from voxspool_worker.queue.outcomes import Outcomes
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.publisher import (
    AlreadyRunningError,
    LostWritesError,
    NeedsOtherWorkerError,
    WrongEngineError,
)
from voxspool_worker.speech.scheduler import EngineLostError

if TYPE_CHECKING:
    from voxspool_worker.queue.job_spec import ClaimedJob


class Parts:
    """The outcomes of one worker, and the parts to which they report."""

    def __init__(self, db: redis.Redis) -> None:
        self.lifecycle = Lifecycle()
        self.capacity = Capacity(1, self.lifecycle.wake_up)
        self.metrics = Metrics()
        self.records = records_of(db)
        pipeline = Pipeline(ToneEngine(), db, "a-worker")
        self.outcomes = Outcomes(self.records, pipeline, self.capacity, self.metrics, self.lifecycle)


@pytest.fixture
def parts(db: redis.Redis) -> Parts:
    return Parts(db)


def claimed(db: redis.Redis, parts: Parts, **options: object) -> ClaimedJob:
    enqueue(db, "a-job", **options)
    return claim(parts.records)


def lease(db: redis.Redis) -> float | None:
    return db.zscore(f"rq:wip:{QUEUE}", "a-job:a-run")


def test_a_success_is_recorded_as_rqs_result(db: redis.Redis, parts: Parts) -> None:
    parts.outcomes.succeeded(claimed(db, parts), {"state": "done"})
    job = fetch(db, "a-job")
    assert job.get_status() is JobStatus.FINISHED
    result = job.latest_result()
    assert result
    assert (result.type, result.return_value) == (Result.Type.SUCCESSFUL, {"state": "done"})
    assert lease(db) is None
    assert parts.outcomes.statistics()["successful_job_count"] == 1
    assert parts.metrics.counts().jobs == {("ended", ""): 1}


@pytest.mark.parametrize(
    ("error", "status", "sentence", "outcome"),
    [
        (SpeechGivenUpError("engine", "no voice"), JobStatus.FAILED, "no voice", ("failed", "engine")),
        (EndedEarlyError(Reason.TIMED_OUT), JobStatus.FAILED, "time limit", ("failed", "timeout")),
        (EndedEarlyError(Reason.CANCELLED, "kim"), JobStatus.STOPPED, "cancelled by kim", ("cancelled", "")),
        (EndedEarlyError(Reason.CANCELLED), JobStatus.STOPPED, "a stop command", ("cancelled", "")),
        (redis.ResponseError("WRONGTYPE Operation"), JobStatus.FAILED, "corrupt", ("failed", "internal")),
        (ValueError("seven"), JobStatus.FAILED, "ValueError: seven", ("failed", "internal")),
        (SystemExit(3), JobStatus.FAILED, "SystemExit: 3", ("failed", "internal")),
    ],
)
def test_a_failure_is_one_sentence_in_rqs_result(
    db: redis.Redis, parts: Parts, error: BaseException, status: JobStatus, sentence: str, outcome: tuple[str, str]
) -> None:
    parts.outcomes.raised(claimed(db, parts), error)
    job = fetch(db, "a-job")
    assert job.get_status() is status
    result = job.latest_result()
    assert result
    assert result.exc_string
    assert sentence in result.exc_string
    assert "Traceback" not in result.exc_string
    assert parts.metrics.counts().jobs == {outcome: 1}
    assert parts.outcomes.statistics()["failed_job_count"] == 1


@pytest.mark.parametrize(
    ("error", "deaths"),
    [(EndedEarlyError(Reason.HANDED_BACK), 0), (LostWritesError(), 0), (EngineLostError("gone"), 1)],
)
def test_a_job_goes_back_to_the_front_and_only_a_broken_engine_is_a_death(
    db: redis.Redis, parts: Parts, error: Exception, deaths: int
) -> None:
    one = claimed(db, parts)
    enqueue(db, "another")
    parts.outcomes.raised(one, error)
    assert waiting(db) == ["a-job", "another"]
    assert int(db.hget("rq:job:a-job", "deaths") or 0) == deaths
    assert lease(db) is None


def test_a_job_of_another_engine_goes_to_that_engines_queue(db: redis.Redis, parts: Parts) -> None:
    parts.outcomes.raised(claimed(db, parts), WrongEngineError("piper"))
    assert waiting(db) == []
    assert waiting(db, "voxspool-piper-batch") == ["a-job"]


def test_a_job_that_only_others_can_run_goes_to_the_end_and_batch_work_is_left_to_them(
    db: redis.Redis, parts: Parts
) -> None:
    one = claimed(db, parts)
    enqueue(db, "another")
    assert parts.capacity.takes_chapters
    parts.outcomes.raised(one, NeedsOtherWorkerError("no store"))
    assert waiting(db) == ["another", "a-job"]
    assert not parts.capacity.takes_chapters


def test_a_second_delivery_is_forgotten_while_the_run_that_holds_the_job_has_a_lease(
    db: redis.Redis, parts: Parts
) -> None:
    one = claimed(db, parts)
    db.zadd(f"rq:wip:{QUEUE}", {"a-job:first-run": db.time()[0] + 60})
    db.hset(keys.control("a-job"), "holder", "first-run")
    parts.outcomes.raised(one, AlreadyRunningError("first-run"))
    assert lease(db) is None
    assert waiting(db) == []
    assert parts.metrics.counts().jobs == {("held", ""): 1}


def test_if_redis_is_not_available_no_outcome_is_recorded(db: redis.Redis, parts: Parts) -> None:
    one = claimed(db, parts)
    with pytest.raises(redis.ConnectionError):
        parts.outcomes.raised(one, redis.ConnectionError("gone"))
    assert lease(db)
    assert parts.metrics.counts().jobs == {}


def test_a_run_that_lost_its_lease_records_nothing(db: redis.Redis, parts: Parts) -> None:
    one = claimed(db, parts)
    db.zrem(f"rq:wip:{QUEUE}", "a-job:a-run")
    parts.outcomes.succeeded(one, {"state": "done"})
    assert fetch(db, "a-job").latest_result() is None
    assert parts.outcomes.statistics()["successful_job_count"] == 0


def test_a_dependent_job_is_enqueued_after_a_success(db: redis.Redis, parts: Parts) -> None:
    one = claimed(db, parts)
    enqueue(db, "dependent", depends_on=fetch(db, "a-job"))
    assert waiting(db) == []
    parts.outcomes.succeeded(one, {"state": "done"})
    assert waiting(db) == ["dependent"]
    assert fetch(db, "a-job").get_status() is JobStatus.FINISHED


def test_a_dependent_job_stays_deferred_after_a_failure(db: redis.Redis, parts: Parts) -> None:
    one = claimed(db, parts)
    enqueue(db, "dependent", depends_on=fetch(db, "a-job"))
    parts.outcomes.raised(one, SpeechGivenUpError("engine", "no voice"))
    assert waiting(db) == []
    assert fetch(db, "dependent").get_status() is JobStatus.DEFERRED
    assert fetch(db, "a-job").get_status() is JobStatus.FAILED


def test_a_corrupt_list_of_dependents_does_not_prevent_the_end_of_a_job(db: redis.Redis, parts: Parts) -> None:
    one = claimed(db, parts)
    db.set("rq:job:a-job:dependents", "no set")
    parts.outcomes.succeeded(one, {"state": "done"})
    assert fetch(db, "a-job").get_status() is JobStatus.FINISHED


def test_a_refused_job_closes_its_stream_and_fails(db: redis.Redis, parts: Parts) -> None:
    problem = InvalidJobError("speed 9 is too fast")
    parts.outcomes.refused(claimed(db, parts), problem)
    assert db.hget(keys.control("a-job"), "state") == b"failed"
    assert fetch(db, "a-job").get_status() is JobStatus.FAILED
    assert parts.metrics.counts().jobs == {("failed", problem.code): 1}


def test_an_unreadable_job_fails_and_leaves_the_queue(db: redis.Redis, parts: Parts) -> None:
    run = claimed(db, parts).run
    parts.outcomes.unreadable(run, InvalidJobError("its hash in Redis cannot be read"), lambda _: None)
    assert db.hget(keys.control("a-job"), "state") == b"failed"
    assert lease(db) is None
    assert waiting(db) == []
