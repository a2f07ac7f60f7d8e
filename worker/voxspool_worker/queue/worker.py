"""The RQ worker: several jobs in one process, around one engine thread; leases, stopping, handing back.

    main thread        waits for a free slot, takes a job from a queue, starts a thread for it
    job threads        run tasks.synthesize (speech.pipeline) or tasks.narrate (narration.chapter_job); they mostly wait
    segment threads    speak segments of chapters, of any worker's chapters (narration.segment_workers)
    engine thread      Scheduler.run, the only thread that calls the engine
    heartbeat thread   renews leases, renews the worker's card, rescues the jobs of dead workers (queue.heartbeat)
    watchdog thread    ends the process if a thread hangs or memory grows too large (monitoring.watchdog)
    pub/sub thread     receives stop commands (RQ's own)
    wake-up threads    one a queue: wake the main thread when a job arrives; they move nothing

Nothing forks, because a process that holds a model must not. RQ provides the queue, the registries and the results. All
private parts of RQ that the worker depends on are in this class; tests/worker/queue/test_rq_contract.py fails when RQ
changes one.

After the first SIGTERM or Ctrl-C the worker takes no new job and finishes those that it has. Chapters of books take too
long for that: they are handed back when the segments in progress are spoken. After the second, all jobs are handed back
at the next chunk, to the front of their queue and without using up a retry; another worker continues at that segment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
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
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from voxspool import connection
from voxspool.errors import InvalidJobError
from voxspool.protocol import keys, narration
from voxspool.protocol.environment import DEFAULT_STORE
from voxspool.protocol.jobs import TASK, JobSpec, priority_of, queue_name, queue_names
from voxspool.protocol.narration import ChapterSpec
from voxspool_worker import tasks
from voxspool_worker.engines.warmup import warm_up
from voxspool_worker.jobs.cancellation import CancelToken, EndedEarlyError, Reason
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.monitoring.metrics import Gauges, Metrics
from voxspool_worker.monitoring.watchdog import MemoryLimit, find_stall, resident_bytes
from voxspool_worker.narration.chapter_job import Narrator
from voxspool_worker.narration.segment_workers import SegmentWorkers
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.queue.heartbeat import Heartbeat
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_records import DEPENDENTS, LOST, Claim, PausedError, RqRecords, SuspendedError, Why
from voxspool_worker.speech.pipeline import Pipeline, SpeechGivenUpError
from voxspool_worker.speech.publisher import (
    LEASE_S,
    AlreadyRunningError,
    LostWritesError,
    NeedsOtherWorkerError,
    WrongEngineError,
)
from voxspool_worker.speech.scheduler import EngineLostError, Scheduler
from voxspool_worker.voices.catalog import VoiceBook, built_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType, TracebackType

    from redis import Redis
    from redis.client import Pipeline as RedisPipeline
    from redis.client import PubSub, PubSubWorkerThread

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.monitoring.health_file import HealthFile

log = logging.getLogger(__name__)

MAX_LIMIT_S: Final = 7 * 24 * 3600
"""A job's time limit, however large its hash says it is, in seconds: a week."""
WATCH_S: Final = 3.0
"""How often a worker checks its health and reports it, in seconds."""
IDLE_S: Final = 1.0
"""How long the main thread waits to be woken, in seconds, before it checks queues and signals by itself."""
JOIN_S: Final = 0.2
"""How often a shutdown looks whether the last job has ended, in seconds."""
HAND_BACK_S: Final = 10.0
"""How long a shutdown waits for job threads to notice, in seconds; a step of a slow engine is below it."""
CHAPTERS: Final = 2
"""How many chapters of books a worker has at once, beside its jobs: while one comes to its end, the other has work for
all rows. More would only stand in others' way, who may have none."""
NOT_HERE_S: Final = 5.0
"""How long a worker leaves batch work to others after a job that only they can do, in seconds."""
EXIT_ENGINE_LOST: Final = 70
"""Exit code when the engine broke, or something hung: EX_SOFTWARE. A supervisor starts the worker again."""
EXIT_RESTART: Final = 75
"""Exit code when the process has grown too large: EX_TEMPFAIL. A supervisor starts it again."""

SPOILT: Final = re.compile(r"WRONGTYPE|not an integer|would overflow|attempt to |stream ID|ID specified in XADD")
"""What Redis says where somebody else wrote to a job's keys, and no other try will do better."""

