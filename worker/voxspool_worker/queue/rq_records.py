"""RQ's records of a run: claim, renew, finish, put back. Each is one script that checks the lease while it writes.

The records have the form that RQ gives to running and finished jobs, so RQ's own tools and dashboards show ours; tests
compare them with RQ's. This module uses no threads and does not read what a job says.
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
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY, clean_worker_registry

from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, MAX_KEEP_S
from voxspool.protocol.numbers import count_or_zero
from voxspool_worker import lua
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from redis import Redis

log = logging.getLogger(__name__)

LOST: Final = "lost"
"""Somebody brought the job back: the run has nothing more to say."""
DEPENDENTS: Final = "dependents"
"""Other jobs depend on this one, and must be enqueued first."""
DEATH_S: Final = 60
"""How long RQ keeps its record of a worker that has left, in seconds: as long as RQ's own workers do."""
_CORRUPT: Final = re.compile(r"WRONGTYPE|not an integer|would overflow|attempt to |stream ID|ID specified in XADD")


def is_corrupt(error: BaseException) -> bool:
    """Return whether an error of Redis shows that somebody else wrote to a job's keys: another run would fail too."""
    return isinstance(error, ResponseError) and _CORRUPT.search(str(error)) is not None


class Why(enum.Enum):
    """Why a started job goes back to its queue."""

    EXPIRED = "expired"
    """Its lease ran out: its worker died, or froze. Counted as a death."""
    BROKEN = "broken"
    """Its worker ends, because its engine did. Counted as a death."""
    RETURNED = "returned"
    """Nobody died."""


class SuspendedError(Exception):
    """Somebody suspended RQ's workers: there are jobs, and none may be taken."""


