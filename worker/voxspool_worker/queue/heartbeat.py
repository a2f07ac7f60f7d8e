"""What a live worker writes to Redis beside its jobs: heartbeats, rescues, and the removal of expired records.

    every 3 s    put back jobs whose end could not be recorded, renew the lease of each run, renew the worker's card
    every 2 s    rescue the jobs of workers that died
    every 60 s   remove expired records from RQ's registries

One thread with connections of its own; it survives every failure of Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

import redis.exceptions

from voxspool_worker.jobs.cancellation import Reason
from voxspool_worker.queue.rq_records import LOST, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.queue.recovery import Recovery
    from voxspool_worker.queue.rq_records import RqRecords

log = logging.getLogger(__name__)

BEAT_S: Final = 3.0
"""How often leases are renewed, in seconds: a third of LEASE_S."""
LOOK_S: Final = 2.0
"""How often a worker looks for the jobs of dead ones, in seconds."""
TRIM_S: Final = 60.0
"""How often what has expired is taken out of RQ's registries, in seconds."""
LATE_S: Final = 1.5 * BEAT_S
"""A beat that comes so long after the last one, in seconds, says that Redis was away, or this process stood still."""
PATIENCE_S: Final = 2 * BEAT_S
"""How long a worker rescues nobody after that, in seconds: the others' next beat is due within one, and redis-py waits
up to 2 s before it tries again."""


MISSED_BEATS: Final = 3
"""For how many beats a claim is looked for whose reply was lost."""


class Heartbeat:
    """The heart of a worker. `runs` gives what runs now, each with its token; `queues` are those that it serves."""

    def __init__(
        self,
        records: RqRecords,
        recovery: Recovery,
        queues: Sequence[str],
        runs: Callable[[], Iterable[tuple[JobExecution, CancelToken]]],
        *,
        say_alive: Callable[[], None],
        say_away: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._recovery = recovery
        self._queues = queues
        self._runs = runs
        self._say_alive = say_alive
        self._say_away = say_away
        self._clock = clock
        self._beaten = clock()
        self._patient_until = 0.0
        self._adrift: list[JobExecution] = []
        self._unheard: dict[str, int] = {}
        """Claim whose reply was lost -> for how many beats more it is looked for: Redis may do it late."""
        self._quit = threading.Event()

    @property
    def redis_back(self) -> float:
        """When Redis was back after the last time that it was away, and a little patience; now, where it is away."""
        now_s = self._clock()
        return now_s if now_s - self._beaten > LATE_S else self._patient_until

    @property
    def redis_is_new(self) -> bool:
        """Whether Redis is away, or was a moment ago: leases may have run out of those who could not renew them."""
        return self._clock() < self._patient_until or self._clock() - self._beaten > LATE_S

    def release(self, run: JobExecution) -> None:
        """Take a run whose thread gave up because Redis was away: it goes back to its queue. From any thread."""
        self._adrift.append(run)

    def miss(self, claim: str) -> None:
        """Take the name of a claim whose reply was lost: what it took goes back to its queue. From any thread."""
        self._unheard[claim] = MISSED_BEATS

    def run(self) -> None:
        """Beat, look and trim until stopped: the body of the thread."""
        every = {self.beat: BEAT_S, self.look: LOOK_S, self._trim: TRIM_S}
        due = dict.fromkeys(every, 0.0)
        self._beaten = self._clock()
        while not self._quit.wait(max(0.0, min(due.values()) - self._clock())):
            for act, at in due.items():
                if self._clock() >= at:
                    due[act] = self._clock() + every[act]
                    self._try(act)

    def stop(self) -> None:
        """Let `run` return. From any thread."""
        self._quit.set()

    def beat(self) -> None:
        """Renew the worker's card and the lease of every run; tell the runs that lost theirs or were cancelled."""
        self._put_back()
        for run, token in self._runs():
            said = self._records.beat(run)
            if said == LOST:
                token.end(Reason.LEASE_LOST)
            elif said != "ok":
                token.end(Reason.CANCELLED, by=said.removeprefix("cancelled by "))
        self._say_alive()
        now_s = self._clock()
        if now_s - self._beaten > LATE_S:
            self._patient_until = now_s + PATIENCE_S
        self._beaten = now_s

    def look(self) -> None:
        """Bring back the jobs of dead workers.

        Not at once after a time in which nothing was heard of Redis: the leases of all workers ran out in it, and those
        that live renew them as soon as they can.
        """
        if not self.redis_is_new:
            self._recovery.look()

    def _trim(self) -> None:
        """Keep RQ's registries from growing for ever."""
        self._records.trim(self._queues)

    def _put_back(self) -> None:
        """Put back the jobs of runs that were released, or whose claim got no reply: no worker died."""
        while self._adrift:
            said = self._records.requeue(self._adrift[0], Why.RETURNED)
            log.info("job.handed_back job=%s said=%s", self._adrift.pop(0).job, said)
        if claims := list(self._unheard):
            self._put_back_unheard(claims)

    def _put_back_unheard(self, claims: list[str]) -> None:
        """Put back what claims took whose replies were lost."""
        for run in self._records.unheard(claims, self._queues):
            if self._records.requeue(run, Why.RETURNED) == "requeued":
                log.info("job.handed_back job=%s said=unheard", run.job)
        for claim in claims:
            self._unheard[claim] -= 1
            if not self._unheard[claim]:
                del self._unheard[claim]

    def _try(self, act: Callable[[], None]) -> None:
        """Call `act` and log what it raises: if this thread ended, every lease would run out."""
        try:
            act()
        except redis.exceptions.RedisError as error:
            self._say_away(error)
        except Exception:
            log.exception("heartbeat.error")
