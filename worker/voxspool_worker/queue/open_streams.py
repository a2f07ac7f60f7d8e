"""Close the streams of jobs that RQ has lost, so that their readers do not wait for ever.

RQ's tools and dashboards know nothing of streams. They can cancel, delete or fail a job whose worker is dead, empty its
queue, or delete RQ's keys. Each stream that a worker opens is in a sorted set until it is closed; every live worker
looks at those whose lease must have ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from voxspool.protocol import keys
from voxspool.protocol.jobs import AUTO, DEFAULT_KEEP_S, engine_of, queue_name
from voxspool.protocol.stream import Cancelled, Failed, encode_data
from voxspool_worker import lua
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue.rq_keys import job_key, queue_key

if TYPE_CHECKING:
    from redis import Redis

LOOK_S: Final = 10
"""Interval between two looks at an open stream whose job waits in its queue, in seconds."""
MAX_JOBS: Final = 100
"""Number of streams that one round looks at."""
FUTURE_S: Final = 120
"""A look that is planned for later than this many seconds from now: Redis's clock was set back."""
ANY_QUEUE: Final = queue_name(AUTO, "batch")
"""Stands for the queue of a job that has none: a worker may use only voxspool's queues."""
CANCELLED_BY: Final = "RQ"
GIVEN_UP: Final = Failed(
    0, "given-up", "RQ counts the job as over, but its speech is not; enqueue the text again", retryable=True
)


class OpenStreams:
    """The streams that are open. Only the heartbeat thread uses it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._settle = lua.load(redis, "settle")

    def due(self, expired_by: float) -> list[str]:
        """Return the jobs whose streams are to be looked at. `expired_by` is that of `Heartbeat`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zrangebyscore(keys.OPEN, "-inf", expired_by, 0, MAX_JOBS)
            pipeline.zrangebyscore(keys.OPEN, expired_by + FUTURE_S, "+inf", 0, MAX_JOBS)
            return [job.decode(errors="surrogateescape") for found in pipeline.execute() for job in found]

    def settle(self, job: str, expired_by: float) -> str:
        """Look at the stream of a job, and close it if no worker will. Return the reply of settle.lua."""
        fields: Any = self._redis.hmget(job_key(job), "origin") if self._redis.type(job_key(job)) == b"hash" else [b""]
        origin = (fields[0] or b"").decode(errors="surrogateescape")
        known = engine_of(origin) is not None
        run = JobExecution(origin if known else ANY_QUEUE, job, "")
        reply: bytes = self._settle(
            keys=[
                keys.OPEN, keys.audio(job), keys.control(job), job_key(job), run.record_keys[1], run.lease_key,
                queue_key(run.queue),
            ],
            args=[
                job, origin, round(expired_by * 1000), encode_data(Cancelled(0, CANCELLED_BY)), encode_data(GIVEN_UP),
                DEFAULT_KEEP_S, LOOK_S, int(known),
            ],
        )  # fmt: skip
        return reply.decode()
