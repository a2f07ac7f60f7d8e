"""Every name of RQ that either package takes, and the test that holds it: a new one must bring a test of its own.

What RQ documents for its users (a queue, a job, its statuses) is held by every system test; the rest is held here, or
in test_rq_contract.py and test_job_spec.py. Nothing is contacted.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rq import Queue
from rq.command import PUBSUB_CHANNEL_TEMPLATE, parse_payload, send_stop_job_command
from rq.exceptions import DeserializationError, DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.scripts import save_unique_job
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
    *("rq.Queue", "rq.job.Job", "rq.job.Job.fetch", "rq.job.Retry", "rq.serializers.JSONSerializer"),
    *("rq.command.send_stop_job_command", "rq.exceptions.NoSuchJobError", "rq.exceptions.InvalidJobOperation"),
    "rq.job.JobStatus",
    "job.get_status",
}
"""RQ's own documentation explains these."""

HELD = {
    "rq.Queue.redis_queue_namespace_prefix": "test_keys_are_what_the_scripts_and_the_rescue_take_them_for",
    "rq.Queue.redis_queues_keys": "test_keys_are_what_the_scripts_and_the_rescue_take_them_for",
    "rq.command.parse_payload": "test_a_command_is_the_json_of_a_message",
    "rq.exceptions.DeserializationError": "test_the_attributes_that_hold_a_jobs_hooks_are_there",
    "rq.exceptions.DuplicateJobError": "test_a_second_job_of_a_name_is_refused_by_a_unique_enqueue",
    "rq.job.JOB_ID_PATTERN": "test_states_and_patterns_that_we_name_are_there",
    "rq.job.JOB_ID_PATTERN.fullmatch": "test_states_and_patterns_that_we_name_are_there",
    "rq.job.Job.redis_job_namespace_prefix": "test_keys_are_what_the_scripts_and_the_rescue_take_them_for",
    "rq.job.JobStatus.DEFERRED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.job.JobStatus.FAILED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.job.JobStatus.FINISHED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.job.JobStatus.QUEUED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.job.JobStatus.SCHEDULED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.job.JobStatus.STOPPED": "test_statuses_are_the_words_that_scripts_and_readers_compare",
    "rq.registry.CanceledJobRegistry": "test_a_cancelled_job_is_noted_with_when_and_not_until_when",
    "rq.registry.CanceledJobRegistry.key_template": "test_registries_are_named_by_their_queue",
    "rq.registry.FailedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.FinishedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.StartedJobRegistry": "test_registries_are_named_by_their_queue",
    "rq.registry.StartedJobRegistry.key_template": "test_registries_are_named_by_their_queue",
    "rq.results.Result": "test_an_end_writes_what_rq_writes_of_a_result",
    "rq.results.Result.Type": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
    "rq.results.Result.get_key": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
    "rq.suspension.WORKERS_SUSPENDED": "test_keys_are_what_the_scripts_and_the_rescue_take_them_for",
    "rq.utils.now": "test_times_are_aware_and_written_in_utc",
    "rq.utils.utcformat": "test_times_are_aware_and_written_in_utc",
    "rq.worker.BaseWorker": "test_a_workers_record_is_named_by_its_prefix",
    "rq.worker.BaseWorker.redis_worker_namespace_prefix": "test_a_workers_record_is_named_by_its_prefix",
    "rq.worker.BaseWorker.redis_workers_keys": "test_keys_are_what_the_scripts_and_the_rescue_take_them_for",
    "rq.worker.WorkerStatus": "test_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.BUSY": "test_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.IDLE": "test_states_of_a_worker_are_words",
    "rq.worker.WorkerStatus.SUSPENDED": "test_states_of_a_worker_are_words",
    "rq.version.VERSION": "test_rq_is_of_the_version_that_this_file_describes",
    "rq.command.PUBSUB_CHANNEL_TEMPLATE": "test_a_command_is_the_json_of_a_message",
    "rq.worker_registration.WORKERS_BY_QUEUE_KEY": "test_workers_that_are_gone_are_looked_for_in_a_queues_list",
    "rq.worker_registration.clean_worker_registry": "test_workers_that_are_gone_are_looked_for_in_a_queues_list",
    "job._failure_callback_name": "test_the_attributes_that_hold_a_jobs_hooks_are_there",
    "job._status": "test_dependents_are_enqueued_by_a_status_that_is_not_in_redis_yet",
    "job._stopped_callback_name": "test_the_attributes_that_hold_a_jobs_hooks_are_there",
    "job._success_callback_name": "test_the_attributes_that_hold_a_jobs_hooks_are_there",
    "job.args": "test_a_job_of_ours_is_taken",
    "job.cancel": "test_rqs_cancel_and_delete_take_a_running_jobs_lease_away",
    "job.cleanup": "test_a_cancelled_job_is_given_a_lifetime_and_stays_where_it_is",
    "job.dependents_key": "test_an_end_writes_what_rq_writes_of_a_result",
    "job.failure_ttl": "test_a_jobs_lifetimes_are_its_own_before_the_default",
    "job.func_name": "test_another_function_is_refused_by_name",
    "job.get_result_ttl": "test_a_jobs_lifetimes_are_its_own_before_the_default",
    "job.id": "test_a_job_of_ours_is_taken",
    "job.instance": "test_other_arguments_are_refused",
    "job.kwargs": "test_other_arguments_are_refused",
    "job.origin": "test_rqs_cancel_and_delete_take_a_running_jobs_lease_away",
    "job.restore": "test_a_claimed_job_is_read_from_the_fields_of_its_hash",
    "job.started_at": "test_a_claim_writes_what_rq_writes_of_a_started_job",
    "job.webhooks": "test_the_attributes_that_hold_a_jobs_hooks_are_there",
    "result.serialize": "test_a_result_is_written_as_the_fields_that_it_is_read_from",
}
"""Name of RQ -> the test that fails when RQ changes it."""

