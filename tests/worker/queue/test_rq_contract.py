"""What we lean on in RQ beyond what it documents, name by name: this file fails when RQ changes it, and no job does.

Nothing is contacted: a client of redis-py connects with its first command, and a pipeline keeps its commands until it
is executed. The last part holds our own side of the contract: which jobs are taken and which are refused.
"""

from __future__ import annotations

import ast
import inspect
import json
import signal
import textwrap
import threading
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
import redis
from packaging.requirements import Requirement
from rq import Queue, Retry
from rq.command import send_command, send_shutdown_command, send_stop_execution_command, send_stop_job_command
from rq.exceptions import DeserializationError
from rq.executions import Execution, ExecutionRegistry
from rq.job import JOB_ID_PATTERN, Callback, Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat
from rq.webhook import Webhook
from rq.worker import BaseWorker, WorkerStatus

from voxspool.errors import InvalidJobError
from voxspool.protocol import narration
from voxspool.protocol.jobs import TASK, JobSpec, all_queue_names
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.cancellation import CancelToken, EndedEarlyError, Reason
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue.worker import CooperativeDeathPenalty, SpeechWorker, _Running, spec_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OVERRIDDEN = {
    "bootstrap": ["logging_level", "date_format", "log_format"],
    "teardown": [],
    "request_stop": ["signum", "frame"],
    "request_force_stop": ["signum", "frame"],
    "run_maintenance_tasks": [],
    "heartbeat": ["timeout", "pipeline"],
    "get_heartbeat_ttl": ["job", "working_time"],
    "dequeue_job_and_maintain_ttl": ["timeout", "max_idle_time"],
    "execute_job": ["job", "queue"],
    "prepare_job_execution": ["job", "remove_from_intermediate_queue"],
    "check_for_suspension": ["burst"],
    "procline": ["message"],
    "_finalize_success": ["job", "queue", "execution", "return_value"],
    "_finalize_failure": ["job", "queue", "execution", "exc_info"],
    "handle_payload": ["message"],
    "_set_ip_address": ["connection"],
    "_pubsub_exception_handler": ["exc", "pubsub", "pubsub_thread"],
}
"""Methods of BaseWorker that SpeechWorker overrides, with the parameters that RQ gives them."""

CALLED = {
    "register_birth": [],
    "subscribe": [],
    "set_state": ["state", "pipeline"],
    "perform_job": ["job", "queue", "execution"],
    "handle_execution_ended": ["job", "queue", "heartbeat_ttl"],
    "handle_job_failure": ["job", "queue", "started_job_registry", "exc_string", "execution"],
    "serialize": [],
    "queue_names": [],
    "work": [
        *("burst", "logging_level", "date_format", "log_format"),
        *("max_jobs", "max_idle_time", "with_scheduler", "dequeue_strategy"),
    ],
}
"""Methods of BaseWorker that we call."""

OVERRIDDEN_ATTRIBUTES = {"death_penalty_class", "log_result_lifespan"}
USED_ATTRIBUTES = {
    *("connection", "serializer", "queues", "executions", "name", "key", "hostname", "executions_key"),
    *("redis_workers_keys", "last_heartbeat", "last_cleaned_at", "_stop_requested", "_shutdown_requested_date"),
    "ip_address",
    *("successful_job_count", "failed_job_count", "total_working_time", "_stopped_job_id"),
}


class Offline(redis.Redis):
    """A client that answers the two questions of a worker's construction, and reaches nobody."""

    def client_setname(self, name: str, **_: object) -> bool:
        del name
        return True

    def client_info(self) -> dict[str, str]:
        return {"addr": "127.0.0.1:1"}


OFFLINE = Offline(unix_socket_path="/nowhere", retry=None)


def parameters(function: Callable[..., object]) -> list[str]:
    """Name a method's parameters, without `self`."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def source(function: Callable[..., object]) -> str:
    """Return a function's text, on one line, so that a line break is no difference."""
    return " ".join(textwrap.dedent(inspect.getsource(function)).split())