OUTCOMES: Final = {
    Reason.CANCELLED: ("cancelled", ""),
    Reason.TIMED_OUT: ("failed", "timeout"),
    Reason.HANDED_BACK: ("handed_back", ""),
    Reason.LEASE_LOST: ("lost", ""),
}
"""What ended a run early -> its outcome and its code in the metrics."""


class CooperativeDeathPenalty(BaseDeathPenalty):
    """No alarm: a job looks at its token between chunks. Signals reach the main thread alone, and threads are many."""

    def setup_death_penalty(self) -> None:
        """Do nothing; the token holds the deadline."""

    def cancel_death_penalty(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A job that a thread of ours runs."""

    run: JobExecution
    token: CancelToken
    thread: threading.Thread
    chapter: bool = False
    """Whether it is a book's: it takes no slot, as its owner speaks nothing itself."""


class SpeechWorker(BaseWorker):
    """Takes jobs from the queues of one engine and speaks up to `jobs` of them at once."""

    death_penalty_class = CooperativeDeathPenalty
    log_result_lifespan = False

    def __init__(
        self,
        engine: Engine,
        connect: Callable[..., Redis],
        *,
        jobs: int,
        name: str | None = None,
        fallback_from: str = "",
        health: HealthFile | None = None,
        store: str | Path = DEFAULT_STORE,
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Prepare; nothing is taken before `work`. `fallback_from` is what the engine stands in for, and why.

        `health` is told that the worker is healthy, `store` is where spoken segments of books are kept. Above
        `memory_limit_bytes` (None: see `watch.Growth`) it ends between jobs, to be started again.
        `connect` gives a Redis client with the options it is passed. The threads have clients of their own: RQ raises
        its pool's socket timeout, and what must not be sent twice must not be retried.
        """
        self._connect = connect
        client = connect()
        super().__init__(
            [Queue(queue, connection=client, serializer=JSONSerializer) for queue in queue_names(engine.name)],
            name=name,
            connection=client,
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=keys.WORKER_TTL_S,
            prepare_for_work=True,
        )
        self._engine = engine
        self._scheduler = Scheduler(engine)
        self.metrics = Metrics()
        self._pipeline = Pipeline(engine, self._scheduler, connect(), self.metrics)
        self._records = RqRecords(connect, self.name)
        self._heartbeat_loop = Heartbeat(
            self._records,
            Recovery(self._records, connect(), self.metrics.job_rescued),
            self.queue_names(),
            lambda: [(one.run, one.token) for one in self._alive()],
            say_alive=self._say_alive,
            say_away=self._say_away,
        )
        self._store_handle = StoreHandle(store)
        self._segment_workers = SegmentWorkers(
            engine, self._scheduler, connect(), self._store_handle, self.metrics, self.name,
            argument_of=self._records.argument, redis_is_new=lambda: self._heartbeat_loop.redis_is_new,
        )  # fmt: skip
        self._narrator = Narrator(engine, self._pipeline, self._segment_workers, self._store_handle, connect())
        self._batch_queue = queue_name(engine.name, "batch")
        self._not_here_until = 0.0
        self._speech_rate: float | None = None
        self._fallback_from = fallback_from
        self._jobs = jobs
        self._claimed: JobExecution | None = None
        self._slots = threading.Semaphore(jobs)
        self._running: dict[str, _Running] = {}
        self._running_lock = threading.Lock()
        self._stopped_lock = threading.Lock()
        self._rung = threading.Event()
        self._idle = threading.Event()
        self._end_awaited = threading.Event()
        self._paused: frozenset[str] = frozenset()
        self._trials: set[str] = set()
        self._turned = time.monotonic()
        self._health = health
        self._memory_limit_bytes = memory_limit_bytes
        self._growth: MemoryLimit | None = None
        self._restart = False
        self._burst = False
        self._quit = threading.Event()
        self._force = False
        self._engine_lost = False
        self._engine_thread = threading.Thread(
            target=self._scheduler.run, args=(self._lose_engine,), name="engine", daemon=True
        )

    # -- the life of the process ---------------------------------------------------------------------------------

    def bootstrap(self, *_: object, **__: object) -> None:
        """Come to life: register, listen, start the threads. Logging is the CLI's to set up."""
        self._install_signal_handlers()  # RQ does it after this: too late for a signal that comes meanwhile
        self._store_handle.start()
        warmed = warm_up(self._engine)
        self._speech_rate = warmed.speech_rate
        self._growth = MemoryLimit(self._memory_limit_bytes, resident_bytes)
        self._when_there_is_room(self.register_birth)
        self.subscribe()
        self._when_there_is_room(lambda: self.set_state(WorkerStatus.STARTED))
        self._say_alive()
        self._turned = time.monotonic()
        self._engine_thread.start()
        self._segment_workers.start()
        threading.Thread(target=self._heartbeat_loop.run, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        for queue in self.queues:
            threading.Thread(target=self._ring, args=(queue,), name=f"wake-up-{queue.name}", daemon=True).start()
        log.info(
            "worker.ready name=%s engine=%s device=%s jobs=%d rows=%d warm_s=%.3g memory_limit_mb=%d queues=%s",
            self.name, self._engine.name, self._engine.device, self._jobs, self._engine.rows, warmed.elapsed_s,
            self._growth.limit_bytes >> 20, ",".join(self.queue_names()),
        )  # fmt: skip

    def _when_there_is_room(self, act: Callable[[], object]) -> None:
        """Do what RQ does of itself at the start, as soon as Redis has memory for it."""
        while not self._stop_requested:
            try:
                act()
            except redis.exceptions.ResponseError as error:
                if not connection.is_full(error):
                    raise
                log.warning("redis.full name=%s error=%s", self.name, error)
                self._quit.wait(IDLE_S)
            else:
                return

    def teardown(self) -> None:
        """Let the running jobs end (or hand them back, after a second signal), then leave."""
        log.info("worker.stopping name=%s running=%d", self.name, len(self._alive()))
        self._turned = math.inf  # the loop is left: what hangs from here on is a job, or the engine
        self._segment_workers.close()
        while (running := self._alive()) or self._segment_workers.busy:
            if self._engine_lost or self._force:
                if not self._engine_lost:  # else their leases run out: that is a death
                    self._segment_workers.give_back(HAND_BACK_S)
                self._hand_back(running)
                break
            self._hand_chapters_back(running)
            self._quit.wait(JOIN_S)
        self._quit.set()
        self._segment_workers.stop()
        self._store_handle.stop()
        self._heartbeat_loop.stop()
        self._scheduler.stop()
        self._engine_thread.join(0 if self._engine_lost else HAND_BACK_S)
        self._sign_off()
        if self._health:
            self._health.remove()
        log.info("worker.gone name=%s", self.name)
        if self._engine_lost or self._engine_thread.is_alive():
            os._exit(EXIT_ENGINE_LOST)  # the engine's thread may hang in a broken driver

    def _sign_off(self) -> None:
        """Take our names out of Redis; where it is away, they expire."""
        try:
            with contextlib.closing(self._connect(retries=0)) as once:
                once.srem(keys.WORKERS, self.name)
                once.delete(keys.worker(self.name))
            super().teardown()
        except redis.exceptions.RedisError as error:
            self._say_away(error)

    @property
    def exit_code(self) -> int:
        """What the process says when `work` has returned: 0 where it was asked to stop, or had nothing more to do."""
        if self._restart:
            return EXIT_RESTART
        return 0 if self._stop_requested or self._burst else EXIT_ENGINE_LOST

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: take nothing more, speak what was begun.

        Sets plain values alone: the main thread may be inside a lock that an Event would wait for.
        """
        del signum, frame
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self._shutdown_requested_date = now()
        self._stop_requested = True

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Second signal: hand back what is running."""
        del signum, frame
        self._force = True

    def run_maintenance_tasks(self) -> None:
        """Do nothing: RQ's cleaners are not atomic and fail jobs that wait. The heartbeat thread cleans up."""
        self.last_cleaned_at = now()  # type: ignore[assignment] # RQ declares it None

    def _set_ip_address(self, connection: Redis) -> None:
        """Ask for our own address, for RQ's record of the worker; on a Unix socket its path stands there.

        redis-py 8 (`parse_client_info`) cannot read a path with a blank or a `=`; RQ's word for no address is unknown.
        """
        try:
            super()._set_ip_address(connection)
        except ValueError:
            self.ip_address = "unknown"

    def heartbeat(self, timeout: int | None = None, pipeline: RedisPipeline | None = None) -> None:
        """Leave it to the heartbeat thread: RQ's heartbeats are three commands at every turn."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return the lease of a running job, in seconds."""
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
            self._turned = time.monotonic()
            self._rung.clear()
            if not self._on_no_trial() or not self._take_slot():
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

    def _on_no_trial(self) -> bool:
        """Wait a little while a job is quarantined; return whether none is.

        A job that a worker died of, or beside, is taken alone: until it has completed a segment, no other is begun. So
        when a worker dies again, the one that it died of is known, and its neighbours are not set aside with it.
        """
        if self._trials:
            self._rung.wait(IDLE_S)
        return not self._trials

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
            self._paused = frozenset()
            while claim := self._records.claim(self._open_queues(), name := uuid4().hex):
                if job := self._read(claim):
                    self._claimed = claim.run
                    return job, next(queue for queue in self.queues if queue.name == claim.run.queue)
        except PausedError as error:
            self._paused = error.queues
        except SuspendedError:
            self._wait_suspended()
        except redis.exceptions.RedisError as error:
            self._heartbeat_loop.miss(name)
            self._say_away(error)
            self._quit.wait(IDLE_S)
        return None

    def _open_queues(self) -> list[str]:
        """Name the queues to take from now: without chapters, while there are enough or others should have them."""
        shut = sum(one.chapter for one in self._alive()) >= CHAPTERS or time.monotonic() < self._not_here_until
        return [queue for queue in self.queue_names() if not (shut and queue == self._batch_queue)]

    def _wait_suspended(self) -> None:
        """Wait until somebody resumes RQ's workers."""
        self._turned = math.inf
        try:
            super().check_for_suspension(self._burst)
        except redis.exceptions.RedisError as error:
            self._say_away(error)
            self._quit.wait(IDLE_S)
        self._turned = time.monotonic()

    def _read(self, claim: Claim) -> Job | None:
        """Read a claimed job; reject what is not one."""
        try:
            job = Job(claim.run.job, connection=self.connection, serializer=self.serializer)
            job.restore(claim.fields)
        except Exception as error:  # noqa: BLE001 - RQ raises what its parsers raise, and anybody may write a job
            self._reject(claim.run, f"its hash in Redis cannot be read ({type(error).__name__})")
            return None
        job.origin = claim.run.queue  # where it lay, whatever its hash says: RQ names its registries by this
        job.started_at = now()
        return job

    def _reject(self, run: JobExecution, why: str) -> None:
        """Set a job aside that RQ cannot even read: failed for RQ, failed for whoever follows its stream."""
        shown = run.job.encode(errors="surrogateescape").decode(errors="replace")
        error = InvalidJobError(f"job {shown!r:.80} cannot be taken: {why}")
        log.error("job.buried error=%s", error)
        if JOB_ID_PATTERN.fullmatch(run.job) and not self._refused(run, error):
            return
        nameless = Job("unreadable", connection=self.connection, serializer=self.serializer)
        self._records.finish(run, nameless, JobStatus.FAILED, str(error))
        self.metrics.run_over("failed", error.code)

    def _ring(self, queue: Queue) -> None:
        """Ring when a job lies in a queue; one that is paused or shut is left to the main thread, once a second.

        Moving a list's head onto itself blocks until there is one and changes nothing. So one thread a queue can wait
        for all of them at once, where Redis lets a single command wait for only one without losing jobs in a crash.
        """
        client = self._connect(retries=0)
        while not self._quit.is_set():
            if not self._idle.wait(IDLE_S):
                continue
            if queue.name in self._paused or queue.name not in self._open_queues():
                self._quit.wait(IDLE_S)
                continue
            try:
                if client.blmove(queue.key, queue.key, 1, "LEFT", "LEFT"):
                    self._idle.clear()
                    self._rung.set()
            except redis.exceptions.RedisError:
                self._quit.wait(IDLE_S)

    # -- running a job ---------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start a thread for a job; its slot is free again when the thread ends."""
        run, self._claimed = self._claimed, None
        assert run, "work() executes what it has just dequeued"
        limit_s, problem, chapter = job.timeout, None, False
        try:
            spec = spec_of(job)
            chapter = isinstance(spec, ChapterSpec)
            usual_s = narration.TIMEOUT_S if isinstance(spec, ChapterSpec) else spec.timeout_s
            limit_s = min(limit_s if limit_s and limit_s > 0 else usual_s, MAX_LIMIT_S)
        except InvalidJobError as error:
            limit_s, problem = MAX_LIMIT_S, error
        token = CancelToken(limit_s)
        thread = threading.Thread(
            target=self._run, args=(job, queue, run, token, problem), name=f"job-{job.id}", daemon=True
        )
        with self._running_lock:
            self._running[run.id] = _Running(run, token, thread, chapter)
        if chapter:
            self._slots.release()
        elif run.deaths:  # of a chapter each segment has a trial of its own
            self._trials.add(run.id)
            log.warning("job.quarantined job=%s deaths=%d", job.id, run.deaths)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads to be had: the lease brings the job back
            log.error("worker.full error=%s", error)  # noqa: TRY400 - the message says it all
            self._ended(run)

    def _run(
        self, job: Job, queue: Queue, run: JobExecution, token: CancelToken, problem: InvalidJobError | None
    ) -> None:
        """Run one job in its thread, or refuse it there."""
        about = run, self.name, token, lambda: self._clear_suspicion(run)
        tasks.speaker.set(lambda spec: self._pipeline.speak(spec, *about))
        tasks.narrator.set(lambda chapter: self._narrator.narrate(chapter, *about))
        try:
            if problem:
                self._refuse(job, queue, run, problem)
            else:
                self.perform_job(job, queue, Execution(run.id, job.id, self.connection, self.name))
        except redis.exceptions.RedisError as error:
            self._say_away(error, job.id)
            self.metrics.run_over("lost")
            self._heartbeat_loop.release(run)
        except Exception:
            log.exception("job.lost job=%s", job.id)
            self.metrics.run_over("lost")  # its lease runs out, and it is brought back
        finally:
            self._ended(run)

    def _clear_suspicion(self, run: JobExecution) -> None:
        """Record that a job completed a segment, which ends its quarantine."""
        if run.id in self._trials:
            self._trials.discard(run.id)
            self._rung.set()

    def _ended(self, run: JobExecution) -> None:
        """Free a run's slot."""
        with self._running_lock:
            ended = self._running.pop(run.id)
        self._clear_suspicion(run)
        if not ended.chapter:
            self._slots.release()
        if ended.chapter or self._burst or self._end_awaited.is_set():
            self._rung.set()

    def _refuse(self, job: Job, queue: Queue, run: JobExecution, problem: InvalidJobError) -> None:
        """Fail a job that is not one of ours, for RQ and for whoever follows its stream."""
        log.error("job.refused job=%s error=%s", job.id, problem)
        if self._refused(run, problem):
            self._fail(job, queue, run, str(problem))
            self.metrics.run_over("failed", problem.code)

    def _refused(self, run: JobExecution, problem: InvalidJobError) -> bool:
        """Close the stream of a job that is refused; False where another run has it, which then says how it ends."""
        try:
            self._pipeline.refuse(run, self.name, problem, self._wait_for_room)
        except AlreadyRunningError:
            self._records.forget(run)
            self.metrics.run_over("held")
            return False
        except (EndedEarlyError, LostWritesError):
            self.metrics.run_over("lost")
            return False
        except redis.exceptions.ResponseError as error:
            if not SPOILT.search(str(error)):
                raise
        return True

    def _wait_for_room(self, wait_s: float) -> None:
        """Wait for Redis to have room for a refusal. Raises EndedEarlyError where this worker stops."""
        self._turned = time.monotonic()
        self._quit.wait(wait_s)
        if self._stop_requested:
            raise EndedEarlyError(Reason.HANDED_BACK)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:  # noqa: FBT001, FBT002 - RQ's signature
        """Leave it to the dequeue script: a job that is taken is started."""

    def procline(self, message: str) -> None:
        """Leave the process's name alone: it runs many jobs."""

    def _finalize_success(self, job: Job, queue: Queue, execution: Execution, return_value: object) -> None:
        """Record a job that returned."""
        job._result = return_value  # noqa: SLF001 - RQ's own finaliser does the same
        if (
            self._finish(JobExecution(queue.name, job.id, execution.id), job, JobStatus.FINISHED, return_value)
            == DEPENDENTS
        ):
            super()._finalize_success(job, queue, execution, return_value)
        self.metrics.run_over("ended")

    def _finalize_failure(
        self,
        job: Job,
        queue: Queue,
        execution: Execution,
        exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
    ) -> None:
        """End a job that raised, as what it raised says. The stream knows already."""
        error, run = exc_info[1], JobExecution(queue.name, job.id, execution.id)
        if isinstance(error, redis.exceptions.ResponseError) and SPOILT.search(str(error)):
            log.error("job.corrupt job=%s error=%s", job.id, error)
            self._fail(job, queue, run, f"its stream in Redis is corrupt ({error}); enqueue the text under another id")
        elif isinstance(error, redis.exceptions.RedisError):
            raise error  # nothing is decided: the lease runs out, and the job is brought back
        elif isinstance(error, EndedEarlyError):
            self._end_early(job, queue, run, error)
        elif isinstance(error, AlreadyRunningError):
            log.info("job.held job=%s by=%s", job.id, error)
            self._records.forget(run)
        elif isinstance(error, WrongEngineError):
            self._pass_on(run, error.engine)
        elif isinstance(error, NeedsOtherWorkerError):
            self._leave_to_others(run, error)
        elif isinstance(error, EngineLostError | LostWritesError):
            self._give_back(run, Why.BROKEN if isinstance(error, EngineLostError) else Why.RETURNED)
        elif isinstance(error, SpeechGivenUpError):
            log.error("job.failed job=%s code=%s error=%s", job.id, error.code, error)
            self._fail(job, queue, run, str(error))
        else:
            log.error("job.error job=%s", job.id, exc_info=error)
            self._fail(job, queue, run, f"{type(error).__name__}: {error}")
        self.metrics.run_over(*outcome_of(error))

    def _end_early(self, job: Job, queue: Queue, run: JobExecution, ended: EndedEarlyError) -> None:
        """End a job whose token, or whose stream, told it to."""
        log.info("job.ended_early job=%s reason=%s by=%s", job.id, ended.reason.value, ended.by)
        if ended.reason is Reason.HANDED_BACK:
            self._give_back(run, Why.BROKEN if self._engine_lost else Why.RETURNED)
        elif ended.reason is Reason.CANCELLED:
            self._fail(job, queue, run, f"cancelled by {ended.by or 'a stop command'}", JobStatus.STOPPED)
        elif ended.reason is Reason.TIMED_OUT:
            self._fail(job, queue, run, f"exceeded its time limit of {job.timeout} s")

    def _fail(
        self, job: Job, queue: Queue, run: JobExecution, sentence: str, status: JobStatus = JobStatus.FAILED
    ) -> None:
        """Record a failure or a stop: a sentence, never a traceback."""
        if self._finish(run, job, status, sentence) == DEPENDENTS:
            job.retries_left = None  # its stream is closed: another run could say nothing
            execution = Execution(run.id, job.id, self.connection, self.name)
            with self._stopped_lock:  # RQ has one place for all jobs to say "this one was stopped"
                self._stopped_job_id = job.id if status is JobStatus.STOPPED else None
                self.handle_job_failure(job, queue, exc_string=sentence, execution=execution)

    def _finish(self, run: JobExecution, job: Job, status: JobStatus, outcome: object) -> str:
        """Record the end of a run, and keep RQ's statistics of this worker, which the heartbeat thread writes."""
        said = self._records.finish(run, job, status, outcome)
        if said == LOST:
            log.warning("job.dropped job=%s", job.id)
        elif said != DEPENDENTS:
            finished = status is JobStatus.FINISHED
            with self._running_lock:
                self.successful_job_count += finished
                self.failed_job_count += not finished
                self.total_working_time += (now() - (job.started_at or now())).total_seconds()
        return said

    def _give_back(self, run: JobExecution, why: Why = Why.RETURNED) -> None:
        """Put a running job back at the front of its queue, without a retry."""
        said = self._records.requeue(run, why)
        log.info("job.handed_back job=%s said=%s", run.job, said)

    def _pass_on(self, run: JobExecution, engine: str) -> None:
        """Put a job that another engine has to speak at the front of that engine's queue."""
        to = queue_name(engine, priority_of(run.queue))
        said = self._records.requeue(run, Why.RETURNED, to=to)
        log.info("job.passed_on job=%s to=%s said=%s", run.job, to, said)

    def _leave_to_others(self, run: JobExecution, error: NeedsOtherWorkerError) -> None:
        """Put a job that only others can do at the end of its queue, and take nothing from there for a while."""
        self._not_here_until = time.monotonic() + NOT_HERE_S
        said = self._records.requeue(run, Why.RETURNED, last=True)
        log.info("job.not_here job=%s why=%s said=%s", run.job, error, said)

    # -- stopping a job --------------------------------------------------------------------------------------------

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Obey a command from RQ's channel: stop-job and stop-execution for any of the running jobs, and shutdown."""
        try:
            payload = parse_payload(message)
            command = payload["command"]
        except Exception as error:  # noqa: BLE001 - anybody may publish, and this thread must live
            log.warning("command.unreadable error=%s", type(error).__name__)
            return
        if command == "shutdown":
            os.kill(os.getpid(), signal.SIGINT)
        elif command in ("stop-job", "stop-execution"):
            wanted = payload.get("execution_id") or payload.get("job_id")
            for running in self._alive():
                if wanted in (running.run.job, running.run.id):
                    running.token.end(Reason.CANCELLED)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: PubSub, pubsub_thread: PubSubWorkerThread) -> None:
        """Wait for a Redis that is away, however it is; RQ's own gives up the commands at a timeout."""
        del pubsub, pubsub_thread
        if not isinstance(exc, redis.exceptions.RedisError):
            raise exc
        self._say_away(exc)
        self._quit.wait(IDLE_S)

    def _alive(self) -> list[_Running]:
        """Return the jobs that run now."""
        with self._running_lock:
            return list(self._running.values())

    def _hand_chapters_back(self, running: list[_Running]) -> None:
        """Let chapters go on elsewhere, as soon as the segments in hand are spoken."""
        for one in running:
            if one.chapter and not self._segment_workers.busy:
                one.token.end(Reason.HANDED_BACK)

    def _hand_back(self, running: list[_Running]) -> None:
        """Ask jobs to go back to their queue at the next chunk, and wait until they have."""
        for one in running:
            one.token.end(Reason.HANDED_BACK)
        deadline = time.monotonic() + HAND_BACK_S
        for one in running:
            one.thread.join(max(0.0, deadline - time.monotonic()))
        # Those that do not look are given back over their heads; their writes are fenced off. Asked once: a Redis that
        # is away now finds their leases run out.
        records = RqRecords(lambda **_: self._connect(retries=0), self.name)
        why = Why.BROKEN if self._engine_lost else Why.RETURNED
        with contextlib.suppress(redis.exceptions.RedisError):
            for one in self._alive():
                log.info("job.handed_back job=%s said=%s", one.run.job, records.requeue(one.run, why))

    def _lose_engine(self) -> None:
        """Take note, in the engine thread, that the engine broke: hand everything back and exit."""
        self._engine_lost = True
        self._stop_requested = True
        self._rung.set()

    # -- whether it is healthy -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Check the health of all threads, again and again. In a thread of its own, which never waits for Redis."""
        while not self._quit.wait(WATCH_S):
            try:
                self._see_to_hanging()
                self._see_to_growth()
            except Exception:
                log.exception("watch.error")

    def _see_to_hanging(self) -> None:
        """Report that all threads are healthy; end this process if one is not."""
        running = self._alive()
        hangs = find_stall(
            time.monotonic(),
            step_began=self._scheduler.step_began,
            turned=self._turned,
            tokens=[one.token for one in running],
            redis_back=self._heartbeat_loop.redis_back,
        )
        if not hangs and self._health:
            self._health.write(f"{len(running)} of {self._jobs} jobs")
        elif hangs and not self._engine_lost:
            log.error("worker.hangs name=%s why=%s", self.name, hangs)
            self._scheduler.give_up(hangs)
            self._lose_engine()

    def _see_to_growth(self) -> None:
        """Take no more jobs if the process has grown too large, and end after those that run."""
        if self._restart or not self._growth or not (size_bytes := self._growth.too_large_bytes):
            return
        log.warning(
            "worker.grown name=%s memory_mb=%d limit_mb=%d: it ends when its jobs have, to be started again",
            self.name, size_bytes >> 20, self._growth.limit_bytes >> 20,
        )  # fmt: skip
        self._restart = self._stop_requested = True
        self._rung.set()

    # -- what it says of itself ------------------------------------------------------------------------------------

    def _say_away(self, error: Exception, job: str = "-") -> None:
        """Log that a command did not reach Redis, or was refused; the caller waits or gives up."""
        log.warning("redis.away job=%s error=%s", job, error)
        self.metrics.redis_away()

    def _say_alive(self) -> None:
        """Renew RQ's record of this worker and our card of what it offers."""
        self.last_heartbeat = now()
        counts, recent = self.metrics.counts(), self.metrics.recent()
        card: Any = {
            "engine": self._engine.name,
            "model": self._engine.model,
            "device": self._engine.device,
            "sample_rate": self._engine.sample_rate,
            "voices": json.dumps({name: voice.languages for name, voice in built_in(self._engine.voices).items()}),
            "clones": int(isinstance(self._engine.voices, VoiceBook)),
            "queues": "" if self._stop_requested else ",".join(self.queue_names()),
            "jobs": self._jobs,
            "running": len(self._alive()),
            "rows": self._engine.rows,
            "rows_in_use": self._scheduler.rows_in_use,
            "host": self.hostname or "",
            "pid": os.getpid(),
            "fallback_from": self._fallback_from,
            "jobs_ended": counts.jobs["ended", ""],
            "jobs_failed": counts.failed,
            "spoken_again": counts.spoken_again,
            "voice_hit_rate": shown(counts.voice_hit_rate),
            "first_chunk_s": shown(recent.first_chunk_s),
            "real_time_factor": shown(recent.real_time_factor),
            "jobs_per_minute": shown(recent.jobs_per_minute),
            "speech_rate": shown(self._scheduler.work.speech_rate(self._engine.sample_rate) or self._speech_rate),
            "store": self._store_handle.id,
        }
        self._records.say_alive(card, self.serialize() | self._statistics())
        self.metrics.redis_here()

    def gauges(self) -> Gauges:
        """Return the present state of this worker. From any thread."""
        engine = self._engine
        return Gauges(
            self.name, engine.name, engine.model, engine.device, self._jobs, len(self._alive()), engine.rows,
            self._scheduler.rows_in_use, self._scheduler.work,
        )  # fmt: skip

    def _statistics(self) -> dict[str, Any]:
        """What RQ's tools show of a worker."""
        return {
            "state": (WorkerStatus.BUSY if self._alive() else WorkerStatus.IDLE).value,
            "successful_job_count": self.successful_job_count,
            "failed_job_count": self.failed_job_count,
            "total_working_time": self.total_working_time,
        }


def outcome_of(error: BaseException | None) -> tuple[str, str]:
    """Name how a run ended that raised, and the code of a failure."""
    if isinstance(error, EndedEarlyError):
        return OUTCOMES[error.reason]
    if isinstance(error, EngineLostError | LostWritesError | WrongEngineError | NeedsOtherWorkerError):
        return "handed_back", ""
    if isinstance(error, AlreadyRunningError):
        return "held", ""
    return "failed", error.code if isinstance(error, SpeechGivenUpError) else "internal"


def shown(value: float | None) -> str:
    """Write a measurement on a card; empty where there is none yet."""
    return "" if value is None else f"{value:.4g}"


def spec_of(job: Job) -> JobSpec | ChapterSpec:
    """Read what a job asks for.

    Raises InvalidJobError for a job that may not be performed: data that is not JSON, another function than our two,
    callbacks and webhooks, and a speech that names another job, whose stream it would write.
    """
    try:
        function, instance, arguments, named = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError as error:
        message = "the job's data is not JSON; enqueue with RQ's JSONSerializer (pickle is never read)"
        raise InvalidJobError(message) from error
    if function not in (TASK, narration.TASK):
        runs = f"{TASK} and {narration.TASK}"
        raise InvalidJobError(f"the job names the function {_named(function)}; this worker runs only {runs}")
    hooks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name, job.webhooks)  # noqa: SLF001 - the public properties import what the producer named
    if any(hooks):
        raise InvalidJobError("the job has callbacks or webhooks; this worker runs none, read its stream instead")
    if instance is not None or not isinstance(arguments, list) or len(arguments) != 1 or named:
        raise InvalidJobError(f"{function} takes exactly one argument, the job's JSON object")
    spec = JobSpec.decode(arguments[0]) if function == TASK else ChapterSpec.decode(arguments[0])
    named_id = spec.id if isinstance(spec, JobSpec) else spec.speech.id
    if named_id != job.id:
        raise InvalidJobError(f"the job's id is {job.id!r} and its speech names {named_id!r}")
    return spec


def _named(function: object) -> str:
    """Return a function's name as it may be shown: what is none may be a text, which is never logged."""
    if isinstance(function, str) and all(part.isidentifier() for part in function.split(".")):
        return f"{function!r:.80}"
    return f"(a {type(function).__name__} that is no name)"