class PausedError(Exception):
    """There are jobs, and they lie in queues that somebody paused."""

    def __init__(self, queues: frozenset[str]) -> None:
        super().__init__(",".join(sorted(queues)))
        self.queues = queues


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that was taken: its run, and its hash as it was."""

    run: JobExecution
    fields: dict[bytes, bytes]


class RqRecords:
    """The records of one worker's runs."""

    def __init__(self, connect: Callable[..., Redis], worker: str) -> None:
        self._worker = worker
        self._redis = connect()
        self._dequeue = lua.load(connect(retries=0), "dequeue")  # sent twice, it would take two jobs
        self._beat = lua.load(self._redis, "beat")
        self._finish = lua.load(self._redis, "finish")
        self._requeue = lua.load(self._redis, "requeue")
        self._forget = lua.load(self._redis, "forget")
        self._move = lua.load(self._redis, "move")
        self._card = lua.load(self._redis, "card")

    def claim(self, queues: Sequence[str], run: str) -> Claim | None:
        """Take the first job of the first queue that has one, for a run of this name; None where there is none.

        Raises SuspendedError, and PausedError where there are some in paused queues alone.
        """
        reply: Any = self._dequeue(
            keys=[WORKERS_SUSPENDED, keys.PAUSED, *map(_queue_key, queues)],
            args=[run, self._worker, LEASE_S, utcformat(now()), *queues],
        )
        if reply == b"suspended":
            raise SuspendedError
        if not reply:
            return None
        if reply[0] == b"paused":
            raise PausedError(frozenset(queues[which] for which in reply[1:]))
        _, which, job, flat = reply
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        # Anybody may push an id: whatever bytes it has, they go back as they came.
        name = job.decode(errors="surrogateescape")
        return Claim(JobExecution(queues[which], name, run, count_or_zero(fields.get(b"deaths"))), fields)

    def beat(self, run: JobExecution) -> str:
        """Renew a lease; give `ok`, LOST, or `cancelled by <who>`."""
        said: bytes = self._beat(
            keys=[
                run.lease_key, *run.record_keys, keys.control(run.job), _job_key(run.job), keys.audio(run.job),
            ],
            args=[run.composite, run.id, LEASE_S, MAX_KEEP_S],
        )  # fmt: skip
        return said.decode(errors="replace")

    def say_alive(self, card: Mapping[str, Any], record: Mapping[str, Any], queues: Sequence[str]) -> None:
        """Renew the worker's card, RQ's record of it, and its names in RQ's lists of workers, of all and by queue."""
        offered, recorded = _flat(card), _flat(record)
        rq_key = BaseWorker.redis_worker_namespace_prefix + self._worker
        self._card(
            keys=[
                keys.worker(self._worker), keys.WORKERS, rq_key, BaseWorker.redis_workers_keys, _runs_key(self._worker),
                *_workers_keys(queues),
            ],
            args=[
                self._worker, keys.WORKER_TTL_S, keys.WORKER_TTL_S + LEASE_S, len(offered), *offered, *recorded,
            ],
        )  # fmt: skip

    def sign_off(self, redis: Redis, queues: Sequence[str]) -> None:
        """Remove the worker's card and its names from all lists, on this connection. RQ's record stays for a minute."""
        rq_key = BaseWorker.redis_worker_namespace_prefix + self._worker
        with redis.pipeline() as pipeline:
            pipeline.srem(keys.WORKERS, self._worker)
            pipeline.delete(keys.worker(self._worker), _runs_key(self._worker))
            for listed in (BaseWorker.redis_workers_keys, *_workers_keys(queues)):
                pipeline.srem(listed, rq_key)
            pipeline.hset(rq_key, "death", utcformat(now()))
            pipeline.expire(rq_key, DEATH_S)
            pipeline.execute()

    def empty_job(self, job: str) -> Job:
        """Return a job of RQ with this id that nobody has read from Redis."""
        return Job(job, connection=self._redis, serializer=JSONSerializer)

    def finish(self, run: JobExecution, job: Job, status: JobStatus, outcome: object) -> str:
        """Record the end of a run; `outcome` is the return value, or the sentence of a failure.

        Jobs that depend on this one are enqueued before its end is recorded, so that a crash in between loses none, and
        again afterwards, because others may have been added meanwhile. Return `done`, or LOST: nothing was recorded.
        """
        said = self._finish_run(run, job, status, outcome, dependents="wait")
        if said != DEPENDENTS:
            return said
        self._enqueue_dependents(run, job, status)
        said = self._finish_run(run, job, status, outcome, dependents="enqueued")
        self._enqueue_dependents(run, job, status)
        return said

    def _enqueue_dependents(self, run: JobExecution, job: Job, status: JobStatus) -> None:
        """Enqueue the jobs that depend on this one, as RQ does for this status."""
        job._status = status  # noqa: SLF001 - as RQ does: the status is not in Redis yet
        try:
            queue = Queue(run.queue, connection=self._redis, serializer=JSONSerializer)
            queue.enqueue_dependents(job, refresh_job_status=False)
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
        said: bytes = self._finish(
            keys=[
                run.lease_key, _job_key(run.job), *run.record_keys, _runs_key(self._worker),
                registry.key_template.format(run.queue), Result.get_key(run.job), f"{_job_key(run.job)}:dependents",
            ],
            args=[
                run.composite, run.job, run.id, status.value, utcformat(ended_at), keep_s, dependents,
                *_flat(result.serialize()),
            ],
        )  # fmt: skip
        return said.decode()

    def requeue(self, run: JobExecution, why: Why, *, to: str | None = None, last: bool = False) -> str:
        """Put a started job back at the front of its queue, or of another that it goes `to`, without a retry.

        `last`: at the end, for others to take, so that it does not stand before what this worker can do.

        Gives `requeued`, `alive` (EXPIRED, and its lease has not run out), `gone` (somebody else did it) or `over`.
        """
        said: bytes = self._requeue(
            keys=[
                run.lease_key, _queue_key(to or run.queue), _job_key(run.job), *run.record_keys,
                keys.control(run.job), Queue.redis_queues_keys,
            ],
            args=[run.composite, run.job, run.id, to or run.queue, why.value, int(last)],
        )  # fmt: skip
        return said.decode()

    def forget(self, run: JobExecution) -> str:
        """Drop the run of a second delivery, where the run that holds the job is under a lease; the job is its own.

        Gives `forgotten`, or `kept`: then this run's lease, when it runs out, brings the job back.
        """
        said: bytes = self._forget(
            keys=[run.lease_key, *run.record_keys, _runs_key(self._worker), keys.control(run.job)],
            args=[run.composite, run.job, run.id],
        )
        return said.decode()

    def unheard(self, runs: Collection[str], queues: Sequence[str]) -> list[JobExecution]:
        """Find the runs of this worker that it does not know of: claims by these names, whose replies were lost."""
        claimed: set[Any] = self._redis.smembers(_runs_key(self._worker))
        names = [entry.decode(errors="surrogateescape").rpartition(":") for entry in claimed]
        return [JobExecution(queue, job, run) for job, _, run in names if run in runs for queue in queues]

    def waiting(self, queue: str, first: int, most: int) -> list[tuple[str, object]]:
        """Return the jobs that wait in a queue from place `first` on: each id with the job's one argument, if any."""
        found: Any = self._redis.lrange(_queue_key(queue), first, first + most - 1)
        if not found:
            return []
        ids = [one.decode(errors="surrogateescape") for one in found]
        with self._redis.pipeline(transaction=False) as pipeline:
            for job in ids:
                pipeline.hget(_job_key(job), "data")
            return [(job, self._argument(job, data)) for job, data in zip(ids, pipeline.execute(), strict=True)]

    def argument(self, job: str) -> object:
        """Return a job's one argument; None where it has none, or there is no such job."""
        data: Any = self._redis.hget(_job_key(job), "data")
        return self._argument(job, data)

    def _argument(self, name: str, data: bytes | None) -> object:
        """Read a job's argument from its data; None where they are not a job's."""
        try:
            job = self.empty_job(name)
            job.restore({b"data": data})
            return job.args[0]
        except Exception:  # noqa: BLE001 - RQ raises what its parsers raise, and anybody may write a job
            return None

    def length(self, queue: str) -> int:
        """Count the jobs that wait in a queue."""
        count: Any = self._redis.llen(_queue_key(queue))
        return int(count)

    def move(self, job: str, queue: str, to: str) -> str:
        """Move a job that waits and has not begun to the end of another queue.

        Gives `moved`, `begun` or `gone` (somebody else did it, or took it).
        """
        said: bytes = self._move(
            keys=[_queue_key(queue), _queue_key(to), _job_key(job), keys.control(job), Queue.redis_queues_keys],
            args=[job, to],
        )
        return said.decode()

    def trim(self, queues: Sequence[str]) -> None:
        """Take out of RQ's registries, and of the lists of workers, what is no longer there."""
        now_s: int = self._redis.time()[0]  # workers' clocks do not matter
        for queue in queues:
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                self._redis.zremrangebyscore(registry.key_template.format(queue), 1, now_s)  # below 1: for ever
            cancelled = CanceledJobRegistry.key_template.format(queue)  # RQ notes when, not until when
            self._redis.zremrangebyscore(cancelled, 1, now_s - MAX_KEEP_S)
            clean_worker_registry(Queue(queue, connection=self._redis))
        names: set[Any] = self._redis.smembers(keys.WORKERS)
        for worker in (name.decode(errors="surrogateescape") for name in names):
            if not self._redis.exists(keys.worker(worker)):
                self._redis.srem(keys.WORKERS, worker)
                self._redis.delete(_runs_key(worker))  # one that died before its next beat left it without a lifetime

    def expired(self, queue: str) -> list[JobExecution]:
        """Return the runs of a queue whose lease has run out, anybody's."""
        now_s = self._redis.time()[0]
        found: list[Any] = self._redis.zrangebyscore(JobExecution(queue, "", "").lease_key, "-inf", now_s)
        names = [entry.decode(errors="surrogateescape").rpartition(":") for entry in found]
        return [JobExecution(queue, job, run) for job, _, run in names]


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    """Return a mapping as Redis takes it: field, value, field, value."""
    return [item for pair in fields.items() for item in pair]


def _queue_key(queue: str) -> str:
    """List: the ids of the jobs that wait."""
    return Queue.redis_queue_namespace_prefix + queue


def _job_key(job: str) -> str:
    """Hash: RQ's record of a job."""
    return Job.redis_job_namespace_prefix + job


def _workers_keys(queues: Sequence[str]) -> list[str]:
    """Sets: RQ's names of the workers that serve each of these queues."""
    return [WORKERS_BY_QUEUE_KEY % queue for queue in queues]


def _runs_key(worker: str) -> str:
    """Set: a worker's runs."""
    return f"rq:worker:{worker}:executions"
