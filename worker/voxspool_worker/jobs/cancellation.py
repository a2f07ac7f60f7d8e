"""The cancel token of a running job: any thread sets it, and the job's thread checks it at each chunk."""

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
    """Raised by a check of the cancel token, in the job's own thread: the job must end."""

    def __init__(self, reason: Reason, by: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.by = by


class CancelToken:
    """The request to end one job early, and the deadline of the job."""

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
        """Time until the deadline in seconds, 0 or more."""
        return max(0.0, self._deadline - self._clock())

    def end(self, reason: Reason, by: str = "") -> None:
        """Ask the job to end; later reasons are ignored. Any thread may call it."""
        with self._lock:
            self._ended = self._ended or EndedEarlyError(reason, by)
            self._ended_at = self._ended_at or self._clock()
            wake = self._wake
        self._asked.set()
        wake()

    def ended_at(self, now_s: float) -> float:
        """Return when the job was asked to end or reached its deadline; `now_s` if neither has happened."""
        asked_at = self._ended_at or now_s
        return min(asked_at, self._deadline, now_s)

    def on_end(self, wake: Callable[[], None]) -> None:
        """Set the function that wakes the job's thread; call it at once if the job was already asked to end."""
        with self._lock:
            self._wake = wake
            ended = self._ended is not None
        if ended:
            wake()

    def stand_still(self, wait_s: float) -> None:
        """Wait without using up the job's time, and check the token afterwards. Raises EndedEarlyError."""
        self._asked.wait(wait_s)
        self.give_back(wait_s)
        self.check()

    def give_back(self, spent_s: float) -> None:
        """Move the deadline by a time in which the job could not continue. Only the job's own thread may call it."""
        self._deadline += spent_s

    def check(self) -> None:
        """Raise EndedEarlyError if the job was asked to end, or is past its deadline."""
        if self._ended:
            raise self._ended
        if self._clock() >= self._deadline:
            raise EndedEarlyError(Reason.TIMED_OUT)
