"""The worker process: it speaks jobs from RQ's queues with one engine, many at once. This module starts and stops it.

    main thread        waits for a job, claims it, starts a thread for it (queue.job_source, queue.job_runner)
    job threads        run a speech (speech.speech_job) or a chapter (narration.chapter_job); they mostly wait
    segment threads    speak segments of chapters, of any worker's chapters (narration.segment_workers)
    engine thread      Scheduler.run, the only thread that calls the engine
    heartbeat thread   renews leases and the worker's card, recovers the jobs of dead workers (queue.heartbeat)
    watchdog thread    ends the process if a thread hangs or memory grows too large (monitoring.watchdog)
    pub/sub thread     receives stop commands (queue.commands)
    wake-up threads    one per queue of interactive jobs: wake the main thread when a job arrives (queue.job_source)

RQ is used as a library: the worker uses its queues, jobs, registries, results and commands, so that RQ's tools show and
stop the jobs. It does not use RQ's worker classes: they fork for each job, and a process with a model must not fork.

After the first SIGTERM or Ctrl-C the worker takes no new job and finishes its running ones. Chapters of books take too
long for that: they are handed back when the segments in progress are spoken. After the grace period, or the second
signal, all jobs are handed back at the next chunk, to the front of their queue and without using up a retry; another
worker continues at that segment. So no job is left when a supervisor sends SIGKILL after SIGTERM.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import redis.exceptions
from rq.worker import WorkerStatus

from voxspool.protocol.environment import DEFAULT_STORE
from voxspool_worker.engines.warmup import warm_up
from voxspool_worker.jobs.cancellation import EndedEarlyError
from voxspool_worker.jobs.standing import Standing
from voxspool_worker.monitoring.metrics import Gauges, Metrics
from voxspool_worker.monitoring.watchdog import MemoryLimit, Watchdog, find_stall, resident_bytes
from voxspool_worker.monitoring.worker_card import card_fields
from voxspool_worker.narration.chapter_job import Narrator
from voxspool_worker.narration.segment_workers import SegmentWorkers
from voxspool_worker.narration.speech_cache import SpeechCache
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.queue.capacity import Capacity
from voxspool_worker.queue.commands import CommandListener
from voxspool_worker.queue.heartbeat import Heartbeat
from voxspool_worker.queue.job_runner import JobRunner
from voxspool_worker.queue.job_source import JobSource
from voxspool_worker.queue.lifecycle import EXIT_ENGINE_LOST, Lifecycle
from voxspool_worker.queue.outcomes import Outcomes
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import RqRecords, Why
from voxspool_worker.queue.rq_registration import RqRegistration
from voxspool_worker.queue.spoilt_keys import SpoiltKeys
from voxspool_worker.retries import retry_while_redis_is_full
from voxspool_worker.settings import DEFAULT_GRACE_S, DEFAULT_UNSERVED_S
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.probation import Probation
from voxspool_worker.speech.scheduler import Scheduler
from voxspool_worker.speech.speech_job import SpeechJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from redis import Redis

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.monitoring.health_file import HealthFile

log = logging.getLogger(__name__)

HAND_BACK_S: Final = 2.0
"""Longest wait of a shutdown for the threads of jobs and segments to hand them back, in seconds. They react at once,
unless they prepare a voice or wait for Redis or a store."""
ENGINE_STOP_S: Final = 1.0
"""Longest wait of a shutdown for the engine's step, in seconds. All jobs have ended or were handed back by then."""
POLL_JOBS_S: Final = 0.2
"""Polling interval of a shutdown that waits for the last job to end, in seconds."""