def attributes_set(function: Callable[..., object]) -> set[str]:
    """Name the attributes of `self` that a method sets."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def every_attribute(cls: type) -> set[str]:
    """Name what instances of a class have: what its body names, and what any of its methods sets."""
    functions = [value for value in vars(cls).values() if inspect.isfunction(value)]
    functions += [value.fget for value in vars(cls).values() if isinstance(value, property) and value.fget]
    return {name for name in vars(cls) if not name.startswith("__")}.union(*map(attributes_set, functions))


@pytest.fixture
def queue() -> Queue:
    return Queue("voxspool-tone-batch", connection=OFFLINE, serializer=JSONSerializer)


def job_of(*args: object, func: str = TASK, id: str = "a-job", **options: object) -> Job:  # noqa: A002 - RQ's name
    return Job.create(func, args=list(args), id=id, connection=OFFLINE, serializer=JSONSerializer, **options)


def job_with(data: bytes) -> Job:
    """Return a job as it is when it was fetched: with its data as it stands in Redis, not read yet."""
    job = Job(id="a-job", connection=OFFLINE, serializer=JSONSerializer)
    job.data = data
    return job


# The version


def test_rq_is_of_the_version_that_this_file_describes() -> None:
    (wanted,) = (
        requirement for requirement in map(Requirement, metadata.requires("voxspool") or []) if requirement.name == "rq"
    )
    assert {(part.operator, part.version) for part in wanted.specifier} == {(">=", "3.0"), ("<", "3.1")}
    assert metadata.version("rq") in wanted.specifier


# The worker's methods


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_we_override_is_there_and_takes_what_we_take(name: str) -> None:
    assert parameters(getattr(BaseWorker, name)) == OVERRIDDEN[name]
    ours = inspect.signature(getattr(SpeechWorker, name))
    ours.bind(None, *OVERRIDDEN[name])  # RQ calls it by position …
    ours.bind(None, **dict.fromkeys(OVERRIDDEN[name]))  # … or by name


@pytest.mark.parametrize("name", CALLED)
def test_what_we_call_is_there_and_takes_what_we_give(name: str) -> None:
    assert parameters(getattr(BaseWorker, name)) == CALLED[name]


def test_nothing_of_rqs_is_overridden_by_accident() -> None:
    ours = every_attribute(SpeechWorker)
    theirs = every_attribute(BaseWorker)
    shared = {name for name in ours & theirs if name in vars(SpeechWorker)}
    assert shared == {*OVERRIDDEN, *OVERRIDDEN_ATTRIBUTES}
    # Attributes of theirs that we set, and no other.
    assert (ours & theirs) - shared <= USED_ATTRIBUTES


@pytest.mark.parametrize("name", sorted(USED_ATTRIBUTES))
def test_attributes_that_we_use_are_there(name: str, queue: Queue) -> None:
    assert hasattr(BaseWorker([queue], connection=OFFLINE, prepare_for_work=False), name)


def test_a_worker_is_made_with_the_options_that_we_give() -> None:
    given = {"queues", "name", "connection", "serializer", "log_job_description", "worker_ttl", "prepare_for_work"}
    assert given <= set(parameters(BaseWorker))


class Loop(BaseWorker):
    """RQ's own loop, around methods that only take note."""

    death_penalty_class = CooperativeDeathPenalty

    def __init__(self, queues: list[Queue], jobs: list[Job]) -> None:
        super().__init__(queues, connection=OFFLINE, serializer=JSONSerializer, prepare_for_work=False)
        self.jobs = jobs
        self.calls: list[tuple[Any, ...]] = []

    def bootstrap(self, *args: object) -> None:
        self.calls.append(("bootstrap", len(args)))

    def teardown(self) -> None:
        self.calls.append(("teardown",))

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - RQ's signature
        self.calls.append(("check_for_suspension", burst))

    def run_maintenance_tasks(self) -> None:
        self.calls.append(("run_maintenance_tasks",))

    def heartbeat(self, *args: object, **named: object) -> None:
        self.calls.append(("heartbeat", args, named))

    def dequeue_job_and_maintain_ttl(self, *args: object) -> tuple[Job, Queue] | None:
        self.calls.append(("dequeue_job_and_maintain_ttl", *args))
        return (self.jobs.pop(0), self.queues[0]) if self.jobs else None

    def execute_job(self, *args: object) -> None:
        self.calls.append(("execute_job", *args))

    def prepare_job_execution(self, *args: object) -> None:
        self.calls.append(("prepare_job_execution", *args))

    def _finalize_success(self, *args: object) -> None:
        self.calls.append(("_finalize_success", *args))

    def _finalize_failure(self, *args: object) -> None:
        self.calls.append(("_finalize_failure", *args))


