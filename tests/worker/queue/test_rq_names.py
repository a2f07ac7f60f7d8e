"""Every name of RQ that the two packages use, and the test that fails if RQ changes it. A new name needs a test.

Every system test covers what RQ documents for its users (a queue, a job, its statuses). This file, test_rq_contract.py
and test_job_spec.py cover the rest. No test uses Redis.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE, parse_payload, send_stop_execution_command
from rq.job import Job, JobStatus
from rq.registry import (
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, clean_worker_registry, get_keys

from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*ROOT.glob("producer/voxspool/**/*.py"), *ROOT.glob("worker/voxspool_worker/**/*.py")])

DOCUMENTED = {
    *("rq.Queue", "rq.job.Job", "rq.job.Job.fetch", "rq.serializers.JSONSerializer"),
    "rq.job.JobStatus",
    "job.get_status",
}
"""Names that RQ documents."""

HELD = {
    "rq.Queue.redis_queue_namespace_prefix": "test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use",
    "rq.Queue.redis_queues_keys": "test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use",
    "rq.command.parse_payload": "test_a_command_is_a_json_message",
    "rq.command.send_command": "test_a_command_is_a_json_message",
    "rq.exceptions.DeserializationError": "test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks",
    "rq.job.JOB_ID_PATTERN": "test_rq_has_the_states_and_patterns_that_voxspool_uses",
    "rq.job.JOB_ID_PATTERN.fullmatch": "test_rq_has_the_states_and_patterns_that_voxspool_uses",
    "rq.job.Job.redis_job_namespace_prefix": "test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use",
    "rq.job.JobStatus.FAILED": "test_statuses_are_the_words_that_scripts_and_readers_expect",
    "rq.job.JobStatus.FINISHED": "test_statuses_are_the_words_that_scripts_and_readers_expect",
    "rq.job.JobStatus.STOPPED": "test_statuses_are_the_words_that_scripts_and_readers_expect",
    "rq.registry.CanceledJobRegistry": "test_the_registry_of_cancelled_jobs_has_the_time_of_cancellation",
    "rq.registry.CanceledJobRegistry.key_template": "test_registries_are_named_by_their_queue",
    "rq.registry.FailedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.FinishedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.ScheduledJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.ScheduledJobRegistry.key_template": "test_registries_are_named_by_their_queue",
    "rq.registry.StartedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.StartedJobRegistry.key_template": "test_registries_are_named_by_their_queue",
    "rq.results.Result": "test_an_end_writes_the_same_result_as_rq",
    "rq.results.Result.Type": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
    "rq.results.Result.get_key": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
    "rq.suspension.WORKERS_SUSPENDED": "test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use",
    "rq.utils.now": "test_times_are_aware_and_written_in_utc",
    "rq.utils.utcformat": "test_times_are_aware_and_written_in_utc",
    "rq.worker.BaseWorker": "test_the_key_of_a_workers_record_has_rqs_prefix",
    "rq.worker.BaseWorker.redis_worker_namespace_prefix": "test_the_key_of_a_workers_record_has_rqs_prefix",
    "rq.worker.BaseWorker.redis_workers_keys": "test_rq_uses_the_keys_that_the_scripts_and_the_recovery_use",
    "rq.worker.WorkerStatus": "test_the_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.BUSY": "test_the_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.IDLE": "test_the_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.SUSPENDED": "test_the_states_of_a_worker_are_words",
    "rq.version.VERSION": "test_rq_is_of_the_version_that_this_file_describes",
    "rq.command.PUBSUB_CHANNEL_TEMPLATE": "test_a_command_is_a_json_message",
    "rq.worker_registration.WORKERS_BY_QUEUE_KEY": "test_rq_removes_dead_workers_from_the_list_of_a_queue",
    "rq.worker_registration.clean_worker_registry": "test_rq_removes_dead_workers_from_the_list_of_a_queue",
    "job._failure_callback_name": "test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks",
    "job._status": "test_dependents_are_enqueued_by_a_status_that_is_not_in_redis_yet",
    "job._stopped_callback_name": "test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks",
    "job._success_callback_name": "test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks",
    "job.args": "test_a_speech_job_is_accepted",
    "job.dependents_key": "test_an_end_writes_the_same_result_as_rq",
    "job.failure_ttl": "test_a_jobs_own_lifetimes_override_the_default",
    "job.func_name": "test_another_function_is_refused_by_name",
    "job.get_result_ttl": "test_a_jobs_own_lifetimes_override_the_default",
    "job.data": "test_a_speech_job_is_accepted",
    "job.id": "test_a_speech_job_is_accepted",
    "job.instance": "test_other_arguments_are_refused",
    "job.kwargs": "test_other_arguments_are_refused",
    "job.origin": "test_rqs_cancel_and_delete_remove_the_lease_of_a_running_job",
    "job.repeats_left": "test_a_repeat_is_refused",
    "job.restore": "test_a_claimed_job_is_read_from_the_fields_of_its_hash",
    "job.started_at": "test_a_claim_writes_the_same_job_fields_as_rq",
    "job.webhooks": "test_rq_jobs_have_the_attributes_of_callbacks_and_webhooks",
    "result.serialize": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
}
"""Name of RQ -> the test that fails when RQ changes it."""

OBJECTS = {"job", "result"}
"""Names of variables with RQ's objects in the code of voxspool."""
OURS = {"job.decode"}
"""Attributes of such a variable that is not an object of RQ: here the bytes of an id."""
OFFLINE = redis.Redis(unix_socket_path="/nowhere", retry=None)


