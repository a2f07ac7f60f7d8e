"""Write RQ's records of the runs of one worker: claim, renew, finish, requeue. Each is a script that checks the lease.

The records have RQ's own format of running and finished jobs, so that RQ's tools and dashboards show them; tests
compare them with RQ's. This module does not decode the specification of a job.
"""

from __future__ import annotations

import enum
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat

from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, MAX_KEEP_S
from voxspool.protocol.numbers import count_or_zero
from voxspool_worker import lua
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.jobs.standing import Standing
from voxspool_worker.queue.rq_keys import flat, job_key, queue_key, runs_key
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from redis import Redis

log = logging.getLogger(__name__)

ANY_TIME: Final = 2**53
"""A time of Redis, in seconds, that never comes: leases are then judged by Redis's clock alone."""
LOST: Final = "lost"
"""The run has lost its lease: the job was put back, and nothing was recorded."""
DEPENDENTS: Final = "dependents"
"""Other jobs depend on this one, and must be enqueued first."""
_CORRUPT: Final = re.compile(r"WRONGTYPE|not an integer|would overflow|attempt to |stream ID|ID specified in XADD")


def is_corrupt(error: BaseException) -> bool:
    """Return whether an error shows that another program wrote to a job's keys: each further run would fail."""
    return isinstance(error, ResponseError) and _CORRUPT.search(str(error)) is not None


class Why(enum.Enum):
    """Why a started job goes back to its queue."""

    EXPIRED = "expired"
    """Its lease expired: its worker died or was frozen. Counted as a death."""
    DIED = "died"
    """The process of its worker is gone, although its lease has not expired. Counted as a death."""
    BROKEN = "broken"
    """Its worker ends because its engine failed. Counted as a death."""
    RETURNED = "returned"
    """No worker died."""


class SuspendedError(Exception):
    """RQ's workers are suspended: no job may be taken."""