OBJECTS = {"job", "result"}
"""What our code calls RQ's objects, where it does not name their class."""
OURS = {"job.decode"}
"""Where such a name is something else: an id's bytes."""
OFFLINE = redis.Redis(unix_socket_path="/nowhere", retry=None)


def taken(source: str) -> Iterator[str]:
    """Name what a module takes from RQ: what it imports, and the attributes that it asks of that and of OBJECTS."""
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
    """Return the names of the tests of this file and of its two neighbours."""
    files = (Path(__file__).with_name(f"test_{name}.py") for name in ("rq_names", "rq_contract", "job_spec"))
    trees = [ast.parse(file.read_text()) for file in files]
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def commands(pipeline: redis.client.Pipeline) -> list[tuple[Any, ...]]:
    """Return the commands that a pipeline was given."""
    return [args for args, _ in pipeline.command_stack]


@pytest.fixture
def queue() -> Queue:
    return Queue("voxspool-tone-batch", connection=OFFLINE, serializer=JSONSerializer)


@pytest.fixture
def job() -> Job:
    return Job.create(
        "f", id="j", connection=OFFLINE, serializer=JSONSerializer, origin="q", result_ttl=7, failure_ttl=8
    )


def test_every_name_that_we_take_from_rq_is_held_by_a_test() -> None:
    names = {name for path in SOURCES for name in taken(path.read_text())} - OURS
    assert names - DOCUMENTED - set(HELD) == set(), "without a test"
    assert set(HELD) - names == set(), "no longer taken"
    assert set(HELD.values()) - written_tests() == set(), "no such test"


def test_no_module_takes_rq_in_a_way_that_the_table_does_not_see() -> None:
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


def test_statuses_are_the_words_that_scripts_and_readers_compare() -> None:
    words = {status.name: status.value for status in JobStatus}
    assert (words["QUEUED"], words["STARTED"]) == ("queued", "started")
    assert (words["FINISHED"], words["FAILED"]) == ("finished", "failed")
    assert (words["STOPPED"], words["CANCELED"]) == ("stopped", "canceled")
    assert (words["DEFERRED"], words["SCHEDULED"]) == ("deferred", "scheduled")