@pytest.fixture
def signals() -> Iterator[None]:
    """Put back the handlers that a worker installs."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("burst", [True, False])
def test_rqs_loop_takes_a_job_and_executes_it_until_there_is_none(queue: Queue, burst: bool) -> None:  # noqa: FBT001
    job = job_of({})
    loop = Loop([queue], [job])
    assert loop.work(burst=burst, max_idle_time=7)
    dequeue = ("dequeue_job_and_maintain_ttl", None if burst else loop.dequeue_timeout, 7)
    around = [("check_for_suspension", burst), ("run_maintenance_tasks",), dequeue]
    assert loop.calls == [
        ("bootstrap", 3),
        *around,
        ("execute_job", job, queue),
        ("heartbeat", (), {}),
        *around,
        ("teardown",),
    ]


@pytest.mark.usefixtures("signals")
def test_rqs_loop_ends_where_a_stop_was_asked_for_and_hears_both_signals(queue: Queue) -> None:
    loop = Loop([queue], [job_of({})])
    loop._stop_requested = True
    assert not loop.work()
    assert [name for name, *_ in loop.calls] == [
        "bootstrap",
        "check_for_suspension",
        "run_maintenance_tasks",
        "teardown",
    ]
    assert signal.getsignal(signal.SIGTERM) == loop.request_stop
    assert signal.getsignal(signal.SIGINT) == loop.request_stop


def test_rqs_maintenance_is_due_at_first_and_then_by_when_it_last_was(queue: Queue) -> None:
    worker = BaseWorker([queue], connection=OFFLINE, prepare_for_work=False)
    assert worker.should_run_maintenance_tasks
    SpeechWorker.run_maintenance_tasks(worker)  # type: ignore[arg-type]
    assert not worker.should_run_maintenance_tasks


@pytest.mark.parametrize("queues", [1, 2])
def test_a_job_is_prepared_performed_and_finalised(queue: Queue, queues: int) -> None:
    job = job_of([1, 2, 3], func="builtins.len")
    execution = Execution("an-execution", job.id, OFFLINE)
    loop = Loop([queue] * queues, [])
    assert loop.perform_job(job, queue, execution) is True
    assert loop.calls == [("prepare_job_execution", job, queues == 1), ("_finalize_success", job, queue, execution, 3)]


def test_a_job_that_raises_is_finalised_with_what_it_raised(queue: Queue) -> None:
    job = job_of("seven", func="builtins.int")
    execution = Execution("an-execution", job.id, OFFLINE)
    loop = Loop([queue], [])
    assert loop.perform_job(job, queue, execution) is False
    *_, (name, *args, exc_info) = loop.calls
    assert (name, args) == ("_finalize_failure", [job, queue, execution])
    assert (exc_info[0], str(exc_info[1])) == (ValueError, "invalid literal for int() with base 10: 'seven'")


def test_what_finalising_raises_is_finalised_too(queue: Queue) -> None:
    # _finalize_failure raises what Redis raised, so that nothing is decided: it must leave perform_job.
    class Away(Loop):
        def _finalize_success(self, *_: object) -> None:
            raise redis.exceptions.ConnectionError

        def _finalize_failure(self, *args: object) -> None:
            raise args[-1][1]

    job = job_of([1], func="builtins.len")
    with pytest.raises(redis.exceptions.ConnectionError):
        Away([queue], []).perform_job(job, queue, Execution("an-execution", job.id, OFFLINE))


def test_a_failure_that_rq_itself_sees_to_goes_through_what_we_pass() -> None:
    failure = source(BaseWorker.handle_job_failure)
    assert "retry = job.should_retry and not job_is_stopped" in failure
    assert "job._handle_failure( exc_string," in failure
    assert "self.cleanup_execution(job, pipeline=pipeline, execution=execution)" in failure
    assert "if job.started_at and job.ended_at:" in failure


def test_a_job_without_retries_left_is_not_run_again() -> None:
    job = job_of({}, retry=Retry(max=3))
    assert job.should_retry
    job.retries_left = None
    assert not job.should_retry


def test_a_success_commits_through_the_method_that_we_guard() -> None:
    success = source(BaseWorker._finalize_success)
    assert "self.handle_job_success(" in success
    assert "if self.log_result_lifespan:" in success


def test_a_time_limit_is_a_context_that_we_leave_empty() -> None:
    assert "with self.death_penalty_class(timeout, JobTimeoutException, job_id=job.id):" in source(
        BaseWorker.perform_job
    )
    before = signal.getsignal(signal.SIGALRM)
    with CooperativeDeathPenalty(1, TimeoutError, job_id="a-job"):
        assert signal.getsignal(signal.SIGALRM) == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_states_and_patterns_that_we_name_are_there() -> None:
    assert (WorkerStatus.STARTED, WorkerStatus.IDLE) == ("started", "idle")
    # The scripts compare these words.
    assert (JobStatus.QUEUED.value, JobStatus.STARTED.value, JobStatus.FAILED.value) == ("queued", "started", "failed")
    assert JOB_ID_PATTERN.fullmatch(JobSpec("").id)
    for name in ["a" * 128, "A_b-9"]:
        assert JobSpec("", id=name).id == name
        assert JOB_ID_PATTERN.fullmatch(name)
    for name in ["", "a b", "a:b", "a\n", "ä"]:
        assert not JOB_ID_PATTERN.fullmatch(name)


# Redis keys


def test_keys_are_what_the_scripts_and_the_rescue_take_them_for(queue: Queue) -> None:
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
    """Find the one command of that name and key among those that a pipeline was given; give the rest of it."""
    (found,) = (args for args, _ in pipeline.command_stack if args[:2] == (command, key))
    return list(found[2:])


def fields_of(items: list[Any]) -> dict[str, Any]:
    """Read field, value, field, value …"""
    return dict(zip(items[::2], items[1::2], strict=True))


def test_a_claim_writes_what_rq_writes_of_an_execution(queue: Queue) -> None:
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


def test_a_claim_writes_what_rq_writes_of_a_started_job() -> None:
    job = job_of({})
    pipeline = OFFLINE.pipeline()
    job.prepare_for_execution("a-worker", pipeline=pipeline)
    facts = fields_of(written(pipeline, "HSET", "rq:job:a-job"))
    assert sorted(facts) == ["last_heartbeat", "started_at", "status", "worker_name"]
    assert facts["status"] == "started"
    assert facts["started_at"] == utcformat(job.started_at)


def test_a_claimed_job_is_read_from_the_fields_of_its_hash() -> None:
    sent = job_of(spec(), timeout=77, result_ttl=66)
    encode = OFFLINE.get_encoder().encode
    fields = {name.encode(): encode(value) for name, value in sent.to_dict().items()}
    job = Job("a-job", connection=OFFLINE, serializer=JSONSerializer)
    job.restore(fields)
    assert spec_of(job) == JobSpec("Hello.", id="a-job")
    assert (job.timeout, job.result_ttl) == (77, 66)


@pytest.mark.parametrize("finished", [True, False])
def test_an_end_writes_what_rq_writes_of_a_result(queue: Queue, finished: bool) -> None:  # noqa: FBT001
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


def test_an_execution_is_forgotten_with_all_that_was_written(queue: Queue) -> None:
    assert parameters(Execution.delete) == ["job", "pipeline"]
    job, pipeline = job_of({}, origin=queue.name), OFFLINE.pipeline()
    execution = Execution("e", job.id, OFFLINE, "a-worker")
    execution.delete(job=job, pipeline=pipeline)
    commands = [args for args, _ in pipeline.command_stack]
    assert ("DEL", execution.key) in commands
    assert written(pipeline, "ZREM", f"rq:wip:{queue.name}") == ["a-job:e"]
    assert written(pipeline, "ZREM", "rq:executions:a-job") == ["e"]
    assert written(pipeline, "SREM", "rq:worker:a-worker:executions") == ["a-job:e"]


def test_a_workers_record_holds_the_fields_that_the_heartbeat_writes(queue: Queue) -> None:
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


class Channel:
    """The part of a client that a command goes through: keeps what is published, and finds the job it asks for."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, channel: str, message: str) -> None:
        self.published.append((channel, message.encode()))


