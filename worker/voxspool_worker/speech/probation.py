"""How long a worker waits before it takes jobs, because workers of its host ended without completing anything.

A broken machine under a supervisor starts a worker again and again, and each one would take jobs from healthy workers
and die of them. So each worker leaves a mark in Redis with its first job, and the first segment that is completed on
this host with this engine removes all marks. A worker that ends in an orderly way removes its own. Redis has the marks,
because a container, or systemd, gives a new process new folders.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.jobs.standing import Standing

log = logging.getLogger(__name__)

FREE_ENDS: Final = 2
"""Number of workers that may end without completing anything before the next one waits."""
FIRST_WAIT_S: Final = 4.0
"""The wait of the next worker, in seconds. Each further one waits twice as long, up to LONGEST_WAIT_S."""
LONGEST_WAIT_S: Final = 300.0


class Probation:
    """The probation of one worker. Any thread may call it."""

    def __init__(
        self, redis: Redis, worker: str, engine: str, standing: Standing, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; `begin` asks Redis. `standing` learns of the first completed segment."""
        self._redis = redis
        self._worker = worker
        self._key = keys.fruitless(standing.host, engine)
        self._standing = standing
        self._clock = clock
        self._claims_from = 0.0
        self._ended = 0
        self._marked = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Find out how long to wait, and log it. Raises RedisError."""
        self._ended = int(self._redis.hlen(self._key))
        if self._ended >= FREE_ENDS:
            wait_s = min(FIRST_WAIT_S * 2 ** (self._ended - FREE_ENDS), LONGEST_WAIT_S)
            self._claims_from = self._clock() + wait_s
            log.warning(
                "worker.backs_off name=%s wait_s=%.0f: %d workers of %s in a row ended without completing anything",
                self._worker, wait_s, self._ended, self._standing.host,
            )  # fmt: skip

    @property
    def wait_s(self) -> float:
        """How long the worker must still wait before it takes jobs, in seconds."""
        return max(0.0, self._claims_from - self._clock())

    @property
    def said(self) -> str:
        """A part of a sentence for the health file; empty if the worker need not wait."""
        wait_s = self.wait_s
        if not wait_s:
            return ""
        return f"takes jobs in {wait_s:.0f} s, because {self._ended} workers in a row ended without completing anything"

    def claimed(self) -> None:
        """Leave a mark when the worker has taken its first job, before it begins that."""
        with self._lock, contextlib.suppress(RedisError):
            if not (self._marked or self._standing.completed):
                self._redis.hset(self._key, self._worker, int(time.time()))
                self._redis.expire(self._key, keys.FRUITLESS_TTL_S)
                self._marked = True

    def completed(self) -> None:
        """Remove the marks of this host when the worker has completed its first segment."""
        if self._standing.completed:
            return
        with self._lock, contextlib.suppress(RedisError):
            self._standing.completed = True
            self._redis.delete(self._key)

    def leave(self, redis: Redis) -> None:
        """Remove the mark of this worker, which ends in an orderly way. Raises RedisError."""
        redis.hdel(self._key, self._worker)