def test_states_of_a_worker_are_words() -> None:
    assert (WorkerStatus.SUSPENDED, WorkerStatus.IDLE, WorkerStatus.BUSY) == ("suspended", "idle", "busy")


def test_registries_are_named_by_their_queue(queue: Queue) -> None:
    for registry, key in (
        (StartedJobRegistry, "rq:wip:q"),
        (FinishedJobRegistry, "rq:finished:q"),
        (FailedJobRegistry, "rq:failed:q"),
        (CanceledJobRegistry, "rq:canceled:q"),
    ):
        assert registry.key_template.format("q") == registry("q", connection=OFFLINE).key == key
    assert queue.key == Queue.redis_queue_namespace_prefix + queue.name


def test_a_cancelled_job_is_noted_with_when_and_not_until_when(job: Job) -> None:
    # The worker's heartbeat thread trims this registry by that.
    pipeline = OFFLINE.pipeline()
    CanceledJobRegistry("q", connection=OFFLINE).add(job, pipeline=pipeline)
    ((*_, score, name),) = commands(pipeline)
    assert (score, name) == (pytest.approx(now().timestamp(), abs=5), "j")


def test_rqs_cancel_and_delete_take_a_running_jobs_lease_away(job: Job) -> None:
    # What lua/beat.lua sees of them; a system test sees both happen.
    removal = inspect.getsource(Job._remove_from_registries)
    assert "elif status == JobStatus.STARTED:" in removal
    assert "registry.remove_executions(self, pipeline=pipeline)" in removal
    assert "self.set_status(JobStatus.CANCELED, pipeline=pipe)" in inspect.getsource(Job.cancel)
    assert "connection.delete(self.key," in inspect.getsource(Job.delete)
    assert job.origin == "q"


def test_a_cancelled_job_is_given_a_lifetime_and_stays_where_it_is(job: Job) -> None:
    pipeline = OFFLINE.pipeline()
    job.cleanup(ttl=9, pipeline=pipeline, remove_from_queue=False)
    assert ("EXPIRE", "rq:job:j", 9) in [command[:3] for command in commands(pipeline)]
    assert {command[0] for command in commands(pipeline)} == {"EXPIRE"}


def test_a_jobs_lifetimes_are_its_own_before_the_default(job: Job) -> None:
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


def test_a_second_job_of_a_name_is_refused_by_a_unique_enqueue() -> None:
    assert "unique" in inspect.signature(Queue.enqueue_call).parameters
    assert "raise DuplicateJobError" in inspect.getsource(save_unique_job)


def test_a_job_that_is_not_there_and_one_that_does_not_run_have_errors_of_their_own() -> None:
    assert "raise InvalidJobOperation" in inspect.getsource(send_stop_job_command)
    assert "raise NoSuchJobError" in inspect.getsource(Job.refresh) + inspect.getsource(Job.restore)
    errors = {NoSuchJobError, InvalidJobOperation, DuplicateJobError, DeserializationError}
    assert not any(issubclass(one, other) for one in errors for other in errors - {one})


def test_a_command_is_the_json_of_a_message() -> None:
    assert parse_payload({"data": b'{"command": "shutdown"}'}) == {"command": "shutdown"}
    assert PUBSUB_CHANNEL_TEMPLATE % "w" == "rq:pubsub:w"


def test_times_are_aware_and_written_in_utc() -> None:
    assert now().utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert utcformat(now()).endswith("Z")


def test_a_workers_record_is_named_by_its_prefix() -> None:
    worker = BaseWorker([], "w", connection=OFFLINE, prepare_for_work=False)
    assert worker.key == BaseWorker.redis_worker_namespace_prefix + "w" == "rq:worker:w"
    assert keys.worker("w") != worker.key


def test_workers_that_are_gone_are_looked_for_in_a_queues_list(queue: Queue) -> None:
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