class SpeechWorker:
    """A worker process: it takes jobs from the queues of one engine and speaks up to `jobs` of them at once.

    The constructor is long because it is the only place that creates all parts and connects them.
    """

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
        grace_s: float = DEFAULT_GRACE_S,
        unserved_s: float = DEFAULT_UNSERVED_S,
    ) -> None:
        """Create all parts; `work` takes the first job.

        `connect` returns a client of Redis with the options that it receives. Several clients are needed: commands that
        must not be sent twice need one without retries. `fallback_from` says which engine this one replaces, and why.
        `health` is the worker's health file; `store` is the segment store of books. Above `memory_limit_bytes` (None:
        see `MemoryLimit`) the worker ends between jobs, to be started again. After the first signal, jobs may run for
        `grace_s` more seconds. A job that no live worker could speak for `unserved_s` seconds is cancelled.
        """
        self.name = name or uuid4().hex
        self.metrics = Metrics()
        self._engine = engine
        self._connect = connect
        self._fallback_from = fallback_from
        self._health = health
        self._memory_limit_bytes = memory_limit_bytes
        self._grace_s = grace_s
        self._warmup_rate: float | None = None
        self._lifecycle = Lifecycle()
        self._scheduler = Scheduler(engine)
        self._engine_thread = threading.Thread(
            target=self._scheduler.run, args=(self._lifecycle.lose_engine,), name="engine", daemon=True
        )
        self._store_handle = StoreHandle(store)
        self._standing = Standing("-".join(socket.gethostname().split()))
        self._probation = Probation(connect(), self.name, engine.name, self._standing)
        self._records = RqRecords(connect, self.name, self._standing)
        queues = RqQueues(connect())
        self._capacity = Capacity(jobs, self._lifecycle.wake_up, rows=engine.rows)
        pipeline = Pipeline(engine, connect(), self.name, lambda: self._heartbeat.expired_by)
        self._outcomes = Outcomes(self._records, pipeline, self._capacity, self.metrics, self._lifecycle)
        self._segment_workers = SegmentWorkers(
            engine, self._scheduler, connect(), self._store_handle, self.metrics, self.name, self._standing,
            self._probation, argument_of=queues.argument, expired_by=lambda: self._heartbeat.expired_by,
        )  # fmt: skip
        self._runner = JobRunner(
            pipeline,
            SpeechJob(engine, self._scheduler, self.metrics, SpeechCache(engine, self._store_handle, self.name)),
            Narrator(engine, pipeline, self._segment_workers, self._store_handle, connect()),
            self._outcomes,
            self._capacity,
            self.metrics,
            self._lifecycle,
            on_completed=self._probation.completed,
            release=lambda run: self._heartbeat.release(run),  # noqa: PLW0108 - made below
            redis_away=self._redis_away,
        )
        self._spoilt_keys = SpoiltKeys()
        self._source = JobSource(
            engine.name, self._records, connect, self._capacity, self._outcomes, self._lifecycle, self._standing,
            self._probation,
            lost_claim=lambda claim: self._heartbeat.lose_claim(claim),  # noqa: PLW0108 - made below
            redis_away=self._redis_away, spoilt=self._spoilt_keys,
        )  # fmt: skip
        self._recovery = Recovery(self._records, queues, connect(), self.metrics.job_rescued, unserved_s=unserved_s)
        self._heartbeat = Heartbeat(
            self._records,
            queues,
            self._recovery,
            self._source.queues,
            lambda: [(one.run, one.token) for one in self._runner.running()],
            renew_card=self._renew_card,
            redis_away=self._redis_away,
        )
        self._commands = CommandListener(
            connect(), self.name, stop_job=self._runner.stop, redis_away=self._redis_away,
            shut_down=lambda: os.kill(os.getpid(), signal.SIGINT), wait=self._lifecycle.left.wait,
        )  # fmt: skip
        self._registration = RqRegistration(connect(), self.name, self._source.queues)

    def work(self, *, burst: bool = False) -> int:
        """Run jobs until a signal arrives, or in `burst` mode until no job is left. Return the exit code.

        Raises RedisError if Redis is not available at the start.
        """
        self._lifecycle.burst = burst
        self._start()
        try:
            while claimed := self._source.next_job(self._is_running):
                self._runner.start(claimed)
        except Exception:
            log.exception("worker.error name=%s", self.name)
            self._lifecycle.failed = True
        finally:
            self._shut_down()
        return self._lifecycle.exit_code

    def gauges(self) -> Gauges:
        """Return the present state of this worker. Any thread may call it."""
        engine = self._engine
        return Gauges(
            self.name, engine.name, engine.model, engine.device, self._capacity.jobs, len(self._runner.running()),
            engine.rows, self._scheduler.rows_in_use, self._scheduler.work,
        )  # fmt: skip

    # -- start and stop ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Warm up the engine, register with Redis, and start all threads."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request_stop)
        self._store_handle.start()
        warmed = warm_up(self._engine)
        self._warmup_rate = warmed.speech_rate
        memory = MemoryLimit(self._memory_limit_bytes, resident_bytes)
        self._probation.begin()
        self._recovery.find_neighbours()
        with contextlib.suppress(EndedEarlyError):  # a signal came while Redis had no memory for the registration
            retry_while_redis_is_full(self._renew_card, self._lifecycle.wait_for_memory, f"name={self.name}")
        self._commands.start()
        self._engine_thread.start()
        self._segment_workers.start()
        watchdog = Watchdog(
            self._find_stall, memory, on_healthy=self._report_health, on_stall=self._end_of_stall,
            on_growth=lambda size_bytes: self._end_of_growth(size_bytes, memory.limit_bytes),
        )  # fmt: skip
        self._source.start()
        threading.Thread(target=self._heartbeat.run, name="heartbeat", daemon=True).start()
        threading.Thread(target=watchdog.run, args=(self._lifecycle.left.wait,), name="watch", daemon=True).start()
        log.info(
            "worker.ready name=%s engine=%s device=%s jobs=%d rows=%d warm_s=%.3g memory_limit_mb=%d queues=%s",
            self.name, self._engine.name, self._engine.device, self._capacity.jobs, self._engine.rows,
            warmed.elapsed_s, memory.limit_bytes >> 20, ",".join(self._source.queues),
        )  # fmt: skip

    def _shut_down(self) -> None:
        """Wait for the running jobs, or hand them back after the grace period or a second signal; end all threads."""
        lifecycle = self._lifecycle
        log.info("worker.stopping name=%s running=%d", self.name, len(self._runner.running()))
        self._source.turned = math.inf  # the main loop has ended; from now on only a job or the engine can hang
        self._segment_workers.close()
        while self._is_running() or self._segment_workers.busy:
            at_once = lifecycle.engine_lost or lifecycle.forced
            if (at_once or time.monotonic() >= lifecycle.hand_back_at) and (self._hand_back() or at_once):
                break
            if not self._segment_workers.busy:
                self._runner.hand_chapters_back()
            lifecycle.left.wait(POLL_JOBS_S)
        lifecycle.left.set()
        self._segment_workers.stop()
        self._store_handle.stop()
        self._heartbeat.stop()
        self._commands.stop()
        self._scheduler.stop()
        self._sign_off()
        if self._health:
            self._health.remove()
        self._engine_thread.join(0 if lifecycle.engine_lost else ENGINE_STOP_S)
        log.info("worker.gone name=%s", self.name)
        if lifecycle.engine_lost:
            os._exit(EXIT_ENGINE_LOST)  # the engine's thread may hang in a broken driver
        if self._engine_thread.is_alive():
            os._exit(lifecycle.exit_code)  # a long step must not keep the process

    def _hand_back(self) -> bool:
        """Hand all jobs back, and requeue those whose threads do not react; their later writes are refused.

        Return False if Redis did not answer. If the worker does not try again, the leases of these jobs expire.
        """
        engine_lost, deadline = self._lifecycle.engine_lost, time.monotonic() + HAND_BACK_S
        self._runner.ask_back()
        if not engine_lost:  # otherwise the leases of segments expire, which counts as a death
            self._segment_workers.give_back(deadline)
        stuck = self._runner.wait_until_back(deadline)
        records = RqRecords(lambda **_: self._connect(retries=0), self.name, self._standing)
        try:
            for run in stuck:
                said = records.requeue(run, Why.BROKEN if engine_lost else Why.RETURNED)
                log.info("job.handed_back job=%s said=%s", run.job, said)
        except redis.exceptions.RedisError as error:
            self._redis_away(error)
            return False
        return True

    def _sign_off(self) -> None:
        """Remove the worker's names from Redis; if Redis is not available, they expire."""
        try:
            client = self._connect(retries=0)  # not closed: the threads that wake the main thread may still wait on it
            self._registration.sign_off(client)
            if not self._lifecycle.engine_lost:
                self._probation.leave(client)
        except redis.exceptions.RedisError as error:
            self._redis_away(error)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle the first signal: take no more jobs. It sets plain values only, see `Lifecycle`."""
        del signum, frame
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request_force_stop)
        self._lifecycle.hand_back_at = time.monotonic() + self._grace_s
        self._lifecycle.stopping = True

    def _request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle the second signal: hand back the running jobs."""
        del signum, frame
        self._lifecycle.forced = True

    def _is_running(self) -> bool:
        """Return whether any job runs."""
        return bool(self._runner.running())

    # -- health ------------------------------------------------------------------------------------------------------

    def _find_stall(self) -> str | None:
        """Describe the first thread that hangs."""
        return find_stall(
            time.monotonic(),
            step_began=self._scheduler.step_began,
            turned=self._source.turned,
            tokens=[one.token for one in self._runner.running()],
            redis_back=self._heartbeat.redis_back,
        )

    def _report_health(self) -> None:
        """Tell supervisors that the worker is healthy."""
        if self._health:
            jobs = f"{len(self._runner.running())} of {self._capacity.jobs} jobs"
            said = ", ".join(filter(None, (jobs, self._probation.said)))
            spoilt = "".join(f"; {sentence}" for sentence in self._spoilt_keys.all)
            answered = min(self._heartbeat.last_beat, self._source.failing_since or math.inf)
            self._health.write(said + spoilt, answered)

    def _end_of_stall(self, stall: str) -> None:
        """End the process because a thread hangs: a supervisor starts it again, and its jobs are recovered."""
        if not self._lifecycle.engine_lost:
            log.error("worker.hangs name=%s why=%s", self.name, stall)
            self._scheduler.give_up(stall)
            self._lifecycle.lose_engine()

    def _end_of_growth(self, size_bytes: int, limit_bytes: int) -> None:
        """End the process after its jobs, because it has grown too large."""
        if not self._lifecycle.restart:
            log.warning(
                "worker.grown name=%s memory_mb=%d limit_mb=%d: it ends after its running jobs, to be started again",
                self.name, size_bytes >> 20, limit_bytes >> 20,
            )  # fmt: skip
            self._lifecycle.request_restart()

    # -- reports -----------------------------------------------------------------------------------------------------

    def _redis_away(self, error: Exception, job: str = "-") -> None:
        """Log and count a command that did not reach Redis or was refused; the caller waits or gives up."""
        log.warning("redis.away job=%s error=%s", job, error)
        self.metrics.redis_away()

    def _renew_card(self) -> None:
        """Renew the worker's card and RQ's record of it."""
        gauges = self.gauges()
        card = card_fields(
            self._engine, self.metrics, gauges, fallback_from=self._fallback_from, store=self._store_handle.id,
            queues=() if self._lifecycle.stopping or self._probation.wait_s else self._source.queues,
            warmup_rate=self._warmup_rate, completed=self._standing.completed,
        )  # fmt: skip
        idle = WorkerStatus.SUSPENDED if self._source.suspended else WorkerStatus.IDLE
        state = WorkerStatus.BUSY if gauges.running else idle
        self._spoilt_keys.report("card", self._registration.renew(card, state, self._outcomes.statistics()))
        self._standing.neighbours = tuple(
            neighbour for name, neighbour in self._recovery.neighbours.items() if name != self.name
        )
        self.metrics.redis_here()
