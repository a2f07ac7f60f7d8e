"""Follow the readers of a job by their acknowledgements: whether there are any, and how far they have read.

Only jobs that ask for it are followed: a live job ends when nobody has read it for `live_s`, and a job with a window
is spoken no further ahead of its reader than that. The readers write a hash (`ack.lua` in the producer); this
module reads it, with Redis's clock.
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

ACKNOWLEDGEMENT_POLL_S: Final = 1.0
"""Polling interval for the acknowledgement, in seconds; readers write it about as often."""
UNREAD: Final = "nobody is reading it"
"""The name that a live job's cancelled entry gives for who cancelled it, when its readers have left."""


class ReaderProgress:
    """The readers of one job, as one run of it knows them."""

    def __init__(self, redis: Redis, spec: JobSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._job = spec.id
        self._clock = clock
        self._live_s = spec.unread_limit_s
        self._due = 0.0
        self._since_ms: int | None = None
        """When this run first asked, by Redis's clock. If nobody has read the job, its time unread begins here."""
        self.pos = 0
        """The sample up to which the furthest reader has read."""

    def look(self) -> None:
        """Read the acknowledgement, if the job asks for it and the last look is long enough ago.

        Raises EndedEarlyError if the job is live and nobody has read it for too long.
        """
        if self._live_s is None or self._clock() < self._due:
            return
        self._due = self._clock() + ACKNOWLEDGEMENT_POLL_S
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
