"""Recover the jobs of dead workers. Every live worker does this; no separate process is needed.

A job whose lease has expired returns to the front of its queue, without using up a retry. If its worker was a process
of this machine that is gone, the job returns at once. A job that names no engine and waits in the queue of an engine
without a live worker moves to the queue `auto`, where workers of other engines take it. Each decision is one script, so
several workers together make it only once. A job is popped and claimed in one step (lua/dequeue.lua), so no job can be
lost in between.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from voxspool import workers
from voxspool.errors import InvalidJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import AUTO, ENGINES, PRIORITIES, JobSpec, all_queue_names, priority_of, queue_name
from voxspool_worker.monitoring.process_identity import is_gone
from voxspool_worker.narration.segment_queue import SegmentScripts, expire_segments
from voxspool_worker.queue.expiry import Expiry
from voxspool_worker.queue.open_streams import OpenStreams
from voxspool_worker.queue.rq_queues import skipping_wrong_type
from voxspool_worker.queue.rq_records import ANY_TIME, Why
from voxspool_worker.settings import DEFAULT_UNSERVED_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool.workers import WorkerCard
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.jobs.standing import Neighbour
    from voxspool_worker.queue.rq_queues import RqQueues
    from voxspool_worker.queue.rq_records import RqRecords

log = logging.getLogger(__name__)

PATIENCE_S: Final = {"interactive": 0.0, "batch": 60.0}
"""Time for which a queue may have no worker before its jobs move to `auto`, in seconds. A listener waits for an
interactive job; a book must not change its voice because a worker restarts, which takes seconds."""
MAX_ROUND_S: Final = 1.0
"""Longest duration of a round, in seconds. In a longer one Redis was unavailable, and its answers are not used."""
MAX_JOBS: Final = 100
"""Number of jobs of a queue that one round examines, and length of `auto` at which no more jobs move there. Jobs that
other engines cannot start soon stay in the queue of their own engine, whose worker may return."""
_STAYS: Final = "needs its engine"


class Recovery:
    """Recovers other workers' jobs. It remembers how long each queue has had no worker."""

    def __init__(
        self, records: RqRecords, queues: RqQueues, redis: Redis, on_rescue: Callable[[], None],
        clock: Callable[[], float] = time.monotonic, *, unserved_s: float = DEFAULT_UNSERVED_S,
    ) -> None:  # fmt: skip
        """Store the parts. `on_rescue` is called for each job that was put back.

        After `unserved_s` seconds in which no live worker could speak it, a job is cancelled.
        """
        self._expiry = Expiry(redis, unserved_s, clock)
        self._records = records
        self._queues = queues
        self._redis = redis
        self._open_streams = OpenStreams(redis)
        self._problems: dict[str, str] = {}
        """Queue or key -> the last problem with it."""
        self._on_rescue = on_rescue
        self._clock = clock
        self._segment_scripts = SegmentScripts(redis)
        self.neighbours: dict[str, Neighbour] = {}
        """The registered workers by name, as they were when they were last looked up."""
        self._unserved_since: dict[str, float] = {}
        self._first: dict[str, int] = {}
        """Queue -> position at which the next round begins: jobs that stay must not hide the jobs behind them."""

    def rescue(self, expired_by: float) -> None:
        """Do one round: put back jobs with an expired lease, and move jobs whose engine has no worker.

        A lease has expired if it ended at `expired_by` or before, in seconds by Redis's clock: see
        `Heartbeat.expired_by`.
        """
        began = self._clock()
        engines = self._engines()
        for queue in all_queue_names(engines):
            self._try(lambda queue: self._put_back(queue, began, expired_by), queue)
        self._try(lambda _: self._settle(began, expired_by), keys.OPEN)
        self._try(lambda _: self._enqueue_due(all_queue_names(engines)), "")
        live = workers.live(self._redis)
        if self._is_late(began) or self._queues.time_s() > expired_by + 2 * MAX_ROUND_S:
            return  # the cards of live workers may have expired
        paused: Any = ()
        with skipping_wrong_type():
            paused = self._redis.smembers(keys.PAUSED)
        for queue in self._unserved(engines, live):
            if queue.encode() not in paused:
                self._try(lambda queue: self._move_to_auto(queue, live), queue)
        queues = [queue_name(engine, priority) for engine in engines for priority in PRIORITIES]
        self._try(lambda _: self._expiry.end_jobs(queues, {name for card in live for name in card.queues}, paused), "")

    def _enqueue_due(self, queues: list[str]) -> None:
        """Put scheduled jobs whose time has come into their queues."""
        for job in self._queues.enqueue_due(queues, MAX_JOBS):
            log.info("job.due job=%s", job)

    def find_neighbours(self) -> None:
        """Look up all registered workers, so that `rescue_from_gone` need not ask Redis."""
        self.neighbours = self._queues.neighbours()

    def rescue_from_gone(self) -> None:
        """Put back the jobs and segments of workers whose processes on this machine are gone.

        This needs no lease to expire, so it is quick, and does not depend on a clock.
        """
        for worker in [name for name, one in self.neighbours.items() if is_gone(one.process)]:
            log.warning("worker.died name=%s", worker)
            engines = self._engines()
            for run in self._queues.runs_of(worker, all_queue_names(engines)):
                self._try(lambda _, run=run: self._put_back_run(run, Why.DIED), run.queue)  # type: ignore[misc] # mypy infers no lambda with a default
            for engine in engines:
                with skipping_wrong_type():
                    expire_segments(self._segment_scripts, engine, worker)
            self._queues.remove_worker(worker)
            del self.neighbours[worker]

    def _engines(self) -> list[str]:
        """Return the engines whose queues are examined: voxspool's own if the set of queues is corrupt."""
        try:
            return workers.engines(self._redis)
        except ResponseError as error:
            self._note(f"rescue.refused key={workers.RQ_QUEUES} error={error}", workers.RQ_QUEUES)
            return list(ENGINES)

    def _try(self, act: Callable[[str], None], queue: str) -> None:
        """Call `act` and log a refusal by Redis: a corrupt key must not stop the recovery in other queues."""
        try:
            act(queue)
        except ResponseError as error:
            self._note(f"rescue.refused queue={queue} error={error}", queue)

    def _note(self, problem: str, place: str) -> None:
        """Log a problem with a queue or a key, once until it changes: a round comes every two seconds."""
        if self._problems.get(place) != problem:
            log.error("%s", problem)
        self._problems[place] = problem

    def _is_late(self, began: float) -> bool:
        """Return whether Redis was unavailable in this round: live workers may not have renewed their leases."""
        return self._clock() - began > MAX_ROUND_S

    def _put_back(self, queue: str, began: float, expired_by: float) -> None:
        """Put back the jobs of a queue whose lease has expired."""
        self._queues.shorten_leases(queue, expired_by)
        expired = self._queues.expired(queue, expired_by)
        if self._is_late(began):
            return
        for run in expired:
            self._put_back_run(run, Why.EXPIRED, expired_by)

    def _put_back_run(self, run: JobExecution, why: Why, expired_by: float = ANY_TIME) -> None:
        """Put back the job of a run, if nobody else does."""
        if self._records.requeue(run, why, expired_by=expired_by) == "requeued":
            log.warning("job.rescued job=%s queue=%s", run.job, run.queue)
            self._on_rescue()

    def _settle(self, began: float, expired_by: float) -> None:
        """Close the open streams of jobs that RQ has lost, and put back jobs that lost their lease."""
        for job in self._open_streams.due(expired_by):
            if self._is_late(began):
                return
            self._try(lambda job: self._settle_one(job, expired_by), job)

    def _settle_one(self, job: str, expired_by: float) -> None:
        """Look at one open stream."""
        reply = self._open_streams.settle(job, expired_by)
        if reply in ("cancelled", "failed", "requeued"):
            log.warning("job.lost_by_rq job=%s said=%s", job, reply)

    def _unserved(self, engines: list[str], live: list[WorkerCard]) -> list[str]:
        """Return the queues that no live worker has served for longer than PATIENCE_S."""
        now, served = self._clock(), {queue for card in live for queue in card.queues}
        queues = [queue_name(engine, priority) for engine in engines for priority in PRIORITIES]
        self._unserved_since = {queue: self._unserved_since.get(queue, now) for queue in queues if queue not in served}
        return [queue for queue, since in self._unserved_since.items() if now - since >= PATIENCE_S[priority_of(queue)]]

    def _move_to_auto(self, queue: str, live: list[WorkerCard]) -> None:
        """Move the jobs of a queue that name no engine to `auto`, if a live worker can speak them."""
        to = queue_name(AUTO, priority_of(queue))
        first = self._first.get(queue, 0)
        if self._queues.length(to) >= MAX_JOBS:
            self._first[queue] = 0
            return
        looked = stay = 0
        for job, argument in self._queues.waiting(queue, first, MAX_JOBS):
            looked += 1
            reply = self._queues.move(job, queue, to) if can_move(job, argument, live) else _STAYS
            stay += reply in ("begun", _STAYS)
            if reply == "moved":
                log.warning("job.let_go job=%s queue=%s to=%s", job, queue, to)
        self._first[queue] = first + stay if looked == MAX_JOBS else 0


def can_move(job: str, argument: object, live: list[WorkerCard]) -> bool:
    """Return whether a live worker can speak a waiting job; always False for a job that names its engine."""
    try:
        spec = JobSpec.decode(argument)
    except InvalidJobError:
        return False
    return spec.id == job and any(card.could_speak(spec) for card in live)
