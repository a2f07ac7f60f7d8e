"""Put jobs into RQ's queues, if Redis and the queue have room for them.

The list of live workers and the memory use of Redis are kept for one second, since reading them takes longer than
enqueueing. The callers, Client and NarrationJobs, choose the queue and the options of a job.
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

Workers of voxspool put such jobs back without using up these retries."""
RECENT_S: Final = 1.0
"""The time for which a value that was read counts as recent, in seconds. Reading the cards of eight workers takes three
times as long as enqueueing. Cards are up to 3 s old in any case, and a job in the queue of an engine without workers is
moved to another queue."""


class Enqueuer:
    """Puts jobs into the queues of one Redis. Threads may share it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queues: dict[str, Queue] = {}
        self._seen: tuple[float, list[WorkerCard]] = (-RECENT_S, [])
        """When the workers' cards were read last, and the cards. Replaced as a whole, since threads share it."""
        self._pressures: dict[str, tuple[float, Pressure]] = {}
        """Queue -> the time at which the fill of Redis and of the queue was read, and the result."""

    def live_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, as they are now. Raises redis.RedisError."""
        found = workers.live(self._redis)
        self._seen = (time.monotonic(), found)
        return found

    def recent_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, read at most RECENT_S ago. Raises redis.RedisError."""
        read_at, found = self._seen
        return found if time.monotonic() - read_at < RECENT_S else self.live_workers()

    def put(self, task: str, argument: dict[str, Any], spec: JobSpec, queue: str, timeout_s: int = 0) -> bool:
        """Put a job into a queue; return False if its id exists already. A `timeout_s` of 0 means that of the spec.

        Raises BusyError, redis.RedisError.
        """
        self._admit(spec, queue)
        try:
            self._queue(queue).enqueue_call(
                task,
                args=(argument,),
                job_id=spec.id,
                description=f"speech {spec.id}",  # RQ's default would contain the text
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
            raise BusyError("Redis has reached its memory limit", admission.UNKNOWN_S) from error
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
