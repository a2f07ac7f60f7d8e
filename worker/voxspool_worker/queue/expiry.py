"""End jobs that waited too long in the queue of an engine that no live worker has: nobody would ever speak them.

Since when a queue has had no worker stands in Redis, so that it survives restarts of the workers that look. A job that
names no engine has moved to `auto` by then, if a live worker can speak it (see `recovery`).
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from voxspool.amounts import duration
from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, MAX_KEEP_S
from voxspool.protocol.numbers import count_or_zero
from voxspool.queue import ending
from voxspool_worker.queue.rq_keys import job_key, queue_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from redis import Redis

log = logging.getLogger(__name__)

PATIENCE_S: Final = 600.0
"""Longest time for which a worker watches a queue itself before it ends its jobs, in seconds. After an outage of all
workers, those of one engine start in seconds and those of another load a model for minutes."""
MAX_JOBS: Final = 100
"""Number of jobs at the front of a queue that one round examines: they have waited longest."""


class Expiry:
    """Ends jobs that no live worker could speak for `limit_s` seconds."""

    def __init__(self, redis: Redis, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._limit_s = limit_s
        self._clock = clock
        self._watched_since: dict[str, float] = {}

    def end_jobs(self, queues: Sequence[str], served: Collection[str], paused: Collection[bytes]) -> None:
        """Do one round over the queues of engines; live workers take jobs from those that are `served`."""
        now_s: int = self._redis.time()[0]
        since = self._note(queues, served, now_s)
        for queue, since_s in since.items():
            if queue.encode() not in paused and self._is_due(queue, since_s, now_s):
                self._end_jobs_of(queue, since_s, now_s)

    def _note(self, queues: Sequence[str], served: Collection[str], now_s: int) -> dict[str, int]:
        """Return since when each queue has had no worker, in seconds by Redis's clock, and note what has changed."""
        stored: Any = self._redis.hgetall(keys.UNSERVED)
        noted = {name.decode(errors="replace"): count_or_zero(value) for name, value in stored.items()}
        since = {queue: noted.get(queue) or now_s for queue in queues if queue not in served}
        if gone := [queue for queue in noted if queue not in since]:
            self._redis.hdel(keys.UNSERVED, *gone)
        if new := {queue: since_s for queue, since_s in since.items() if queue not in noted}:
            self._redis.hset(keys.UNSERVED, mapping=new)  # type: ignore[arg-type] # its dict is invariant
        watched = self._clock()
        self._watched_since = {queue: self._watched_since.get(queue, watched) for queue in since}
        return since

    def _is_due(self, queue: str, since_s: int, now_s: int) -> bool:
        """Return whether a queue has been without a worker for so long that its jobs may end."""
        watched_s = self._clock() - self._watched_since[queue]
        return now_s - since_s >= self._limit_s and watched_s >= min(self._limit_s, PATIENCE_S)

    def _end_jobs_of(self, queue: str, since_s: int, now_s: int) -> None:
        """Cancel the jobs of a queue that have waited for longer than the limit."""
        by = f"the queue: no live worker served {queue} for {duration(self._limit_s)}"
        for job, waiting_since_s, keep_s in self._waiting(queue):
            if now_s - max(since_s, waiting_since_s) >= self._limit_s:
                said = ending.cancel(self._redis, job, by, keep_s)
                log.warning("job.unserved job=%s queue=%s said=%s", job, queue, said)

    def _waiting(self, queue: str) -> Iterator[tuple[str, float, int]]:
        """Yield the first jobs of a queue: id, when it was enqueued (0: unknown), how long what it leaves lives."""
        found: Any = self._redis.lrange(queue_key(queue), 0, MAX_JOBS - 1)
        for job in [one.decode() for one in found if one.isascii()]:  # any program may push anything
            record: Any = self._redis.hmget(job_key(job), "status", "enqueued_at", "result_ttl")
            status, enqueued_at, keep_s = record
            if not status:
                continue
            kept_s = min(count_or_zero(keep_s) or DEFAULT_KEEP_S, MAX_KEEP_S)
            yield job, _seconds((enqueued_at or b"").decode(errors="replace")), kept_s


def _seconds(text: str) -> float:
    """Return a time in RQ's format in seconds since 1970; 0 if it cannot be read."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
