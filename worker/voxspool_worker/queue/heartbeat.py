"""Write to Redis at regular intervals, beside the jobs: the heartbeat of a worker.

    every 3 s    requeue jobs whose end could not be recorded, renew the lease of each run, renew the worker's card
    every 2 s    put back the jobs of workers that died (recovery), unless Redis's clock jumped (redis_clock)
    every 0.25 s put back the jobs of workers of this machine whose processes are gone
    every 60 s   remove expired records from RQ's registries, enqueue dependent jobs that a dead worker left

It has a thread and connections of its own. No error of Redis ends it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

import redis.exceptions

from voxspool_worker.jobs.cancellation import Reason
from voxspool_worker.queue.redis_clock import RedisClock
from voxspool_worker.queue.rq_queues import skipping_wrong_type
from voxspool_worker.queue.rq_records import LOST, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.queue.recovery import Recovery
    from voxspool_worker.queue.rq_queues import RqQueues
    from voxspool_worker.queue.rq_records import RqRecords

log = logging.getLogger(__name__)

BEAT_S: Final = 3.0
"""Interval between two renewals of the leases, in seconds: a third of LEASE_S."""
RESCUE_S: Final = 2.0
"""Interval between two searches for jobs of dead workers, in seconds."""
GONE_S: Final = 0.25
"""Interval between two looks whether workers' processes on this machine are gone, in seconds. Redis is not asked."""
CLEANUP_S: Final = 60.0
"""Interval between two removals of expired records from RQ's registries, in seconds."""
LATE_S: Final = 1.5 * BEAT_S
"""Time between two beats, in seconds, from which it is assumed that Redis or this process was blocked."""
PATIENCE_S: Final = 2 * BEAT_S
"""Time after such a gap in which a worker recovers no jobs, in seconds. The next beat of the others is due within one
interval, and redis-py waits up to 2 s before it tries again."""
FIRST_LOOK_S: Final = LATE_S
"""How long a new worker rescues no jobs, in seconds: if Redis's clock has just jumped, the others renew their leases
within that time."""
LOST_CLAIM_BEATS: Final = 3
"""Number of beats that search for a claim whose reply was lost: Redis may execute it late."""


