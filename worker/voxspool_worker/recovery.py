"""What brings back the jobs of a dead worker. Every live worker runs it; it needs no process of its own.

A job whose lease ran out goes back to the front of its queue, without a retry. Each decision is one script, so any
number of rescuers at once bring a job back once. A job is popped and claimed in one step (lua/dequeue.lua), so there is
nothing else to bring back. Knows RQ's keys and the leases; not what a job says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry

from voxspool.protocol import keys
from voxspool.protocol.jobs import all_queue_names
from voxspool_worker import lua

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)


class Recovery:
    """Looks for jobs that nobody runs any more, in every queue of voxspool."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._requeue = lua.load(redis, "requeue")

    def look(self) -> list[str]:
        """Bring back the jobs whose lease ran out; give their ids."""
        return [job for name in all_queue_names() for job in self._rescue(name)]

    def requeue(self, queue: str, job: str, execution: str, *, expired_only: bool) -> str:
        """Put one started job back at the front of its queue; give the script's word."""
        composite = f"{job}:{execution}"
        said: bytes = self._requeue(
            keys=[
                StartedJobRegistry.key_template.format(queue),
                Queue.redis_queue_namespace_prefix + queue,
                Job.key_for(job),
                f"rq:execution:{composite}",
                f"rq:executions:{job}",
                keys.control(job),
            ],
            args=[composite, job, execution, int(expired_only)],
        )
        return said.decode()

    def _rescue(self, queue: str) -> list[str]:
        """Requeue the jobs of a queue whose lease ran out."""
        now_s = self._redis.time()[0]
        expired: list[Any] = self._redis.zrangebyscore(StartedJobRegistry.key_template.format(queue), "-inf", now_s)
        back = []
        for composite in expired:
            job, _, execution = composite.decode().rpartition(":")
            if self.requeue(queue, job, execution, expired_only=True) == "requeued":
                log.warning("job.rescued job=%s queue=%s", job, queue)
                back.append(job)
        return back
