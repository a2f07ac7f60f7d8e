"""Check every few seconds whether a thread of this process hangs, and whether its memory has grown too large.

A worker that hangs is worse than a dead one: it holds its jobs, renews their leases and takes more jobs. So the process
ends if a step of the engine does not end, or if a job ignores its cancel token; and, between jobs, if memory grows
without end. This module detects and reports; the worker acts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import psutil

from voxspool.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voxspool_worker.jobs.cancellation import CancelToken

log = logging.getLogger(__name__)

CHECK_S: Final = 3.0
"""How often the health of the process is checked and reported, in seconds."""
STEP_LIMIT_S: Final = 60.0
"""How long a step of the engine may take, in seconds: a whole segment of Piper on a slow board takes ten."""
TOKEN_LIMIT_S: Final = 30.0
"""How long after it was asked to end a job may go on, in seconds; it looks once a second, and at every chunk."""
TURN_LIMIT_S: Final = 30.0
"""How long the main thread may be away from its loop, in seconds; a command that Redis does not answer takes five."""
GROWTH: Final = 2.0
LEAST_GROWTH_BYTES: Final = 2**30
"""Without a limit of its own, a worker may grow to twice what it had when it was ready, and by 1 GiB at least."""


class MemoryLimit:
    """The largest memory that this process may use. Create it when the worker is ready to speak."""

    def __init__(self, limit_bytes: int | None, size: Callable[[], int]) -> None:
        """Prepare; `size` gives the process's. Without a limit, it follows from the size now.

        Raises SettingsError for a limit that the process has passed before its first job: it would start for ever.
        """
        self._size = size
        now_bytes = size()
        if limit_bytes and now_bytes >= limit_bytes:
            raise SettingsError(
                f"VOXSPOOL_WORKER_MEMORY_MB is {limit_bytes >> 20}, and this worker has {now_bytes >> 20} MB when it "
                "is ready; name more, or none"
            )
        self.limit_bytes = limit_bytes or max(round(GROWTH * now_bytes), now_bytes + LEAST_GROWTH_BYTES)

    @property
    def too_large_bytes(self) -> int | None:
        """The size, where it is above the limit; None where it is not."""
        now_bytes = self._size()
        return now_bytes if now_bytes > self.limit_bytes else None


def resident_bytes() -> int:
    """Return what this process holds of the machine's memory."""
    return int(psutil.Process().memory_info().rss)


def find_stall(
    now_s: float, *, step_began: float | None, turned: float, tokens: Iterable[CancelToken], redis_back: float
) -> str | None:
    """Describe the first component that hangs, or return None if all are healthy.

    `step_began` is when the engine's step began that it is in, `turned` when the main thread last turned its loop,
    `redis_back` when Redis was last found again: the main thread and the jobs may wait for it.
    """
    if step_began is not None and now_s - step_began > STEP_LIMIT_S:
        return f"a step of the engine takes longer than {STEP_LIMIT_S:g} s"
    if now_s - max(turned, redis_back) > TURN_LIMIT_S:
        return f"the main thread has not turned for {TURN_LIMIT_S:g} s"
    for token in tokens:
        if now_s - max(token.ended_at(now_s), redis_back) > TOKEN_LIMIT_S:
            return f"a job has not looked at its token for {TOKEN_LIMIT_S:g} s after its end"
    return None


class Watchdog:
    """The thread that checks the health of all others and reports it. It never waits for Redis."""

    def __init__(
        self,
        stall: Callable[[], str | None],
        memory: MemoryLimit,
        *,
        on_healthy: Callable[[], None],
        on_stall: Callable[[str], None],
        on_growth: Callable[[int], None],
    ) -> None:
        """Prepare. `stall` describes the first component that hangs, `on_growth` receives the size in bytes."""
        self._stall = stall
        self._memory = memory
        self._on_healthy = on_healthy
        self._on_stall = on_stall
        self._on_growth = on_growth

    def run(self, wait: Callable[[float], bool]) -> None:
        """Check every CHECK_S until `wait`, which receives these seconds, returns True: the body of the thread."""
        while not wait(CHECK_S):
            try:
                self.check()
            except Exception:
                log.exception("watch.error")

    def check(self) -> None:
        """Report once whether the process is healthy, hangs, or has grown too large."""
        if stall := self._stall():
            self._on_stall(stall)
        else:
            self._on_healthy()
        if size_bytes := self._memory.too_large_bytes:
            self._on_growth(size_bytes)
