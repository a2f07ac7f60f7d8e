"""Check every few seconds whether a thread of this process hangs, and whether its memory has grown too large.

A worker that hangs is worse than a dead one: it renews the leases of its jobs and takes more jobs. So the process ends
if a step of the engine or a turn of the main thread takes too long, or if a job ignores its cancel token; and, between
jobs, if the process uses too much memory. This module detects and reports; the worker acts.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

import psutil

from voxspool.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voxspool_worker.jobs.cancellation import CancelToken

log = logging.getLogger(__name__)

CHECK_S: Final = 3.0
"""Interval between two checks of the process, in seconds."""
STEP_LIMIT_S: Final = 60.0
"""Longest step of a healthy engine, in seconds: a whole segment of Piper on a slow board takes ten."""
TOKEN_LIMIT_S: Final = 30.0
"""Longest time that a job may run after it was asked to end, in seconds. It checks its token every second, and at every
chunk."""
TURN_LIMIT_S: Final = 30.0
"""Longest turn of the main thread's loop, in seconds; a command that Redis does not answer takes five."""
STILL_S: Final = 3 * CHECK_S
"""If a check comes this long after the last one, in seconds, the process itself stood still: it was frozen, or its
machine was suspended."""
GROWTH: Final = 2.0
LEAST_GROWTH_BYTES: Final = 2**30
"""The default memory limit is GROWTH times the size of the ready worker, and at least LEAST_GROWTH_BYTES above it."""


class MemoryLimit:
    """The largest memory that this process may use. Create it when the worker is ready to speak."""

    def __init__(self, limit_bytes: int | None, size: Callable[[], int]) -> None:
        """Set the limit; None: it follows from the present size. `size` returns the size of the process, in bytes.

        Raises SettingsError if the process exceeds the limit before its first job: it would restart for ever.
        """
        self._size = size
        now_bytes = size()
        if limit_bytes and now_bytes >= limit_bytes:
            raise SettingsError(
                f"VOXSPOOL_WORKER_MEMORY_MB is {limit_bytes >> 20}, but this worker uses {now_bytes >> 20} MB before "
                "its first job; set a larger value, or unset it"
            )
        self.limit_bytes = limit_bytes or max(round(GROWTH * now_bytes), now_bytes + LEAST_GROWTH_BYTES)

    @property
    def too_large_bytes(self) -> int | None:
        """The size of the process in bytes if it is above the limit, else None."""
        now_bytes = self._size()
        return now_bytes if now_bytes > self.limit_bytes else None


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


def find_stall(
    now_s: float, *, step_began: float | None, turned: float, tokens: Iterable[CancelToken], redis_back: float
) -> str | None:
    """Describe the first component that hangs, or return None if all are healthy.

    All times are in seconds, by the same clock. `step_began` is the start of the engine's current step, None between
    steps; `turned` is the last turn of the main thread's loop. `redis_back` is the last time that Redis answered again
    after an outage: the main thread and the jobs may wait for Redis.
    """
    if step_began is not None and now_s - step_began > STEP_LIMIT_S:
        return f"a step of the engine takes longer than {STEP_LIMIT_S:g} s"
    if now_s - max(turned, redis_back) > TURN_LIMIT_S:
        return f"the main thread has not finished a turn of its loop for {TURN_LIMIT_S:g} s"
    for token in tokens:
        if now_s - max(token.ended_at(now_s), redis_back) > TOKEN_LIMIT_S:
            return f"a job still runs {TOKEN_LIMIT_S:g} s after it was asked to end: it does not check its token"
    return None


class Watchdog:
    """Checks whether the process is healthy, from a thread of its own that never waits for Redis."""

    def __init__(
        self,
        stall: Callable[[], str | None],
        memory: MemoryLimit,
        *,
        on_healthy: Callable[[], None],
        on_stall: Callable[[str], None],
        on_growth: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the callbacks. `stall` describes what hangs, or returns None; `on_growth` receives a size in bytes.

        A check calls `on_healthy` or `on_stall`, and `on_growth` if the process is larger than `memory` allows.
        """
        self._stall = stall
        self._memory = memory
        self._on_healthy = on_healthy
        self._on_stall = on_stall
        self._on_growth = on_growth
        self._clock = clock
        self._checked_at = clock()
        self._stood_still_until = -math.inf
        """When the threads have had the time of every limit since the process last stood still."""

    def run(self, wait: Callable[[float], bool]) -> None:
        """Check every CHECK_S seconds until `wait`, which waits for that time, returns True: the body of the thread."""
        while not wait(CHECK_S):
            try:
                self.check()
            except Exception:
                log.exception("watch.error")

    def check(self) -> None:
        """Check once, and report whether the process is healthy, hangs, or has grown too large.

        After the process stood still, its threads seem to hang. They have the time of the longest limit to go on.
        """
        now_s = self._clock()
        if now_s - self._checked_at > STILL_S:
            self._stood_still_until = now_s + STEP_LIMIT_S
        self._checked_at = now_s
        stall = self._stall()
        if stall and now_s >= self._stood_still_until:
            self._on_stall(stall)
        else:
            self._on_healthy()
        if size_bytes := self._memory.too_large_bytes:
            self._on_growth(size_bytes)
