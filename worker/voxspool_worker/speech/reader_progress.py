"""Follow the readers of a job by their acknowledgements: whether there are any, and how far they have read.

This applies only to jobs with one of two options: a live job ends when nobody has read it for `live_s`, and a job with
a window is never spoken further ahead of its reader than the window. The readers write a hash (`ack.lua` in the
producer); this module reads it, and uses Redis's clock.
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
"""Value of `by` in the cancelled entry of a live job whose readers have left."""


class ReaderProgress:
    """The progress of the readers of one job, for one run."""

    def __init__(self, redis: Redis, spec: JobSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._job = spec.id
        self._clock = clock
        self._live_s = spec.unread_limit_s
        self._due = 0.0
        self._since_ms: int | None = None
        """Time of this run's first look, by Redis's clock. If nobody has read the job, its unread time starts here."""
        self.pos = 0
        """Number of samples that the furthest reader has read."""

    def look(self) -> None:
        """Read the acknowledgement if the job has one of the options and the poll interval is over.

        Raises EndedEarlyError if nobody has read the job for too long.
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