class PausedError(Exception):
    """There are jobs, but only in paused queues."""

    def __init__(self, queues: frozenset[str]) -> None:
        super().__init__(",".join(sorted(queues)))
        self.queues = queues


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that was claimed: its run, and the fields of its hash before the claim."""

    run: JobExecution
    fields: dict[bytes, bytes]
    problem: str = ""
    """Why the fields were not sent: the hash is too large."""


class RqRecords:
    """The records of one worker's runs. Any thread may call it."""

    def __init__(self, connect: Callable[..., Redis], worker: str, standing: Standing | None = None) -> None:
        """Connect. `standing` tells what to record of this worker if it dies; by default nothing is known."""
        self._worker = worker
        self._standing = standing or Standing()
        self._redis = connect()
        self.spoilt: frozenset[str] = frozenset()
        """Keys of another type that the last claim found, each as a sentence. Their queues are skipped."""
        self._dequeue = lua.load(connect(retries=0), "dequeue")  # no retries: a command sent twice would take two jobs
        self._beat = lua.load(self._redis, "beat")
        self._finish = lua.load(self._redis, "finish")
        self._requeue = lua.load(self._redis, "requeue")
        self._forget = lua.load(self._redis, "forget")

    def claim(self, queues: Sequence[str], run: str, *, doubtful: bool = True, alone: bool = True) -> Claim | None:
        """Claim the first job of the first queue that has one, for a run of this name. Return None if all are empty.

        Without `doubtful`, jobs that two workers of this host died of are passed over: see dequeue.lua. `alone` tells
        whether this worker runs no other job, which matters if it dies.

        Raises SuspendedError, and PausedError if only paused queues have jobs, or only doubtful jobs were found.
        """
        again = True
        while again:
            word, *rest, spoilt = self._ask_for_a_job(queues, run, doubtful=doubtful, alone=alone)
            self.spoilt = frozenset(one.decode(errors="replace") for one in spoilt)
            again = word == b"again"
        if word == b"suspended":
            raise SuspendedError
        if word == b"none":
            return None
        if word == b"paused":
            raise PausedError(frozenset(queues[index] for index in rest[0]))
        index, job, flat_fields, problem = rest
        fields = dict(zip(flat_fields[::2], flat_fields[1::2], strict=True))
        # Anybody may push an id: it may have any bytes, and the same bytes must be sent back.
        name = job.decode(errors="surrogateescape")
        return Claim(
            JobExecution(
                queues[index], name, run, count_or_zero(fields.get(b"deaths")),
                died_on=len(set(fields.get(b"died_on", b"").split())), blamed=fields.get(b"blamed") == b"1",
                gave_up=fields.get(b"gave_up", b"").decode(errors="replace"),
            ),
            fields,
            problem.decode(),
        )  # fmt: skip

    def _ask_for_a_job(self, queues: Sequence[str], run: str, *, doubtful: bool, alone: bool) -> Any:  # noqa: ANN401 - a script's reply
        """Return the reply of dequeue.lua."""
        return self._dequeue(
            keys=[WORKERS_SUSPENDED, keys.PAUSED, *map(queue_key, queues)],
            args=[
                run, self._worker, LEASE_S, utcformat(now()), *queues, self._standing.host,
                int(self._standing.completed), int(alone), int(not doubtful),
            ],
        )  # fmt: skip

    def renew_lease(self, run: JobExecution) -> str:
        """Renew the lease of a run. Return `ok`, LOST, or `cancelled by <who>`."""
        reply: bytes = self._beat(
            keys=[
                run.lease_key, *run.record_keys, keys.control(run.job), job_key(run.job), keys.audio(run.job),
            ],
            args=[run.composite, run.id, LEASE_S, MAX_KEEP_S],
        )  # fmt: skip
        return reply.decode(errors="replace")

    def empty_job(self, job: str) -> Job:
        """Return a job of RQ with this id, without reading it from Redis."""
        return Job(job, connection=self._redis, serializer=JSONSerializer)

    def finish(self, run: JobExecution, job: Job, status: JobStatus, outcome: object) -> str:
        """Record the end of a run; `outcome` is the return value, or one sentence about the failure.

        Jobs that depend on this one are enqueued before its end is recorded, so that a crash in between loses none, and
        again afterwards, because others may have been added meanwhile. Return `done`, or LOST: nothing was recorded.
        """
        reply = self._finish_run(run, job, status, outcome, dependents="wait")
        if reply != DEPENDENTS:
            return reply
        self._enqueue_dependents(run, job, status)
        reply = self._finish_run(run, job, status, outcome, dependents="enqueued")
        self._enqueue_dependents(run, job, status)
        return reply

    def _enqueue_dependents(self, run: JobExecution, job: Job, status: JobStatus) -> None:
        """Enqueue the jobs that depend on this one, as RQ does for this status."""
        job._status = status  # noqa: SLF001 - as RQ does: the status is not in Redis yet
        try:
            queue = Queue(run.queue, connection=self._redis, serializer=JSONSerializer)
            # Not `queue.enqueue_dependents`: without dependents it does not return its connection to the pool.
            ready: Any = self._redis.transaction(
                lambda pipeline: queue.move_dependents_to_ready(job, pipeline=pipeline, refresh_job_status=False),  # type: ignore[arg-type] # redis-py's annotation forgets the value
                job.dependents_key,
                value_from_callable=True,
            )
            queue.enqueue_ready_jobs_by_queue(ready)
        except Exception as error:
            if isinstance(error, RedisError) and not is_corrupt(error):
                raise
            log.exception("job.dependents_failed job=%s", job.id)

    def _finish_run(self, run: JobExecution, job: Job, status: JobStatus, outcome: object, *, dependents: str) -> str:
        """Send the end of a run to Redis in one step. Return `done`, LOST, or DEPENDENTS: nothing was recorded."""
        finished = status is JobStatus.FINISHED
        ended_at = now()
        keep_s = job.get_result_ttl(DEFAULT_KEEP_S) if finished else job.failure_ttl or DEFAULT_KEEP_S
        keep_s = min(keep_s, MAX_KEEP_S)
        registry = FinishedJobRegistry if finished else FailedJobRegistry
        result = Result(
            job.id,
            Result.Type.SUCCESSFUL if finished else Result.Type.FAILED,
            connection=self._redis,
            return_value=outcome if finished else None,
            exc_string=None if finished else str(outcome),
            serializer=JSONSerializer,
            worker_name=self._worker,
            execution_id=run.id,
            execution_started_at=job.started_at,
            execution_ended_at=ended_at,
        )
        reply: bytes = self._finish(
            keys=[
                run.lease_key, job_key(run.job), *run.record_keys, runs_key(self._worker),
                registry.key_template.format(run.queue), Result.get_key(run.job), f"{job_key(run.job)}:dependents",
                keys.control(run.job),
            ],
            args=[
                run.composite, run.job, run.id, status.value, utcformat(ended_at), keep_s, dependents,
                *flat(result.serialize()),
            ],
        )  # fmt: skip
        return reply.decode()

    def requeue(
        self, run: JobExecution, why: Why, *, to: str | None = None, last: bool = False, expired_by: float = ANY_TIME
    ) -> str:
        """Put a started job back at the front of its queue, or of the queue `to`, without using up a retry.

        With `last`, put it at the end of the queue, so that this worker first takes the jobs that it can run.

        Return `requeued`, `alive` (for EXPIRED: its lease has not expired), `gone` (another worker requeued it) or
        `over` (the job had ended).
        """
        reply: bytes = self._requeue(
            keys=[
                run.lease_key, queue_key(to or run.queue), job_key(run.job), *run.record_keys,
                keys.control(run.job), Queue.redis_queues_keys,
            ],
            args=[
                run.composite, run.job, run.id, to or run.queue, why.value, int(last), int(expired_by),
                self._standing.live_hosts,
            ],
        )  # fmt: skip
        return reply.decode()

    def forget(self, run: JobExecution) -> str:
        """Delete the records of a second delivery, if the run that holds the job has a lease of its own.

        Return `forgotten`, or `kept`: then the lease of this run expires, and the job is put back.
        """
        reply: bytes = self._forget(
            keys=[run.lease_key, *run.record_keys, runs_key(self._worker), keys.control(run.job)],
            args=[run.composite, run.job, run.id],
        )
        return reply.decode()

    def lost_claims(self, names: Collection[str], queues: Sequence[str]) -> list[JobExecution]:
        """Return the runs of this worker with these names: their claims succeeded, but the replies were lost.

        Redis does not record in which queue such a job was, so there is one run for each queue.
        """
        claimed: set[Any] = self._redis.smembers(runs_key(self._worker))
        runs = [entry.decode(errors="surrogateescape").rpartition(":") for entry in claimed]
        return [JobExecution(queue, job, run) for job, _, run in runs if run in names for queue in queues]