@pytest.fixture
def worker() -> SpeechWorker:
    """A worker that was never started."""
    return SpeechWorker(ToneEngine(), lambda **_: OFFLINE, jobs=3, name="a-worker")


def running(worker: SpeechWorker, job_id: str, execution_id: str) -> CancelToken:
    """Let the worker run a job that nobody speaks; give its token."""
    job, token = job_of({}, id=job_id), CancelToken(60.0)
    thread = threading.Thread(target=lambda: None)
    worker._running[execution_id] = _Running(JobExecution(worker.queues[0].name, job.id, execution_id), token, thread)
    return token


def ended(token: CancelToken) -> Reason | None:
    try:
        token.check()
    except EndedEarlyError as early:
        return early.reason
    return None


@pytest.mark.parametrize(
    ("command", "named", "stopped"),
    [
        ("stop-job", {"job_id": "one"}, ["one/1"]),
        ("stop-job", {"job_id": "two"}, ["two/2", "two/3"]),
        ("stop-execution", {"job_id": "two", "execution_id": "3"}, ["two/3"]),
        ("stop-job", {"job_id": "nobody"}, []),
        ("stop-job", {}, []),
        ("kill-horse", {}, []),
        ("a-command-of-tomorrow", {"job_id": "one"}, []),
    ],
)
def test_commands_reach_the_job_they_name(
    worker: SpeechWorker, command: str, named: dict[str, str], stopped: list[str]
) -> None:
    tokens = {
        f"{job}/{execution}": running(worker, job, execution)
        for job, execution in [("one", "1"), ("two", "2"), ("two", "3")]
    }
    channel = Channel()
    send_command(channel, "a-worker", command, **named)  # type: ignore[arg-type]
    ((name, data),) = channel.published
    assert name == worker.pubsub_channel_name == "rq:pubsub:a-worker"
    assert json.loads(data) == {"command": command, **named}
    worker.handle_payload({"type": "message", "channel": name.encode(), "data": data})
    assert [name for name, token in tokens.items() if ended(token) is Reason.CANCELLED] == stopped
    assert {ended(token) for name, token in tokens.items() if name not in stopped} <= {None}


