"""Claim jobs for this worker: wait until it may take one, then for a job in one of the queues that are open to it."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import redis.exceptions
from rq import Queue
from rq.utils import now

from voxspool.errors import InvalidJobError
from voxspool.protocol.jobs import priority_of, queue_name, queue_names
from voxspool_worker.queue.capacity import WAIT_S
from voxspool_worker.queue.job_spec import check_deaths, decode_job, restore_job
from voxspool_worker.queue.rq_records import PausedError, SuspendedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis import Redis

    from voxspool_worker.jobs.standing import Standing
    from voxspool_worker.queue.capacity import Capacity
    from voxspool_worker.queue.job_spec import ClaimedJob
    from voxspool_worker.queue.lifecycle import Lifecycle
    from voxspool_worker.queue.outcomes import Outcomes
    from voxspool_worker.queue.rq_records import Claim, RqRecords
    from voxspool_worker.queue.spoilt_keys import SpoiltKeys
    from voxspool_worker.speech.probation import Probation

log = logging.getLogger(__name__)


class JobSource:
    """The queues of one engine, from which the main thread takes jobs."""

    def __init__(
        self,
        engine: str,
        records: RqRecords,
        connect: Callable[..., Redis],
        capacity: Capacity,
        outcomes: Outcomes,
        lifecycle: Lifecycle,
        standing: Standing,
        probation: Probation,
        *,
        lost_claim: Callable[[str], None],
        redis_away: Callable[[Exception], None],
        spoilt: SpoiltKeys,
    ) -> None:
        """Store the parts. `lost_claim` receives the name of a claim without a reply, `redis_away` errors of Redis."""
        self.queues = queue_names(engine)
        self.suspended = False
        """True if RQ's workers were suspended at the last attempt to claim a job."""
        self.turned = time.monotonic()
        """When the main thread last looked for a job, by the monotonic clock."""
        self._batch_queue = queue_name(engine, "batch")
        self._records = records
        self._connect = connect
        self._capacity = capacity
        self._outcomes = outcomes
        self._lifecycle = lifecycle
        self._standing = standing
        self._probation = probation
        self._lost_claim = lost_claim
        self._redis_away = redis_away
        self._spoilt = spoilt
        self.failing_since: float | None = None
        """Since when Redis has refused every claim, or none of the queues can be used, by the monotonic clock."""
        self._paused: frozenset[str] = frozenset()
        self._idle = threading.Event()

    def start(self) -> None:
        """Start one wake-up thread for each queue of interactive jobs.

        Each such thread holds a connection. Batch jobs can wait until the main thread looks again, after WAIT_S.
        """
        self.turned = time.monotonic()
        for queue in self.queues:
            if priority_of(queue) != "batch":
                threading.Thread(target=self._wake_up_for, args=(queue,), name=f"wake-up-{queue}", daemon=True).start()

    def next_job(self, running: Callable[[], bool]) -> ClaimedJob | None:
        """Wait until a job may be taken and there is one, and claim it.

        Return None if the worker stops, or has done all in burst mode. `running` tells whether any job still runs: in
        burst mode it may be handed back.
        """
        while not self._lifecycle.stopping:
            self.turned = time.monotonic()
            self._lifecycle.wake_up.clear()
            if wait_s := self._probation.wait_s:
                self._lifecycle.wake_up.wait(min(wait_s, WAIT_S))
                continue
            if not self._capacity.wait_until_open():
                self.failing_since = None  # nothing is claimed: what Redis would say is not known
                continue
            if claimed := self._claim(alone=not running()):
                return claimed
            if self._lifecycle.burst and not running():
                return None
            self._idle.set()
            self._lifecycle.wake_up.wait(WAIT_S)
            self._idle.clear()
        return None

    def _claim(self, *, alone: bool) -> ClaimedJob | None:
        """Claim the next job that can be read. Return None if there is none, or Redis is not available."""
        name = uuid4().hex
        try:
            self._paused, self.suspended = frozenset(), False
            while (queues := self._open_queues()) and (claim := self._claim_from(queues, name, alone=alone)):
                self._probation.claimed()
                self._note_claim()
                if claimed := self._read(claim):
                    return claimed
                name = uuid4().hex
            self._note_claim()
        except PausedError as error:
            self._note_claim()
            self._paused = error.queues
        except SuspendedError:
            self._note_claim()
            self.suspended = True
        except redis.exceptions.RedisError as error:
            self.failing_since = self.failing_since or time.monotonic()
            self._lost_claim(name)
            self._redis_away(error)
            self._lifecycle.left.wait(WAIT_S)
        return None

    def _note_claim(self) -> None:
        """Note that Redis has answered a claim, and which keys it found to be of another type."""
        spoilt = self._records.spoilt
        self._spoilt.report("claim", spoilt)
        usable = [queue for queue in self.queues if not any(f":{queue} is " in sentence for sentence in spoilt)]
        self.failing_since = None if usable else self.failing_since or time.monotonic()

    def _claim_from(self, queues: Sequence[str], name: str, *, alone: bool) -> Claim | None:
        """Claim a job, and take a doubtful one only if no other waits and no better worker serves its queue.

        Raises what `RqRecords.claim` raises.
        """
        doubtful = not self._standing.passes_over_doubtful_jobs
        try:
            return self._records.claim(queues, name, doubtful=doubtful, alone=alone)
        except PausedError as error:
            own = [queue for queue in error.queues if not self._standing.has_better_neighbour(queue)]
            if doubtful or not own:
                raise
            return self._records.claim(own, name, alone=alone)

    def _read(self, claim: Claim) -> ClaimedJob | None:
        """Read a claimed job. If its hash cannot be read, or it has crashed workers, mark it failed and return None."""
        run = claim.run
        try:
            check_deaths(run, claim.fields)
            job = restore_job(run.job, self._records.empty_job, claim.fields, claim.problem)
        except InvalidJobError as error:
            self._outcomes.unreadable(run, error, self._wait_for_memory)
            return None
        job.origin = run.queue  # the queue in which it was found; RQ names its registries by this
        job.started_at = now()
        return decode_job(job, run)

    def _wait_for_memory(self, wait_s: float) -> None:
        """Wait in the main thread for Redis to have memory; the watchdog must not report this as a hang."""
        self.turned = time.monotonic()
        self._lifecycle.wait_for_memory(wait_s)

    def _open_queues(self) -> list[str]:
        """Return the queues to take from now: those of whose jobs the worker has not enough."""
        return [queue for queue in self.queues if self._is_open(queue)]

    def _is_open(self, queue: str) -> bool:
        """Return whether jobs may be taken from a queue now. Chapters of books are in the engine's own batch queue."""
        if queue == self._batch_queue and not self._capacity.takes_chapters:
            return False
        return self._capacity.takes(priority_of(queue))

    def _wake_up_for(self, name: str) -> None:
        """Wake the main thread when a job is in a queue. A queue that is paused or closed is checked once a second.

        Moving the head of a list to its own position blocks while the list is empty, and changes nothing. So a thread
        per queue waits for all queues at once. The one command of Redis that waits for several lists also pops, and the
        job would be lost if the worker died then.
        """
        client, key = self._connect(retries=0), Queue.redis_queue_namespace_prefix + name
        while not self._lifecycle.left.is_set():
            if not self._idle.wait(WAIT_S):
                continue
            if self.suspended or name in self._paused or not self._is_open(name):
                self._lifecycle.left.wait(WAIT_S)
                continue
            try:
                if client.blmove(key, key, 1, "LEFT", "LEFT"):
                    self._idle.clear()
                    self._lifecycle.wake_up.set()
            except redis.exceptions.RedisError:
                self._lifecycle.left.wait(WAIT_S)
