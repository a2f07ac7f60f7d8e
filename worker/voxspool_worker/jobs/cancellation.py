"""Why a running job must end early: one flag a job, set by any thread, checked by the job's thread at each chunk.

It uses neither Redis nor an engine. Everything else flows from the text to the stream; this goes the other way.
"""

from __future__ import annotations

import enum
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Reason(enum.Enum):
    """The reason why a job ended before its speech was complete."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    HANDED_BACK = "handed back"
    LEASE_LOST = "lease lost"


class EndedEarlyError(Exception):
    """Raised in the job's own thread where it looks at its token."""

    def __init__(self, reason: Reason, by: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.by = by


class CancelToken:
    """A job's flag and its deadline."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = clock() + limit_s
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._ended: EndedEarlyError | None = None
        self._ended_at: float | None = None
        self._wake: Callable[[], None] = lambda: None

    @property
    def remaining_s(self) -> float:
        """Seconds to the deadline, never below 0."""
        return max(0.0, self._deadline - self._clock())

    def end(self, reason: Reason, by: str = "") -> None:
        """Ask the job to end; the first reason stays. From any thread."""
        with self._lock:
            self._ended = self._ended or EndedEarlyError(reason, by)
            self._ended_at = self._ended_at or self._clock()
            wake = self._wake
        self._asked.set()
        wake()

    def ended_at(self, now_s: float) -> float:
        """Return when the job was asked to end, or its time was up; `now_s`, where neither is so."""
        asked_at = self._ended_at or now_s
        return min(asked_at, self._deadline, now_s)

    def on_end(self, wake: Callable[[], None]) -> None:
        """Set the call that wakes the job's thread."""
        with self._lock:
            self._wake = wake
            ended = self._ended is not None
        if ended:
            wake()

    def stand_still(self, wait_s: float) -> None:
        """Wait while nothing can be done for the job; that does not use up its time. Raises EndedEarlyError."""
        self._asked.wait(wait_s)
        self.give_back(wait_s)
        self.check()

    def give_back(self, spent_s: float) -> None:
        """Move the deadline: the job could do nothing in that time. By the job's own thread."""
        self._deadline += spent_s

    def check(self) -> None:
        """Raise EndedEarlyError if the job was asked to end, or its time is up."""
        if self._ended:
            raise self._ended
        if self._clock() >= self._deadline:
            raise EndedEarlyError(Reason.TIMED_OUT)