def test_rqs_own_senders_name_what_we_read() -> None:
    assert "send_command(connection, job.worker_name, 'stop-job', job_id=job_id)" in source(send_stop_job_command)
    assert "'stop-execution', job_id=job_id, execution_id=execution_id)" in source(send_stop_execution_command)
    assert "send_command(connection, worker_name, 'shutdown')" in source(send_shutdown_command)
    assert "subscribe(**{self.pubsub_channel_name: self.handle_payload})" in source(BaseWorker.subscribe)


@pytest.mark.usefixtures("signals")
def test_the_command_to_shut_down_is_the_signal_to_shut_down(worker: SpeechWorker) -> None:
    worker._install_signal_handlers()
    channel = Channel()
    send_shutdown_command(channel, "a-worker")  # type: ignore[arg-type]
    worker.handle_payload({"data": channel.published[0][1]})
    assert worker._stop_requested
    assert signal.getsignal(signal.SIGINT) == worker.request_force_stop


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"data": None},
        {"data": 1},
        {"data": b""},
        {"data": b"\xff"},
        {"data": b"[]"},
        {"data": b"{}"},
        {"data": b"7"},
    ],
)
def test_what_is_no_command_is_ignored(worker: SpeechWorker, message: dict[str, Any]) -> None:
    token = running(worker, "one", "1")
    worker.handle_payload(message)
    assert ended(token) is None


# The worker's own promises to RQ


def test_a_worker_serves_the_queues_of_its_engine_and_reads_json_alone(worker: SpeechWorker) -> None:
    assert worker.queue_names() == [
        "voxspool-tone-interactive",
        "voxspool-auto-interactive",
        "voxspool-tone-batch",
        "voxspool-auto-batch",
    ]
    assert set(worker.queue_names()) <= set(all_queue_names())
    assert worker.serializer is JSONSerializer
    assert {queue.serializer for queue in worker.queues} == {JSONSerializer}


# Which jobs are taken


def spec(**changed: object) -> dict[str, Any]:
    return JobSpec("Hello.", id="a-job").encode() | changed


def refusal(job: Job) -> str:
    """Assert that a job is refused, and give the one line that says why."""
    with pytest.raises(InvalidJobError) as refused:
        spec_of(job)
    line = str(refused.value)
    assert line.isprintable()
    assert 10 < len(line) < 400
    return line


def test_a_job_of_ours_is_taken() -> None:
    assert spec_of(job_of(spec())) == JobSpec("Hello.", id="a-job")
    assert spec_of(job_with(JSONSerializer.dumps((TASK, None, [spec()], {})))) == JobSpec("Hello.", id="a-job")


def a_chapter(id: str = "a-job") -> dict[str, Any]:  # noqa: A002 - JobSpec's name
    return narration.chapter(id, [narration.Passage("Hello.", 0.5)], "0" * 32, engine="tone").encode()