def taken(source: str) -> Iterator[str]:
    """Yield the names of RQ that a module uses: its imports, and the attributes of these and of OBJECTS."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rq"
        for alias in node.names
    }
    yield from imported.values()
    for node in ast.walk(tree) if imported else ():
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in imported:
                yield f"{imported[node.value.id]}.{node.attr}"
            elif node.value.id in OBJECTS:
                yield f"{node.value.id}.{node.attr}"


def written_tests() -> set[str]:
    """Return the names of the tests in the three files."""
    files = (Path(__file__).with_name(f"test_{name}.py") for name in ("rq_names", "rq_contract", "job_spec"))
    trees = [ast.parse(file.read_text()) for file in files]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def commands(pipeline: redis.client.Pipeline) -> list[tuple[Any, ...]]:
    """Return the commands in a pipeline."""
    return [args for args, _ in pipeline.command_stack]


@pytest.fixture
def queue() -> Queue:
    return Queue("voxspool-tone-batch", connection=OFFLINE, serializer=JSONSerializer)


@pytest.fixture
def job() -> Job:
    return Job.create(
        "f", id="j", connection=OFFLINE, serializer=JSONSerializer, origin="q", result_ttl=7, failure_ttl=8
    )


def test_every_name_of_rq_that_voxspool_uses_has_a_test() -> None:
    names = {name for path in SOURCES for name in taken(path.read_text())} - OURS
    assert names - DOCUMENTED - set(HELD) == set(), "without a test"
    assert set(HELD) - names == set(), "no longer taken"
    assert set(HELD.values()) - written_tests() == set(), "no such test"


def test_no_module_imports_rq_in_a_way_that_the_table_does_not_cover() -> None:
    for path in SOURCES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert not [name for name in whole if name.partition(".")[0] == "rq"], path
        private = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
            if isinstance(node.value, ast.Name) and node.value.id not in {"self", "cls", *OBJECTS}
        }
        assert private.isdisjoint(vars(Job("j", connection=OFFLINE))), path


def test_statuses_are_the_words_that_scripts_and_readers_expect() -> None:
    words = {status.name: status.value for status in JobStatus}
    assert (words["QUEUED"], words["STARTED"]) == ("queued", "started")
    assert (words["FINISHED"], words["FAILED"]) == ("finished", "failed")
    assert (words["STOPPED"], words["CANCELED"]) == ("stopped", "canceled")
    assert (words["DEFERRED"], words["SCHEDULED"]) == ("deferred", "scheduled")


def test_the_states_of_a_worker_are_words() -> None:
    assert (WorkerStatus.SUSPENDED, WorkerStatus.IDLE, WorkerStatus.BUSY) == ("suspended", "idle", "busy")


def test_registries_are_named_by_their_queue(queue: Queue) -> None:
    for registry, key in (
        (StartedJobRegistry, "rq:wip:q"),
        (FinishedJobRegistry, "rq:finished:q"),
        (FailedJobRegistry, "rq:failed:q"),
        (CanceledJobRegistry, "rq:canceled:q"),
        (ScheduledJobRegistry, "rq:scheduled:q"),
    ):
        assert registry.key_template.format("q") == registry("q", connection=OFFLINE).key == key
    assert queue.key == Queue.redis_queue_namespace_prefix + queue.name


def test_the_registry_of_cancelled_jobs_has_the_time_of_cancellation(job: Job) -> None:
    # The heartbeat removes entries of this registry by that time.
    pipeline = OFFLINE.pipeline()
    CanceledJobRegistry("q", connection=OFFLINE).add(job, pipeline=pipeline)
    ((*_, score, name),) = commands(pipeline)
    assert (score, name) == (pytest.approx(now().timestamp(), abs=5), "j")


def test_rqs_cancel_and_delete_remove_the_lease_of_a_running_job(job: Job) -> None:
    # These are the effects that lua/beat.lua checks; a system test covers both.
    removal = inspect.getsource(Job._remove_from_registries)
    assert "elif status == JobStatus.STARTED:" in removal
    assert "registry.remove_executions(self, pipeline=pipeline)" in removal
    assert "self.set_status(JobStatus.CANCELED, pipeline=pipe)" in inspect.getsource(Job.cancel)
    assert "connection.delete(self.key," in inspect.getsource(Job.delete)
    assert job.origin == "q"


def test_a_cancelled_job_gets_a_lifetime_and_is_not_removed(job: Job) -> None:
    pipeline = OFFLINE.pipeline()
    job.cleanup(ttl=9, pipeline=pipeline, remove_from_queue=False)
    assert ("EXPIRE", "rq:job:j", 9) in [command[:3] for command in commands(pipeline)]
    assert {command[0] for command in commands(pipeline)} == {"EXPIRE"}


def test_a_jobs_own_lifetimes_override_the_default(job: Job) -> None:
    assert (job.get_result_ttl(60), job.failure_ttl) == (7, 8)
    job.result_ttl = None
    assert job.get_result_ttl(60) == 60


@pytest.mark.parametrize("finished", [True, False])
def test_a_result_is_written_as_the_fields_that_it_is_read_from(finished: bool) -> None:  # noqa: FBT001
    outcome = {"return_value": {"state": "done"}} if finished else {"exc_string": "a sentence"}
    kind = Result.Type.SUCCESSFUL if finished else Result.Type.FAILED
    written = Result("j", kind, connection=OFFLINE, serializer=JSONSerializer, worker_name="w", **outcome).serialize()
    encode = OFFLINE.get_encoder().encode
    payload = {name.encode(): encode(value) for name, value in written.items()}
    read = Result.restore("j", "1-0", payload, connection=OFFLINE, serializer=JSONSerializer)
    assert (read.type, read.worker_name) == (kind, "w")
    assert (read.return_value, read.exc_string) == (outcome.get("return_value"), outcome.get("exc_string"))
    assert Result.get_key("j") == "rq:results:j"


def test_a_command_is_a_json_message() -> None:
    assert parse_payload({"data": b'{"command": "shutdown"}'}) == {"command": "shutdown"}
    assert PUBSUB_CHANNEL_TEMPLATE % "w" == "rq:pubsub:w"
    sent = "send_command(connection, execution.worker_name, 'stop-execution', job_id=job_id, execution_id=execution_id)"
    assert sent in inspect.getsource(send_stop_execution_command)


def test_times_are_aware_and_written_in_utc() -> None:
    assert now().utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert utcformat(now()).endswith("Z")


def test_the_key_of_a_workers_record_has_rqs_prefix() -> None:
    worker = BaseWorker([], "w", connection=OFFLINE, prepare_for_work=False)
    assert worker.key == BaseWorker.redis_worker_namespace_prefix + "w" == "rq:worker:w"
    assert keys.worker("w") != worker.key


def test_rq_removes_dead_workers_from_the_list_of_a_queue(queue: Queue) -> None:
    assert list(inspect.signature(clean_worker_registry).parameters) == ["queue"]
    asked: list[str] = []

    class Lists(redis.Redis):
        def smembers(self, name: str) -> set[bytes]:
            asked.append(name)
            return set()

    queue.connection = Lists(unix_socket_path="/nowhere", retry=None)
    clean_worker_registry(queue)
    assert asked == ["rq:workers:voxspool-tone-batch"] == [WORKERS_BY_QUEUE_KEY % queue.name]
    assert get_keys(connection=queue.connection) == set()
