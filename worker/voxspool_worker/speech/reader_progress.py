"""Watch the readers of a job: whether there are any, and how far they are by their acknowledgements.

Only jobs that ask for it are watched: a live job ends when nobody has read it for its stated time, and a job with a
window is spoken no further ahead of its reader than that window. It reads the hash that readers write (ack.lua of the
other package) and Redis's clock; it does not know rows, nor how a job ends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from voxspool.protocol import keys
from voxspool.protocol.numbers import count_or_zero
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool.protocol.jobs import JobSpec

EVERY_S: Final = 1.0
"""How often the acknowledgement is read, in seconds; readers write it about as often."""
UNREAD: Final = "nobody is reading it"
"""Who cancelled a live job that its readers left."""


class ReaderProgress:
    """What one run of one job knows of its readers."""

    def __init__(self, redis: Redis, spec: JobSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._job = spec.id
        self._clock = clock
        self._live_s = spec.unread_limit_s
        self._due = 0.0
        self._since_ms: int | None = None
        """When this run looked first, by Redis's clock: it counts for a job that nobody has read yet."""
        self.pos = 0
        """Up to which sample the reader that is furthest has read."""

    def look(self) -> None:
        """See who reads, where the job asks for it and it is time to.

        Raises EndedEarlyError where the job is live and nobody has read it for too long.
        """
        if self._live_s is None or self._clock() < self._due:
            return
        self._due = self._clock() + EVERY_S
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.acknowledged(self._job), "pos", "at")
            pipeline.time()
            (pos, at), (second, microsecond) = pipeline.execute()
        now_ms = second * 1000 + microsecond // 1000
        self._since_ms = self._since_ms or now_ms
        self.pos = max(self.pos, count_or_zero(pos))
        unread_ms = now_ms - (count_or_zero(at) or self._since_ms)
        if unread_ms > self._live_s * 1000:
            raise EndedEarlyError(Reason.CANCELLED, UNREAD)
