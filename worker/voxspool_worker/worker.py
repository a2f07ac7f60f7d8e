"""The RQ worker: several jobs in one process around one engine thread. Leases, stop, drain.

    main thread    takes a slot, dequeues, starts a job thread
    job threads    tasks.synthesize -> pipeline; they wait, the engine computes
    engine thread  Scheduler.run, the only one that calls the engine
    ticker thread  renews leases, says that we live, brings back the jobs of dead workers
    pub/sub thread stop commands (RQ's own)
    bell threads   one a queue: ring when a job arrives, move nothing

Nothing forks: a model's process must not. RQ gives the queue, the registries and the results; everything of RQ that is
private and leaned on stands in this class, and tests/worker/test_rq_contract.py fails when RQ changes it.

First SIGTERM or Ctrl-C: no new job, the running ones are spoken to their end. Second: they are handed back at the next
chunk, to the front of their queue and without a retry, and go on elsewhere at the segment they were in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import redis.exceptions
from rq import Queue
from rq.command import parse_payload
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import JOB_ID_PATTERN, Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.timeouts import BaseDeathPenalty
from rq.utils import now, utcformat
from rq.worker import BaseWorker, WorkerStatus

from voxspool.errors import InvalidJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, TASK, JobSpec, queue_names
from voxspool_worker import lua, tasks
from voxspool_worker.pipeline import Pipeline, SpeechGivenUpError
from voxspool_worker.publisher import LEASE_S, HeldError, LostWritesError
from voxspool_worker.recovery import Recovery
from voxspool_worker.scheduler import EngineLostError, Scheduler
from voxspool_worker.token import EndedEarlyError, Reason, Token

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from redis import Redis
    from redis.client import Pipeline as RedisPipeline

    from voxspool_worker.engines.base import Engine

log = logging.getLogger(__name__)

BEAT_S: Final = 3.0
"""How often leases are renewed, in seconds: a third of LEASE_S."""
LOOK_S: Final = 2.0
"""How often a worker looks for the jobs of dead ones, in seconds."""
IDLE_S: Final = 1.0
"""How long the main thread waits for a bell, in seconds, before it looks at the queues and the signals by itself."""
HAND_BACK_S: Final = 10.0
"""How long a shutdown waits for job threads to notice, in seconds; a step of a slow engine is below it."""
EXIT_ENGINE_LOST: Final = 70
"""Exit code when the engine broke: EX_SOFTWARE. A supervisor starts the worker again."""


class CooperativeDeathPenalty(BaseDeathPenalty):
    """No alarm: a job looks at its token between chunks. Signals reach the main thread alone, and threads are many."""

    def setup_death_penalty(self) -> None:
        """Do nothing; the token holds the deadline."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A job that a thread of ours runs."""

    job: Job
    queue: Queue
    execution: Execution
    token: Token
    thread: threading.Thread