class Heartbeat:
    """The heartbeat of one worker.

    `queues` are the queues of the worker, `running` returns its runs with their cancel tokens, `renew_card` renews its
    registration, and `redis_away` receives the errors of Redis.
    """

    def __init__(
        self,
        records: RqRecords,
        rq_queues: RqQueues,
        recovery: Recovery,
        queues: Sequence[str],
        running: Callable[[], Iterable[tuple[JobExecution, CancelToken]]],
        *,
        renew_card: Callable[[], None],
        redis_away: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._rq_queues = rq_queues
        self._recovery = recovery
        self._queues = queues
        self._running = running
        self._renew_card = renew_card
        self._redis_away = redis_away
        self._clock = clock
        self._last_beat = clock()
        self._patient_until = 0.0
        self._redis_clock = RedisClock()
        self._judges_from = 0.0
        """When this worker may judge leases again after a jump of Redis's clock, by the monotonic clock."""
        self._released: list[JobExecution] = []
        self._lost_claims: dict[str, int] = {}
        """Name of a claim whose reply was lost -> number of beats that still look for it."""
        self._stopped = threading.Event()

    @property
    def last_beat(self) -> float:
        """When Redis last accepted a whole beat, by the monotonic clock."""
        return self._last_beat

    @property
    def redis_back(self) -> float:
        """The end of Redis's last outage, plus PATIENCE_S; the present time if Redis does not answer now."""
        now_s = self._clock()
        return now_s if now_s - self._last_beat > LATE_S else self._patient_until

    @property
    def redis_is_new(self) -> bool:
        """True if Redis is unavailable, or was shortly before: leases of live workers may have expired meanwhile."""
        return self._clock() < self._patient_until or self._clock() - self._last_beat > LATE_S

    @property
    def expired_by(self) -> float:
        """Redis's time in seconds by which a lease must have ended to count as expired; 0: none counts now.

        This is the present time by Redis's clock, unless that has jumped since the last comparison. Shortly after a
        jump, a suspension of this machine or an outage of Redis, leases of live workers may seem to have expired.
        """
        now_s = self._clock()
        return 0.0 if self.redis_is_new or now_s < self._judges_from else self._redis_clock.at(now_s)

    def release(self, run: JobExecution) -> None:
        """Requeue the job of a run at the next beat: its thread gave up because of Redis. Any thread may call it."""
        self._released.append(run)

    def lose_claim(self, name: str) -> None:
        """Requeue the job of a claim whose reply was lost at one of the next beats. Any thread may call it."""
        self._lost_claims[name] = LOST_CLAIM_BEATS

    def run(self) -> None:
        """Call `beat`, `rescue` and the cleanup at their intervals until `stop` is called: the body of the thread."""
        intervals = {
            self.beat: BEAT_S, self.rescue: RESCUE_S, self._recovery.rescue_from_gone: GONE_S,
            self._clean_up: CLEANUP_S,
        }  # fmt: skip
        due = dict.fromkeys(intervals, 0.0)
        self._last_beat = self._clock()
        while not self._stopped.wait(max(0.0, min(due.values()) - self._clock())):
            for act, at in due.items():
                if self._clock() >= at:
                    due[act] = self._clock() + intervals[act]
                    self._try(act)

    def stop(self) -> None:
        """Let `run` return. Any thread may call it."""
        self._stopped.set()

    def beat(self) -> None:
        """Renew the lease of every run and the worker's card; end the runs that lost their lease or were cancelled."""
        self._requeue_released()
        self._requeue_lost_claims()
        for run, token in self._running():
            reply = "ok"
            with skipping_wrong_type():  # its stream's keys were replaced: its next entry fails, the other runs go on
                reply = self._records.renew_lease(run)
            if reply == LOST:
                token.end(Reason.LEASE_LOST)
            elif reply != "ok":
                token.end(Reason.CANCELLED, by=reply.removeprefix("cancelled by "))
        self._renew_card()
        now_s = self._clock()
        if now_s - self._last_beat > LATE_S:
            self._patient_until = now_s + PATIENCE_S
        self._last_beat = now_s
        self._compare_clocks()

    def rescue(self) -> None:
        """Put back the jobs of dead workers, except shortly after an outage of Redis or a jump of its clock.

        The leases of all workers expire then, and the live workers renew theirs as soon as they can. This one does so
        at once.
        """
        jumped = self._compare_clocks()
        self._recovery.find_neighbours()
        self._recovery.rescue_from_gone()
        if jumped:
            self.beat()
        elif expired_by := self.expired_by:
            self._recovery.rescue(expired_by)

    def _compare_clocks(self) -> bool:
        """Compare Redis's clock with the monotonic one. After a jump, return True, and judge no lease for a while."""
        first, asked_s = self._redis_clock.at(0.0) == 0.0, self._clock()
        redis_s = self._rq_queues.time_s()
        now_s = self._clock()
        if not self._redis_clock.compare(redis_s, asked_s, now_s):
            return False
        self._judges_from = now_s + (FIRST_LOOK_S if first else PATIENCE_S)
        if not first:
            log.warning("redis.clock_jumped: no job is rescued for %.0f s", PATIENCE_S)
        return True

    def _clean_up(self) -> None:
        """Remove expired records, so that RQ's registries stay small, and enqueue the jobs that dead workers left."""
        self._rq_queues.remove_expired(self._queues)
        self._rq_queues.enqueue_ready(self._queues)
        self._compare_clocks()
        if self.expired_by:  # cards expire as leases do
            self._rq_queues.remove_dead_workers(self._queues)

    def _requeue_released(self) -> None:
        """Requeue the jobs of released runs. A run stays in the list until Redis has answered."""
        while self._released:
            reply = self._records.requeue(self._released[0], Why.RETURNED)
            log.info("job.handed_back job=%s said=%s", self._released.pop(0).job, reply)

    def _requeue_lost_claims(self) -> None:
        """Requeue the jobs of claims whose replies were lost."""
        if not (names := list(self._lost_claims)):
            return
        for run in self._records.lost_claims(names, self._queues):
            if self._records.requeue(run, Why.RETURNED) == "requeued":
                log.info("job.handed_back job=%s said=unheard", run.job)
        for name in names:
            self._lost_claims[name] -= 1
            if not self._lost_claims[name]:
                del self._lost_claims[name]

    def _try(self, act: Callable[[], None]) -> None:
        """Call `act` and log its errors: if this thread ended, every lease would expire."""
        try:
            act()
        except redis.exceptions.RedisError as error:
            self._redis_away(error)
        except Exception:
            log.exception("heartbeat.error")