def test_a_chapter_is_taken_and_nothing_else_under_its_name() -> None:
    data = JSONSerializer.dumps((narration.TASK, None, [a_chapter()], {}))
    assert spec_of(job_with(data)) == narration.ChapterSpec.decode(json.loads(json.dumps(a_chapter())))
    for argument, said in ((spec(), "passages"), ("Hello.", "JSON object"), (a_chapter("another-job"), "another-job")):
        assert said in refusal(job_with(JSONSerializer.dumps((narration.TASK, None, [argument], {}))))
    assert "passages" in refusal(job_with(JSONSerializer.dumps((TASK, None, [a_chapter() | {"text": "Hello."}], {}))))


def test_the_attributes_that_hold_a_jobs_hooks_are_there() -> None:
    job = job_of({})
    assert (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name) == (None, None, None)
    assert job.webhooks == []
    with pytest.raises(DeserializationError):
        _ = job_with(b"\x80").func_name


class Explosive:
    """Pickled, it leaves a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


def test_pickle_is_never_read(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    job = Job.create(TASK, args=[Explosive(str(mark))], connection=OFFLINE)  # RQ's default serializer
    assert "not JSON" in refusal(job_with(job.data))
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"{", b"null", b"7", b"[]", b'["f"]', b"[1, 2, 3, 4, 5]", b"[" * 100_000],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_call_is_refused(data: bytes) -> None:
    assert "the job's data is not JSON" in refusal(job_with(data))


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "voxspool_worker.tasks", "voxspool_worker.tasks.JobSpec.decode"],
)
def test_another_function_is_refused_by_name(name: str) -> None:
    line = refusal(job_with(JSONSerializer.dumps((name, None, [spec()], {}))))
    assert repr(name) in line
    assert TASK in line


@pytest.mark.parametrize("name", [None, 7, [TASK], {"a": TASK}, "", f"{TASK} ", "Rosebud was the word."])
def test_what_is_no_functions_name_is_refused(name: object) -> None:
    line = refusal(job_with(JSONSerializer.dumps((name, None, [spec()], {}))))
    assert TASK in line
    assert "Rosebud" not in line, "it may be the text, in the wrong place"


@pytest.mark.parametrize("hook", ["on_success", "on_failure", "on_stopped"])
def test_callbacks_are_refused_and_not_even_imported(hook: str) -> None:
    job = job_of(spec(), **{hook: Callback("no_such_module.callback")})
    assert "callbacks or webhooks" in refusal(job)


def test_webhooks_are_refused() -> None:
    assert "callbacks or webhooks" in refusal(
        job_of(spec(), webhooks=[Webhook("http://127.0.0.1:1/", JobStatus.FINISHED)])
    )


@pytest.mark.parametrize(
    ("instance", "args", "kwargs"),
    [
        (None, [], {}),
        (None, [spec(), spec()], {}),
        (None, [spec()], {"loud": True}),
        (None, [], {"spec": spec()}),
        ("an instance", [spec()], {}),
        (0, [spec()], {}),
        # Anybody who may write to Redis may write these.
        (None, None, {}),
        (None, 7, {}),
        (None, True, {}),
        (None, {"spec": spec()}, {}),
        (None, [spec()], 7),
    ],
)
def test_other_arguments_are_refused(instance: object, args: object, kwargs: object) -> None:
    line = refusal(job_with(JSONSerializer.dumps((TASK, instance, args, kwargs))))
    assert "exactly one argument" in line


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("Hello.", "JSON object"),
        (None, "JSON object"),
        ({}, "version"),
        (spec(version=99), "version 99"),
        (spec(colour="red"), "colour"),
        (spec(text=7), "text is int"),
        (spec(text="x" * 100_001), "100,001"),
        (spec(speed=9), "speed 9"),
        (spec(speed=10**400), "speed"),
        (spec(speed=float("nan")), "speed"),
        (spec(seed=-1), "seed -1"),
        (spec(seed=10**40), "seed"),
        (spec(priority="soon"), "priority"),
        (spec(voice="a\nb"), "voice"),
        (spec(language="English, please"), "language"),
        (spec(keep_s=0), "keep_s 0"),
        (spec(id="another-job"), "'another-job'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_malformed_spec_is_refused_with_what_is_wrong(argument: object, said: str) -> None:
    assert said in refusal(job_with(JSONSerializer.dumps((TASK, None, [argument], {}))))