class SpeechWorker(BaseWorker):
    """Takes jobs from the queues of one engine and speaks up to `jobs` of them at once."""

    death_penalty_class = CooperativeDeathPenalty
    log_result_lifespan = False

    def __init__(self, engine: Engine, connect: Callable[..., Redis], *, jobs: int, name: str | None = None) -> None:
        """Prepare; nothing is taken before `work`.

        `connect` gives a Redis client with the options it is passed. The threads have clients of their own: RQ raises
        its pool's socket timeout, and what must not be sent twice must not be retried.
        """
        self._connect = connect
        self._once = connect(retries=0)
        self._finisher = lua.load(connect(), "finish")
        connection = connect()
        super().__init__(
            [Queue(queue, connection=connection, serializer=JSONSerializer) for queue in queue_names(engine.name)],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=keys.WORKER_TTL_S,
            prepare_for_work=True,
        )
        self._engine = engine
        self._scheduler = Scheduler(engine)
        self._pipeline = Pipeline(engine, self._scheduler, connect())
        self._recovery = Recovery(connect())
        self._dequeue = lua.load(self._once, "dequeue")
        self._beat = lua.load(connect(), "beat")
        self._card = connect()
        self._jobs = jobs
        self._execution_id = ""
        self._slots = threading.Semaphore(jobs)
        self._running: dict[str, _Running] = {}
        self._running_lock = threading.Lock()
        self._rung = threading.Event()
        self._idle = threading.Event()
        self._end_awaited = threading.Event()
        self._burst = False
        self._quit = threading.Event()
        self._engine_lost = False
        self._engine_thread = threading.Thread(target=self._scheduler.run, args=(self._lose_engine,), name="engine")

    # -- the life of the process ---------------------------------------------------------------------------------

    def bootstrap(self, *_: object, **__: object) -> None:
        """Come to life: register, listen, start the threads. Logging is the CLI's to set up."""
        self.register_birth()
        self.subscribe()
        self.set_state(WorkerStatus.STARTED)
        self._say_alive()
        self._engine_thread.start()
        threading.Thread(target=self._tick, name="ticker", daemon=True).start()
        for queue in self.queues:
            threading.Thread(target=self._ring, args=(queue.key,), name=f"bell-{queue.name}", daemon=True).start()
        log.info(
            "worker.ready name=%s engine=%s device=%s jobs=%d rows=%d queues=%s",
            self.name, self._engine.name, self._engine.device, self._jobs, self._engine.rows,
            ",".join(self.queue_names()),
        )  # fmt: skip

    def teardown(self) -> None:
        """Let the running jobs end (or hand them back, after a second signal), then leave."""
        log.info("worker.stopping name=%s running=%d", self.name, len(self._alive()))
        while running := self._alive():
            if self._engine_lost or self._quit.is_set():
                self._hand_back(running)
                break
            running[0].thread.join(0.2)
        self._quit.set()
        self._scheduler.stop()
        if not self._engine_lost:
            self._engine_thread.join(HAND_BACK_S)
        with contextlib.suppress(redis.exceptions.RedisError):
            self._card.srem(keys.WORKERS, self.name)
            self._card.delete(keys.worker(self.name))
            super().teardown()
        log.info("worker.gone name=%s", self.name)
        if self._engine_lost:
            os._exit(EXIT_ENGINE_LOST)  # the engine's thread may hang in a broken driver

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: take nothing more, speak what was begun."""
        del signum, frame
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self._shutdown_requested_date = now()
        self._stop_requested = True
        self._rung.set()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Second signal: hand back what is running."""
        del signum, frame
        self._quit.set()
        self._rung.set()

    def run_maintenance_tasks(self) -> None:
        """Leave RQ's own out: its cleaners are not atomic and fail jobs that wait. The ticker does the work."""
        self.last_cleaned_at = now()  # type: ignore[assignment] # RQ declares it None

    def heartbeat(self, timeout: int | None = None, pipeline: RedisPipeline | None = None) -> None:
        """Leave it to the ticker: RQ's heartbeats are three commands at every turn."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Give the lease of a running job, in seconds."""
        del job, working_time
        return LEASE_S

    # -- taking a job ----------------------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a slot, then for a job. None: nothing left in burst mode, idle too long, or asked to stop."""
        idle_since = time.monotonic()
        self._burst = timeout is None
        while not self._stop_requested:
            self._rung.clear()
            if not self._take_slot():
                continue
            if taken := self._take():
                return taken
            self._slots.release()
            if self._burst and not self._alive():
                return None
            if max_idle_time is not None and time.monotonic() - idle_since > max_idle_time:
                return None
            self._idle.set()
            self._rung.wait(IDLE_S)
            self._idle.clear()
        return None

    def _take_slot(self) -> bool:
        """Take a slot; where there is none, wait a little for one and say False."""
        self._end_awaited.clear()
        if self._slots.acquire(blocking=False):
            return True
        self._end_awaited.set()
        if self._slots.acquire(blocking=False):  # a job ended before it could see that we wait
            return True
        self._rung.wait(IDLE_S)
        return False

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - RQ's signature
        """Leave it to the dequeue script, which asks in the same step."""

    def _take(self) -> tuple[Job, Queue] | None:
        """Claim the next job that can be read; None where there is none, or Redis is away."""
        try:
            while claim := self._claim():
                if claim == b"suspended":
                    super().check_for_suspension(self._burst)
                    return None
                _, which, job_id, fields = claim
                if job := self._read(self.queues[which], job_id, fields):
                    return job, self.queues[which]
        except redis.exceptions.RedisError as error:
            # A claim whose reply was lost has a lease that nobody renews: it is brought back like a dead worker's.
            log.warning("redis.away error=%s", error)
            self._quit.wait(IDLE_S)
        return None

    def _claim(self) -> Any:  # noqa: ANN401 - a script's reply
        """Pop and claim the next job, interactive queues before batch."""
        self._execution_id = uuid4().hex
        names = self.queue_names()
        return self._dequeue(
            keys=[WORKERS_SUSPENDED, *(queue.key for queue in self.queues)],
            args=[self._execution_id, self.name, LEASE_S, utcformat(now()), *names],
        )

    def _read(self, queue: Queue, job_id: bytes, fields: list[bytes]) -> Job | None:
        """Read a claimed job; bury what is not one."""
        name = job_id.decode(errors="surrogateescape")
        try:
            job = Job(name, connection=self.connection, serializer=self.serializer)
            job.restore(dict(zip(fields[::2], fields[1::2], strict=True)))
        except Exception as error:  # noqa: BLE001 - RQ raises what its parsers raise, and anybody may write a job
            self._bury(queue, job_id, f"its hash in Redis cannot be read ({type(error).__name__})")
            return None
        job.origin = queue.name  # where it lay, whatever its hash says: RQ names its registries by this
        job.started_at = now()
        return job

    def _bury(self, queue: Queue, job_id: bytes, why: str) -> None:
        """Set a job aside that RQ cannot even read: failed for RQ, failed for whoever follows its stream."""
        error = InvalidJobError(f"job {job_id.decode(errors='replace')!r} cannot be taken: {why}")
        log.error("job.buried error=%s", error)
        name = job_id.decode(errors="replace")
        if not JOB_ID_PATTERN.fullmatch(name):
            name = "unreadable"
        else:
            self._pipeline.refuse(name, self._execution_id, self.name, error)
        job = Job(name, connection=self.connection, serializer=self.serializer)
        job.origin, job.failure_ttl = queue.name, DEFAULT_KEEP_S
        self._finish(job, self._execution_id, JobStatus.FAILED, str(error), raw_id=job_id)

    def _ring(self, queue_key: str) -> None:
        """Ring when a job lies in a queue.

        Moving a list's head onto itself blocks until there is one and changes nothing. So one thread a queue can wait
        for all of them at once, where Redis lets a single command wait for only one without losing jobs in a crash.
        """
        client = self._connect(retries=0)
        while not self._quit.is_set():
            if not self._idle.wait(IDLE_S):
                continue
            try:
                if client.blmove(queue_key, queue_key, 1, "LEFT", "LEFT"):
                    self._idle.clear()
                    self._rung.set()
            except redis.exceptions.RedisError:
                self._quit.wait(IDLE_S)

    # -- running a job ---------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start a thread for a job; its slot is free again when the thread ends."""
        execution = Execution(self._execution_id, job.id, self.connection, self.name)
        limit_s, problem = job.timeout, None
        try:
            spec = spec_of(job)
            limit_s = limit_s if limit_s and limit_s > 0 else spec.timeout_s
        except InvalidJobError as error:
            problem = error
        token = Token(limit_s or 0)
        thread = threading.Thread(target=self._run, args=(job, queue, execution, token, problem), name=f"job-{job.id}")
        with self._running_lock:
            self._running[execution.id] = _Running(job, queue, execution, token, thread)
        thread.start()

    def _run(self, job: Job, queue: Queue, execution: Execution, token: Token, problem: InvalidJobError | None) -> None:
        """Run one job in its thread, or refuse it there."""
        tasks.speaker.set(lambda spec: self._pipeline.speak(spec, execution.id, self.name, token))
        try:
            if problem:
                self._refuse(job, queue, execution, problem)
            else:
                self.perform_job(job, queue, execution)
        except redis.exceptions.RedisError as error:
            log.warning("redis.away job=%s error=%s", job.id, error)  # its lease runs out, and it is brought back
        except Exception:
            log.exception("job.lost job=%s", job.id)
        finally:
            with self._running_lock:
                self._running.pop(execution.id, None)
            self.executions.pop(execution.id, None)
            self._slots.release()
            if self._burst or self._end_awaited.is_set():
                self._rung.set()

    def _refuse(self, job: Job, queue: Queue, execution: Execution, problem: InvalidJobError) -> None:
        """Fail a job that is not one of ours, for RQ and for whoever follows its stream."""
        log.error("job.refused job=%s error=%s", job.id, problem)
        with contextlib.suppress(HeldError):
            self._pipeline.refuse(job.id, execution.id, self.name, problem)
        self._fail(job, queue, execution, str(problem))

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:  # noqa: FBT001, FBT002 - RQ's signature
        """Leave it to the dequeue script: a job that is taken is started."""

    def procline(self, message: str) -> None:
        """Leave the process's name alone: it runs many jobs."""

    def _finalize_success(self, job: Job, queue: Queue, execution: Execution, return_value: object) -> None:
        """Record a job that returned."""
        job._result = return_value  # noqa: SLF001 - RQ's own finaliser does the same
        if self._finish(job, execution.id, JobStatus.FINISHED, return_value) == "dependents":
            super()._finalize_success(job, queue, execution, return_value)

    def _finalize_failure(
        self,
        job: Job,
        queue: Queue,
        execution: Execution,
        exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
    ) -> None:
        """End a job that raised, as what it raised says. The stream knows already."""
        error = exc_info[1]
        if isinstance(error, redis.exceptions.RedisError):
            raise error  # nothing is decided: the lease runs out, and the job is brought back
        if isinstance(error, EndedEarlyError):
            self._end_early(job, queue, execution, error)
        elif isinstance(error, HeldError):
            log.info("job.held job=%s by=%s", job.id, error)
            self._forget(job, execution)
        elif isinstance(error, EngineLostError | LostWritesError):
            self._give_back(job, queue, execution)
        elif isinstance(error, SpeechGivenUpError):
            log.error("job.failed job=%s code=%s error=%s", job.id, error.code, error)
            self._fail(job, queue, execution, str(error))
        else:
            log.error("job.error job=%s", job.id, exc_info=error)
            self._fail(job, queue, execution, f"{type(error).__name__}: {error}")

    def _end_early(self, job: Job, queue: Queue, execution: Execution, ended: EndedEarlyError) -> None:
        """End a job whose token, or whose stream, told it to."""
        log.info("job.ended_early job=%s reason=%s by=%s", job.id, ended.reason.value, ended.by)
        if ended.reason is Reason.HANDED_BACK:
            self._give_back(job, queue, execution)
        elif ended.reason is Reason.CANCELLED:
            self._fail(job, queue, execution, f"cancelled by {ended.by or 'a stop command'}", JobStatus.STOPPED)
        elif ended.reason is Reason.TIMED_OUT:
            self._fail(job, queue, execution, f"exceeded its time limit of {job.timeout} s")

    def _fail(
        self, job: Job, queue: Queue, execution: Execution, sentence: str, status: JobStatus = JobStatus.FAILED
    ) -> None:
        """Record a failure or a stop: a sentence, never a traceback."""
        if self._finish(job, execution.id, status, sentence) == "dependents":
            job.retries_left = None  # its stream is closed: another run could say nothing
            with self._running_lock:  # RQ has one place for all jobs to say "this one was stopped"
                self._stopped_job_id = job.id if status is JobStatus.STOPPED else None
                self.handle_job_failure(job, queue, exc_string=sentence, execution=execution)

    def _finish(self, job: Job, execution_id: str, status: JobStatus, outcome: object, raw_id: bytes = b"") -> str:
        """Record the end of a run with RQ, if the run still holds its job; give the script's word.

        `outcome` is the return value, or the sentence of a failure. `raw_id` is for an id that is no job's.
        """
        finished = status is JobStatus.FINISHED
        job_id = raw_id or job.id.encode()
        job.ended_at = now()
        keep_s = job.get_result_ttl(DEFAULT_KEEP_S) if finished else job.failure_ttl or DEFAULT_KEEP_S
        until_s = keep_s if keep_s < 0 else time.time() + keep_s  # negative is RQ's word for ever
        result = Result(
            job.id,
            Result.Type.SUCCESSFUL if finished else Result.Type.FAILED,
            connection=self.connection,
            return_value=outcome if finished else None,
            exc_string=None if finished else str(outcome),
            serializer=self.serializer,
            worker_name=self.name,
            execution_id=execution_id,
            execution_started_at=job.started_at,
            execution_ended_at=job.ended_at,
        )
        registry = FinishedJobRegistry if finished else FailedJobRegistry
        composite = job_id + b":" + execution_id.encode()
        reply: bytes = self._finisher(
            keys=[
                StartedJobRegistry.key_template.format(job.origin),
                Job.redis_job_namespace_prefix.encode() + job_id,
                b"rq:execution:" + composite,
                b"rq:executions:" + job_id,
                self.executions_key,
                registry.key_template.format(job.origin),
                b"rq:results:" + job_id,
                Job.redis_job_namespace_prefix.encode() + job_id + b":dependents",
            ],
            args=[
                composite, job_id, execution_id, status.value, utcformat(job.ended_at), keep_s, until_s,
                *(item for pair in result.serialize().items() for item in pair),
            ],
        )  # fmt: skip
        said: str = reply.decode()
        if said == "lost":
            log.warning("job.dropped job=%s", job.id)
        if said == "done":
            self._count(job, finished=finished)
        return said

    def _count(self, job: Job, *, finished: bool) -> None:
        """Keep RQ's statistics of this worker; the ticker writes them."""
        with self._running_lock:
            self.successful_job_count += finished
            self.failed_job_count += not finished
            self.total_working_time += (now() - (job.started_at or now())).total_seconds()

    def _give_back(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Put a running job back at the front of its queue, without a retry."""
        said = self._recovery.requeue(queue.name, job.id, execution.id, expired_only=False)
        log.info("job.handed_back job=%s said=%s", job.id, said)

    def _forget(self, job: Job, execution: Execution) -> None:
        """Drop a second delivery; the run that holds the job goes on."""
        with self.connection.pipeline() as pipeline:
            execution.delete(job=job, pipeline=pipeline)
            pipeline.execute()

    # -- stopping a job --------------------------------------------------------------------------------------------

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Obey a command from RQ's channel: stop-job and stop-execution for any of the running jobs, and shutdown."""
        try:
            payload = parse_payload(message)
            command = payload["command"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("command.unreadable error=%r", error)
            return
        if command == "shutdown":
            os.kill(os.getpid(), signal.SIGINT)
        elif command in ("stop-job", "stop-execution"):
            wanted = payload.get("execution_id") or payload.get("job_id")
            for running in self._alive():
                if wanted in (running.job.id, running.execution.id):
                    running.token.end(Reason.CANCELLED)

    def _alive(self) -> list[_Running]:
        """Give the jobs that run now."""
        with self._running_lock:
            return list(self._running.values())

    def _hand_back(self, running: list[_Running]) -> None:
        """Ask jobs to go back to their queue at the next chunk, and wait until they have."""
        for one in running:
            one.token.end(Reason.HANDED_BACK)
        deadline = time.monotonic() + HAND_BACK_S
        for one in running:
            one.thread.join(max(0.0, deadline - time.monotonic()))
        for one in self._alive():  # a job that does not look: give it back over its head, its writes are fenced off
            with contextlib.suppress(redis.exceptions.RedisError):
                self._give_back(one.job, one.queue, one.execution)

    def _lose_engine(self) -> None:
        """Take note, in the engine thread, that the engine broke: hand everything back and exit."""
        self._engine_lost = True
        self._stop_requested = True
        self._rung.set()

    # -- the ticker ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Beat and look, each in its own time, whatever Redis does."""
        due = {self._beat_all: 0.0, self._look: 0.0}
        every = {self._beat_all: BEAT_S, self._look: LOOK_S}
        while not self._quit.wait(0.5):
            for act, at in due.items():
                if time.monotonic() >= at:
                    due[act] = time.monotonic() + every[act]
                    try:
                        act()
                    except redis.exceptions.RedisError as error:
                        log.warning("redis.away error=%s", error)

    def _look(self) -> None:
        """Bring back the jobs of dead workers."""
        self._recovery.look()

    def _beat_all(self) -> None:
        """Say that we live, and renew every running job's lease; tell those that lost it, or were cancelled."""
        self._say_alive()
        for running in self._alive():
            said = self._beat_one(running).decode()
            if said == "lost":
                running.token.end(Reason.LEASE_LOST)
            elif said != "ok":
                running.token.end(Reason.CANCELLED, by=said.removeprefix("cancelled by "))

    def _beat_one(self, running: _Running) -> bytes:
        """Renew one lease."""
        execution = running.execution
        said: bytes = self._beat(
            keys=[
                _wip_key(running.queue),
                execution.key,
                f"rq:executions:{running.job.id}",
                keys.control(running.job.id),
            ],
            args=[execution.composite_key, execution.id, LEASE_S],
        )
        return said

    def _say_alive(self) -> None:
        """Renew RQ's record of this worker and our card of what it offers."""
        self.last_heartbeat = now()
        card: Any = {
            "engine": self._engine.name,
            "model": self._engine.model,
            "device": self._engine.device,
            "sample_rate": self._engine.sample_rate,
            "voices": json.dumps({name: voice.languages for name, voice in self._engine.voices.items()}),
            "queues": ",".join(self.queue_names()),
            "jobs": self._jobs,
            "running": len(self._alive()),
            "rows": self._engine.rows,
            "rows_in_use": self._scheduler.rows_in_use,
            "host": self.hostname or "",
            "pid": os.getpid(),
        }
        with self._card.pipeline(transaction=False) as pipeline:
            pipeline.hset(self.key, mapping=self.serialize() | self._statistics())
            pipeline.expire(self.key, keys.WORKER_TTL_S)
            pipeline.expire(self.executions_key, keys.WORKER_TTL_S + LEASE_S)
            pipeline.sadd(self.redis_workers_keys, self.key)
            pipeline.sadd(keys.WORKERS, self.name)
            pipeline.hset(keys.worker(self.name), mapping=card)
            pipeline.expire(keys.worker(self.name), keys.WORKER_TTL_S)
            pipeline.execute()

    def _statistics(self) -> dict[str, Any]:
        """What RQ's tools show of a worker."""
        return {
            "state": (WorkerStatus.BUSY if self._alive() else WorkerStatus.IDLE).value,
            "successful_job_count": self.successful_job_count,
            "failed_job_count": self.failed_job_count,
            "total_working_time": self.total_working_time,
        }


def spec_of(job: Job) -> JobSpec:
    """Read what a job asks for.

    Raises InvalidJobError for a job that may not be performed: data that is not JSON, another function than ours,
    callbacks and webhooks, and a speech that names another job, whose stream it would write.
    """
    try:
        function, instance, arguments, named = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError as error:
        message = "the job's data is not JSON; enqueue with RQ's JSONSerializer (pickle is never read)"
        raise InvalidJobError(message) from error
    if function != TASK:
        raise InvalidJobError(f"the job names the function {function!r:.80}; this worker runs only {TASK}")
    hooks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name, job.webhooks)  # noqa: SLF001 - the public properties import what the producer named
    if any(hooks):
        raise InvalidJobError("the job has callbacks or webhooks; this worker runs none, read its stream instead")
    if instance is not None or not isinstance(arguments, list) or len(arguments) != 1 or named:
        raise InvalidJobError(f"{TASK} takes exactly one argument, the job's JSON object")
    spec = JobSpec.decode(arguments[0])
    if spec.id != job.id:
        raise InvalidJobError(f"the job's id is {job.id!r} and its speech names {spec.id!r}")
    return spec


def _wip_key(queue: Queue) -> str:
    """Name the sorted set of a queue's running jobs, by the end of their lease."""
    return StartedJobRegistry.key_template.format(queue.name)
