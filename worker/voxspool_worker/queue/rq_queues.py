"""The queues and registries of RQ, for the jobs of all workers: waiting jobs, expired leases, expired records."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError
from rq import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker_registration import clean_worker_registry

from voxspool.connections.connection import is_wrong_type
from voxspool.errors import InvalidJobError
from voxspool.protocol import keys
from voxspool.protocol.call import MAX_CALL_BYTES, read_call
from voxspool.protocol.jobs import MAX_KEEP_S
from voxspool_worker import lua
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.jobs.standing import Neighbour
from voxspool_worker.queue.rq_keys import job_key, queue_key, runs_key, scheduled_key
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import Redis

LEASE_MARGIN_S: Final = 2
"""How much longer a lease may seem to last than LEASE_S, in seconds, before it counts as too long."""


class RqQueues:
    """Reads and cleans the queues of all engines. Any thread may call it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._move = lua.load(redis, "move")
        self._enqueue_due = lua.load(redis, "enqueue_due")

    def length(self, queue: str) -> int:
        """Return the number of jobs that wait in a queue."""
        count: Any = self._redis.llen(queue_key(queue))
        return int(count)

    def waiting(self, queue: str, first: int, limit: int) -> Iterator[tuple[str, object]]:
        """Yield at most `limit` jobs that wait in a queue, from position `first`: pairs of id and `argument`.

        They are read one after another: any program may write a job, and many large ones do not fit into memory.
        """
        found: Any = self._redis.lrange(queue_key(queue), first, first + limit - 1)
        for job in [one.decode(errors="surrogateescape") for one in found]:
            yield job, self.argument(job)

    def argument(self, job: str) -> object:
        """Return the first argument of a job, or None if there is no such job or its data cannot be read."""
        try:
            if self._redis.hstrlen(job_key(job), "data") > MAX_CALL_BYTES:
                return None
            data: Any = self._redis.hget(job_key(job), "data")
            return read_call(data or b"")[1]
        except (InvalidJobError, ValueError, RecursionError, TypeError, LookupError):
            return None
        except ResponseError as error:
            if is_wrong_type(error):
                return None
            raise

    def move(self, job: str, queue: str, to: str) -> str:
        """Move a waiting job that has not begun to the end of another queue.

        Return `moved`, `begun` (it stays), or `gone`: another worker moved or took it.
        """
        reply: bytes = self._move(
            keys=[queue_key(queue), queue_key(to), job_key(job), keys.control(job), Queue.redis_queues_keys],
            args=[job, to],
        )
        return reply.decode()

    def enqueue_due(self, queues: Sequence[str], limit: int) -> list[str]:
        """Put scheduled jobs whose time has come into their queues, at most `limit` of each; return those jobs.

        RQ leaves that to a scheduler, a process of its own. Their times, which producers wrote, are compared with that
        of Redis.
        """
        now_s: int = self._redis.time()[0]
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.zrangebyscore(scheduled_key(queue), "-inf", now_s, 0, limit)
            found = pipeline.execute(raise_on_error=False)
        enqueued: list[str] = []
        for queue, due in zip(queues, found, strict=True):
            for job in [one.decode(errors="surrogateescape") for one in due] if isinstance(due, list) else ():
                record_keys = [scheduled_key(queue), queue_key(queue), job_key(job), Queue.redis_queues_keys]
                if self._enqueue_due(keys=record_keys, args=[job, queue, utcformat(now())]):
                    enqueued.append(job)
        return enqueued

    def time_s(self) -> float:
        """Return the time of Redis in seconds."""
        seconds, micros = self._redis.time()
        return float(seconds + micros / 1e6)

    def expired(self, queue: str, by_s: float) -> list[JobExecution]:
        """Return the runs of all workers on the jobs of a queue whose lease ended at a time of Redis, or before."""
        found: list[Any] = self._redis.zrangebyscore(JobExecution(queue, "", "").lease_key, "-inf", by_s)
        names = [entry.decode(errors="surrogateescape").rpartition(":") for entry in found]
        return [JobExecution(queue, job, run) for job, _, run in names]

    def shorten_leases(self, queue: str, now_s: float) -> None:
        """Shorten leases that end later than any lease can at `now_s`, a time of Redis: its clock was set back.

        A worker that lives has renewed its lease since; the lease of a dead one would last too long.
        """
        key = JobExecution(queue, "", "").lease_key
        too_long: list[Any] = self._redis.zrangebyscore(key, now_s + LEASE_S + LEASE_MARGIN_S, "+inf")
        if too_long:
            self._redis.zadd(key, dict.fromkeys(too_long, int(now_s) + LEASE_S), xx=True, lt=True)

    def enqueue_ready(self, queues: Sequence[str]) -> None:
        """Enqueue the jobs of these queues whose dependencies have ended, if a worker died before it did so."""
        for queue in queues:
            with skipping_wrong_type():
                Queue(queue, connection=self._redis, serializer=JSONSerializer).ready_job_registry.cleanup()

    def remove_expired(self, queues: Sequence[str]) -> None:
        """Remove expired jobs from RQ's registries of these queues."""
        now_s: int = self._redis.time()[0]
        for queue in queues:
            for registry in (FinishedJobRegistry, FailedJobRegistry):
                self._remove_until(registry.key_template.format(queue), now_s)
            cancelled = CanceledJobRegistry.key_template.format(queue)  # holds times of cancellation, not of expiry
            self._remove_until(cancelled, now_s - MAX_KEEP_S)

    def _remove_until(self, key: str, end_s: int) -> None:
        """Remove the jobs of a registry up to a time of Redis. Those with a score below 1 are kept for ever."""
        with skipping_wrong_type():
            self._redis.zremrangebyscore(key, 1, end_s)

    def remove_dead_workers(self, queues: Sequence[str]) -> None:
        """Remove workers whose card has expired from all lists of workers, those of these queues among them.

        Their sets of runs are deleted too: some would never expire.
        """
        for queue in queues:
            with skipping_wrong_type():
                clean_worker_registry(Queue(queue, connection=self._redis))
        for worker in self._workers():
            if not self._redis.exists(keys.worker(worker)):
                self.remove_worker(worker)

    def remove_worker(self, worker: str) -> None:
        """Remove a dead worker, its card and its set of runs."""
        self._redis.srem(keys.WORKERS, worker)
        self._redis.delete(keys.worker(worker), runs_key(worker))

    def neighbours(self) -> dict[str, Neighbour]:
        """Return the registered workers that have a card, by name."""
        names = self._workers()
        with self._redis.pipeline(transaction=False) as pipeline:
            for worker in names:
                pipeline.hmget(keys.worker(worker), "host", "queues", "completed", "process")
            found = pipeline.execute(raise_on_error=False)
        return {
            worker: _neighbour(*fields)
            for worker, fields in zip(names, found, strict=True)
            if isinstance(fields, list) and any(fields)
        }

    def runs_of(self, worker: str, queues: Sequence[str]) -> list[JobExecution]:
        """Return the runs of a worker: one for each of these queues, as Redis does not record in which a job was."""
        members: Any = ()
        with skipping_wrong_type():
            members = self._redis.smembers(runs_key(worker))
        runs = [entry.decode(errors="surrogateescape").rpartition(":") for entry in members]
        return [JobExecution(queue, job, run) for job, _, run in runs for queue in queues]

    def _workers(self) -> list[str]:
        """Return the names of the registered workers."""
        names: Any = ()
        with skipping_wrong_type():
            names = self._redis.smembers(keys.WORKERS)
        return [name.decode(errors="surrogateescape") for name in names]


@contextlib.contextmanager
def skipping_wrong_type() -> Iterator[None]:
    """Leave the block if a key has another type: another program wrote it, and the other keys must be cleaned."""
    try:
        yield
    except ResponseError as error:
        if not is_wrong_type(error):
            raise


def _neighbour(*fields: bytes | None) -> Neighbour:
    """Read the fields of a card, which any program may have written."""
    host, queues, completed, process = ((field or b"").decode(errors="replace") for field in fields)
    return Neighbour("-".join(host.split()), frozenset(filter(None, queues.split(","))), completed == "1", process)
