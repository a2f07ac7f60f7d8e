"""Follow the readers of a job by their acknowledgements: whether there are any, and how far they have read.

Only jobs that ask for it are followed: a live job ends when nobody has read it for `live_s`, and a job with a window
is spoken no further ahead of its reader than that. The readers write a hash (`ack.lua` in the producer), and this
module reads it.

A reader is there as long as the hash changes. The time without a change is measured by the worker's monotonic clock,
because Redis's clock may jump. It counts only while Redis answers, because readers cannot report to a Redis that is
away.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S, report_every_s
from voxspool.protocol.numbers import count_or_zero
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool.protocol.jobs import JobSpec

RETURN_S: Final = 5.0
"""How long a reader may take to report again after Redis was away, in seconds.

A reader tries to connect every 2 s at the longest, and reports every second at the longest. The rest is for a slow one.
"""
LONG_GONE_S: Final = 10.0
"""How much longer than `live_s` a reader is silent that has left for certain, in seconds: longer than an outage of
Redis that the heartbeat does not notice, and a reader's return after it."""
UNREAD: Final = "nobody is reading it"
"""The name that a live job's cancelled entry gives for who cancelled it, when its readers have left."""


class ReaderProgress:
    """The readers of one job, as one run of it knows them."""

    def __init__(self, redis: Redis, spec: JobSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._job = spec.id
        self._clock = clock
        self._live_s = spec.unread_limit_s
        self.poll_s = report_every_s(self._live_s)
        """Polling interval for the acknowledgement, in seconds; readers report about as often."""
        self._looked_at: float | None = None
        """When Redis last answered; None before `begin`."""
        self._report: tuple[bytes | None, ...] = ()
        """The acknowledgement as it was then."""
        self._unread_s = 0.0
        """For how long it has not changed."""
        self._patience_s = 0.0
        """How much longer than `live_s` that may take at present."""
        self.pos = 0
        """The sample up to which the furthest reader has read."""

    def begin(self, wait: Callable[[float], None], steady_s: float = 0.0) -> None:
        """Look for the first time, when the run has claimed the stream.

        If the last report is older than `live_s` by Redis's clock, the readers have left, or that clock has jumped, or
        Redis was away. So wait for one more report before anything is spoken. `wait` waits some seconds, and may raise.
        `steady_s` is Redis's time if its clock is known to be steady, else 0: a report that is much too old by it shows
        that the readers have left.

        Raises EndedEarlyError if they have, and if no report comes.
        """
        if self._live_s is None:
            return
        now_ms = self._ask()
        self._looked_at = self._clock()
        self._patience_s = LONGEST_REPORT_S  # before the begin a reader cannot know how often it should report
        reported_ms = count_or_zero(self._report[1])
        if reported_ms and steady_s - reported_ms / 1000 > self._live_s + LONG_GONE_S:
            raise EndedEarlyError(Reason.CANCELLED, UNREAD)
        if reported_ms and now_ms - reported_ms > self._live_s * 1000:
            self._unread_s, self._patience_s = self._live_s, RETURN_S
        while self._unread_s:
            wait(self.poll_s)
            self.look()

    def look(self) -> None:
        """Read the acknowledgement, if the job asks for it and the last look is long enough ago.

        Raises EndedEarlyError if the job is live and nobody has read it for too long.
        """
        if self._live_s is None or self._looked_at is None or self._clock() < self._looked_at + self.poll_s:
            return
        before = self._report
        self._ask()
        passed_s = self._clock() - self._looked_at
        self._looked_at += passed_s
        if self._report != before:
            self._unread_s = self._patience_s = 0.0
            return
        late_s = 2 * self.poll_s
        if passed_s > late_s:
            self._patience_s = RETURN_S
        self._unread_s += min(passed_s, late_s)
        if self._unread_s > self._live_s + self._patience_s:
            raise EndedEarlyError(Reason.CANCELLED, UNREAD)

    def _ask(self) -> int:
        """Read the acknowledgement, and return Redis's clock in ms."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.acknowledged(self._job), "pos", "at")
            pipeline.time()
            report, (second, microsecond) = pipeline.execute()
        self._report = tuple(report)
        self.pos = max(self.pos, count_or_zero(self._report[0]))
        return int(second * 1000 + microsecond // 1000)
