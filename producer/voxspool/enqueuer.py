"""The way into RQ's queues: a job is enqueued if Redis and its queue have room for it.

It remembers for a second which workers live and how full Redis is, since asking takes longer than enqueueing. What a
job asks for, and which queue it goes into, is decided by its callers: Client and NarrationJobs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoPermissionError, ResponseError
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.job import Retry
from rq.serializers import JSONSerializer

from voxspool import admission, connection, workers
from voxspool.admission import Pressure
from voxspool.errors import BusyError

if TYPE_CHECKING:
    from redis import Redis

    from voxspool.protocol.jobs import JobSpec
    from voxspool.workers import WorkerCard

RQ_RETRIES: Final = 100
"""How often RQ's cleaners, which a dashboard runs, may put back the job of a dead worker before they fail it.

Workers of voxspool put such jobs back themselves, and use none of these."""
RECENT_S: Final = 1.0
"""For how long an answer counts as recent, in seconds. Reading the cards of eight workers takes three times as long as
enqueueing. Cards are up to 3 s old in any case, and a job in the queue of an engine that is gone is passed on."""


class Enqueuer:
    """Puts jobs into the queues of one Redis. Threads may share it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queues: dict[str, Queue] = {}
        self._seen: tuple[float, list[WorkerCard]] = (-RECENT_S, [])
        """When the workers' cards were read last, and the cards. Replaced as a whole, since threads share it."""
        self._pressures: dict[str, tuple[float, Pressure]] = {}
        """Queue -> when Redis was asked how full both are, and the answer."""

    def live_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, as they are now. Raises redis.RedisError."""
        found = workers.live(self._redis)
        self._seen = (time.monotonic(), found)
        return found

    def recent_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards; they were read at most RECENT_S ago. Raises redis.RedisError."""
        read_at, found = self._seen
        return found if time.monotonic() - read_at < RECENT_S else self.live_workers()

    def put(self, task: str, argument: dict[str, Any], spec: JobSpec, queue: str, timeout_s: int = 0) -> bool:
        """Put a job into a queue; return False if there is a job of its id. `timeout_s` is 0 for the spec's own.

        Raises BusyError, redis.RedisError.
        """
        self._admit(spec, queue)
        try:
            self._queue(queue).enqueue_call(
                task,
                args=(argument,),
                job_id=spec.id,
                description=f"speech {spec.id}",  # RQ's own would hold the text
                timeout=timeout_s or spec.timeout_s,
                result_ttl=spec.keep_s,
                failure_ttl=spec.keep_s,
                retry=Retry(max=RQ_RETRIES),
                unique=True,
            )
        except DuplicateJobError:
            return False
        except ResponseError as error:
            if not connection.is_full(error):
                raise
            raise BusyError("Redis is at its memory's limit", admission.UNKNOWN_S) from error
        return True

    def _admit(self, spec: JobSpec, queue: str) -> None:
        """Raise BusyError if there is no room for a job."""
        pressure = self._pressure(queue)
        serving = [card for card in self._seen[1] if queue in card.queues]
        if pressure and (busy := admission.turned_away(pressure, spec.priority, serving)):
            raise BusyError(busy.why, busy.retry_after_s)

    def _pressure(self, queue: str) -> Pressure | None:
        """Return how full Redis and a queue are, at most RECENT_S old; None if this user of Redis may not ask."""
        asked_at, pressure = self._pressures.get(queue, (-RECENT_S, None))
        if time.monotonic() - asked_at < RECENT_S:
            return pressure
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.info("memory")
                pipeline.info("keyspace")
                pipeline.llen(Queue.redis_queue_namespace_prefix + queue)
                pressure = Pressure.read(*pipeline.execute())
        except NoPermissionError:
            return None
        self._pressures[queue] = time.monotonic(), pressure
        return pressure

    def _queue(self, name: str) -> Queue:
        """Return a queue; the same object each time, since RQ asks for the server's version once for each."""
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return self._queues[name]
