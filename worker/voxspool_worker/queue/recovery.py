"""Rescue the jobs that a dead worker left behind. Every live worker does it; no process of its own is needed.

A job whose lease ran out goes back to the front of its queue, without using up a retry. A job that names no engine,
and waits in the queue of an engine that no live worker has, goes to the queue `auto`, where others take it. Each
decision is one script, so any number of rescuers at once do it once. A job is popped and claimed in one step
(lua/dequeue.lua), so no job can be lost in between.
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
from voxspool_worker.queue.rq_records import Why

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool.workers import WorkerCard
    from voxspool_worker.queue.rq_records import RqRecords

log = logging.getLogger(__name__)

PATIENCE_S: Final = {"interactive": 0.0, "batch": 60.0}
"""How long a queue may be without a worker before its jobs are let go, in seconds. A listener waits for an interactive
one; a batch of books should not change its voice because a worker restarts, which takes seconds."""
PROMPT_S: Final = 1.0
"""How long a look may take, in seconds. After that Redis was away, and what it says in this look is not acted upon."""
AT_ONCE: Final = 100
"""How many jobs are looked at in one look, and how many may wait in `auto` before it gets no more: what the others do
not get to meanwhile is left for its own engine, should that come back."""


class Recovery:
    """What one worker does for the others' jobs. Knows how long each queue has been without a worker."""

    def __init__(
        self, records: RqRecords, redis: Redis, on_rescue: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Prepare. `on_rescue` is told of each job that was brought back."""
        self._records = records
        self._on_rescue = on_rescue
        self._redis = redis
        self._clock = clock
        self._left_since: dict[str, float] = {}
        self._first: dict[str, int] = {}
        """Queue -> the place where the next look begins: jobs that stay must not hide those behind them."""

    def look(self) -> None:
        """Bring back the jobs whose lease ran out, in every queue of voxspool; let go those that nobody will take."""
        began = self._clock()
        engines = self._engines()
        for queue in all_queue_names(engines):
            self._try(lambda queue: self._rescue(queue, began), queue)
        live = workers.live(self._redis)
        if self._late(began):
            return
        paused: set[Any] = self._redis.smembers(keys.PAUSED)
        for queue in self._left(engines, live):
            if queue.encode() in paused:
                continue  # somebody wants its jobs to wait
            self._try(lambda queue: self._let_go(queue, live), queue)

    def _engines(self) -> list[str]:
        """Return the engines whose queues are looked at; voxspool's own where the set of queues is corrupt."""
        try:
            return workers.engines(self._redis)
        except ResponseError as error:
            log.error("rescue.refused key=%s error=%s", workers.RQ_QUEUES, error)  # noqa: TRY400 - Redis's word says it all
            return list(ENGINES)

    @staticmethod
    def _try(act: Callable[[str], None], queue: str) -> None:
        """Call `act` and log what it raises: a corrupt key must not stop the rescue in other queues."""
        try:
            act(queue)
        except ResponseError as error:
            log.error("rescue.refused queue=%s error=%s", queue, error)  # noqa: TRY400 - Redis's word says it all

    def _late(self, began: float) -> bool:
        """Whether Redis was away in this look: those that live have yet to renew their leases, and their cards."""
        return self._clock() - began > PROMPT_S

    def _rescue(self, queue: str, began: float) -> None:
        """Bring back the jobs of a queue whose lease ran out."""
        expired = self._records.expired(queue)
        if self._late(began):
            return
        for run in expired:
            if self._records.requeue(run, Why.EXPIRED) == "requeued":
                log.warning("job.rescued job=%s queue=%s", run.job, queue)
                self._on_rescue()

    def _left(self, engines: list[str], live: list[WorkerCard]) -> list[str]:
        """Name the engines' queues that no live worker has served for longer than their jobs should wait."""
        now, served = self._clock(), {queue for card in live for queue in card.queues}
        queues = [queue_name(engine, priority) for engine in engines for priority in PRIORITIES]
        self._left_since = {queue: self._left_since.get(queue, now) for queue in queues if queue not in served}
        return [queue for queue, since in self._left_since.items() if now - since >= PATIENCE_S[priority_of(queue)]]

    def _let_go(self, queue: str, live: list[WorkerCard]) -> None:
        """Move jobs that name no engine from a queue without a worker to `auto`, where a live worker can speak them."""
        to = queue_name(AUTO, priority_of(queue))
        first = self._first.get(queue, 0)
        waiting = self._records.waiting(queue, first, AT_ONCE)
        if not waiting or self._records.length(to) >= AT_ONCE:
            self._first[queue] = 0
            return
        stay = 0
        for job, argument in waiting:
            said = self._records.move(job, queue, to) if may_go(job, argument, live) else "its engine's"
            stay += said in ("begun", "its engine's")
            if said == "moved":
                log.warning("job.let_go job=%s queue=%s to=%s", job, queue, to)
        self._first[queue] = first + stay if len(waiting) == AT_ONCE else 0


def may_go(job: str, argument: object, live: list[WorkerCard]) -> bool:
    """Whether a live worker can speak a job that was left: never one that names the engine that is gone."""
    try:
        spec = JobSpec.decode(argument)
    except InvalidJobError:
        return False
    return spec.id == job and any(card.could_speak(spec) for card in live)
