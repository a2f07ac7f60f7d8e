"""The undocumented behaviour of RQ on which voxspool depends. If RQ changes it, these tests fail, and not users' jobs.

No test uses Redis: a client of redis-py connects with its first command, and a pipeline keeps its commands until it is
executed.
"""

from __future__ import annotations

import inspect
import textwrap
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
import redis
from packaging.requirements import Requirement
from rq import Queue
from rq.command import send_shutdown_command, send_stop_execution_command, send_stop_job_command
from rq.executions import Execution, ExecutionRegistry
from rq.job import JOB_ID_PATTERN, Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat
from rq.version import VERSION
from rq.worker import BaseWorker, WorkerStatus

from voxspool.protocol.jobs import TASK, JobSpec
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue.job_spec import decode_spec

if TYPE_CHECKING:
    from collections.abc import Callable


OFFLINE = redis.Redis(unix_socket_path="/nowhere", retry=None)


def parameters(function: Callable[..., object]) -> list[str]:
    """Return the names of a method's parameters, without `self`."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def source(function: Callable[..., object]) -> str:
    """Return the source of a function on one line, so that line breaks make no difference."""
    return " ".join(textwrap.dedent(inspect.getsource(function)).split())


@pytest.fixture
def queue() -> Queue:
    return Queue("voxspool-tone-batch", connection=OFFLINE, serializer=JSONSerializer)


def job_of(*args: object, func: str = TASK, id: str = "a-job", **options: object) -> Job:  # noqa: A002 - RQ's name
    return Job.create(func, args=list(args), id=id, connection=OFFLINE, serializer=JSONSerializer, **options)


# The version


def test_rq_is_of_the_version_that_this_file_describes() -> None:
    (wanted,) = (
        requirement for requirement in map(Requirement, metadata.requires("voxspool") or []) if requirement.name == "rq"
    )
    assert {(part.operator, part.version) for part in wanted.specifier} == {(">=", "3.0"), ("<", "3.1")}
    assert metadata.version("rq") in wanted.specifier
    assert metadata.version("rq") == VERSION


def test_rq_has_the_states_and_patterns_that_voxspool_uses() -> None:
    # The scripts compare these words.
    assert (JobStatus.QUEUED.value, JobStatus.STARTED.value, JobStatus.FAILED.value) == ("queued", "started", "failed")
    assert JOB_ID_PATTERN.fullmatch(JobSpec("").id)
    for name in ["a" * 128, "A_b-9"]:
        assert JobSpec("", id=name).id == name
        assert JOB_ID_PATTERN.fullmatch(name)
    for name in ["", "a b", "a:b", "a\n", "ä"]:
        assert not JOB_ID_PATTERN.fullmatch(name)


# Redis keys


def test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use(queue: Queue) -> None:
    assert StartedJobRegistry.key_template == "rq:wip:{0}"
    run = JobExecution(queue.name, "j", "e")
    assert run.lease_key == queue.started_job_registry.key == "rq:wip:voxspool-tone-batch"
    assert run.record_keys == (Execution("e", "j", OFFLINE).key, ExecutionRegistry("j", OFFLINE).key)
    assert run.composite == Execution("e", "j", OFFLINE).composite_key
    assert ExecutionRegistry.key_template == "rq:executions:{0}"
    assert Execution("e", "j", OFFLINE).key == "rq:execution:j:e"
    assert Job.redis_job_namespace_prefix == "rq:job:"
    assert Job.key_for("j") == "rq:job:j"
    assert Queue.redis_queue_namespace_prefix == "rq:queue:"
    assert queue.key == "rq:queue:voxspool-tone-batch"
    assert Queue.redis_queues_keys == "rq:queues"
    assert BaseWorker.redis_workers_keys == "rq:workers"
    assert WORKERS_SUSPENDED == "rq:suspended"


def written(pipeline: redis.client.Pipeline, command: str, key: str) -> list[Any]:
    """Return the other arguments of the only command in a pipeline with this name and key."""
    (found,) = (args for args, _ in pipeline.command_stack if args[:2] == (command, key))
    return list(found[2:])


def fields_of(items: list[Any]) -> dict[str, Any]:
    """Return the fields in a list of the form field, value, field, value."""
    return dict(zip(items[::2], items[1::2], strict=True))


def test_a_claim_writes_the_same_execution_record_as_rq(queue: Queue) -> None:
    # lua/dequeue.lua does in one step what RQ does with these.
    job = job_of({}, origin=queue.name)
    pipeline = OFFLINE.pipeline()
    execution = Execution.create(job, 9, pipeline, "a-worker")
    composite = f"a-job:{execution.id}"
    assert (execution.composite_key, execution.key) == (composite, f"rq:execution:{composite}")
    facts = fields_of(written(pipeline, "HSET", execution.key))
    assert list(facts) == ["id", "job_id", "created_at", "last_heartbeat", "worker_name"]
    assert facts["last_heartbeat"] == pytest.approx(execution.created_at.timestamp(), abs=1)  # seconds since the epoch
    assert written(pipeline, "ZADD", "rq:executions:a-job")[-1] == execution.id
    assert written(pipeline, "ZADD", f"rq:wip:{queue.name}")[-1] == composite
    assert written(pipeline, "SADD", "rq:worker:a-worker:executions") == [composite]


def test_a_claim_writes_the_same_job_fields_as_rq() -> None:
    job = job_of({})
    pipeline = OFFLINE.pipeline()
    job.prepare_for_execution("a-worker", pipeline=pipeline)
    facts = fields_of(written(pipeline, "HSET", "rq:job:a-job"))
    assert sorted(facts) == ["last_heartbeat", "started_at", "status", "worker_name"]
    assert facts["status"] == "started"
    assert facts["started_at"] == utcformat(job.started_at)


def test_a_claimed_job_is_read_from_the_fields_of_its_hash() -> None:
    sent = job_of(JobSpec("Hello.", id="a-job").encode(), timeout=77, result_ttl=66)
    encode = OFFLINE.get_encoder().encode
    fields = {name.encode(): encode(value) for name, value in sent.to_dict().items()}
    job = Job("a-job", connection=OFFLINE, serializer=JSONSerializer)
    job.restore(fields)
    assert decode_spec(job) == JobSpec("Hello.", id="a-job")
    assert (job.timeout, job.result_ttl) == (77, 66)


@pytest.mark.parametrize("finished", [True, False])
def test_an_end_writes_the_same_result_as_rq(queue: Queue, finished: bool) -> None:  # noqa: FBT001
    # lua/finish.lua does in one step what RQ does with these.
    job, pipeline = job_of({}, origin=queue.name), OFFLINE.pipeline()
    said = {"return_value": {"state": "done"}} if finished else {"exc_string": "it could not be said"}
    kind = Result.Type.SUCCESSFUL if finished else Result.Type.FAILED
    Result(
        job.id, kind, connection=OFFLINE, serializer=JSONSerializer, worker_name="a-worker", execution_id="e",
        execution_started_at=now(), execution_ended_at=now(), **said,
    ).save(9, pipeline)  # fmt: skip
    entry = written(pipeline, "XADD", "rq:results:a-job")
    assert b"MAXLEN" in entry
    assert set(entry) >= {"type", "worker_name", "execution_id", *said}
    assert written(pipeline, "EXPIRE", "rq:results:a-job") == [9]
    registry = queue.finished_job_registry if finished else queue.failed_job_registry
    assert registry.key == f"rq:{'finished' if finished else 'failed'}:{queue.name}"
    registry.add(job, 9, pipeline=pipeline)
    assert job.id in written(pipeline, "ZADD", registry.key)
    assert job.dependents_key == "rq:job:a-job:dependents"


def test_deleting_an_execution_deletes_everything_that_was_written(queue: Queue) -> None:
    assert parameters(Execution.delete) == ["job", "pipeline"]
    job, pipeline = job_of({}, origin=queue.name), OFFLINE.pipeline()
    execution = Execution("e", job.id, OFFLINE, "a-worker")
    execution.delete(job=job, pipeline=pipeline)
    commands = [args for args, _ in pipeline.command_stack]
    assert ("DEL", execution.key) in commands
    assert written(pipeline, "ZREM", f"rq:wip:{queue.name}") == ["a-job:e"]
    assert written(pipeline, "ZREM", "rq:executions:a-job") == ["e"]
    assert written(pipeline, "SREM", "rq:worker:a-worker:executions") == ["a-job:e"]


def test_the_record_of_a_worker_has_the_fields_that_the_heartbeat_writes(queue: Queue) -> None:
    worker = BaseWorker([queue], connection=OFFLINE, prepare_for_work=False, name="a-worker")
    assert worker.key == "rq:worker:a-worker"
    assert worker.executions_key == "rq:worker:a-worker:executions"
    pipeline = OFFLINE.pipeline()
    worker.set_state(WorkerStatus.BUSY, pipeline=pipeline)
    worker.increment_successful_job_count(pipeline)
    worker.increment_failed_job_count(pipeline)
    worker.increment_total_working_time(timedelta(seconds=3), pipeline)
    fields = [args[2] for args, _ in pipeline.command_stack]
    assert fields == ["state", "successful_job_count", "failed_job_count", "total_working_time"]


# Commands


def test_the_commands_of_rqs_tools_have_the_fields_that_the_worker_reads() -> None:
    assert "send_command(connection, job.worker_name, 'stop-job', job_id=job_id)" in source(send_stop_job_command)
    assert "'stop-execution', job_id=job_id, execution_id=execution_id)" in source(send_stop_execution_command)
    assert "send_command(connection, worker_name, 'shutdown')" in source(send_shutdown_command)
    assert "subscribe(**{self.pubsub_channel_name: self.handle_payload})" in source(BaseWorker.subscribe)


# Dependents


def test_dependents_are_enqueued_by_a_status_that_is_not_in_redis_yet() -> None:
    taken = ["job", "pipeline", "exclude_job_id", "refresh_job_status"]
    assert parameters(Queue.move_dependents_to_ready) == taken
    assert parameters(Queue.enqueue_ready_jobs_by_queue) == ["job_ids_by_queue_name"]
    assert "parent_job.get_status(refresh=refresh_job_status)" in source(Job.dependencies_are_met)
    job = job_of({})
    job._status = JobStatus.FINISHED
    assert job.get_status(refresh=False) is JobStatus.FINISHED
