"""The cancel token of a running job: any thread sets it, and the job's thread checks it at each chunk."""

from __future__ import annotations

import enum
import math
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


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
    """A job's flag, and the time that it has left. Its clock can be stopped, by several threads at once."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = clock() + limit_s
        """When its time is up. While its clock stands still: if it ran on from the moment at which it was stopped."""
        self._stopped_at: float | None = None
        self._stops = 0
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._ended: EndedEarlyError | None = None
        self._ended_at: float | None = None
        self._wake: Callable[[], None] = lambda: None

    @property
    def remaining_s(self) -> float:
        """Seconds to the deadline, never below 0; infinite while the clock stands still and there is time left."""
        with self._lock:
            left_s = self._deadline - (self._clock() if self._stopped_at is None else self._stopped_at)
            return math.inf if left_s > 0 and self._stops else max(0.0, left_s)

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
        with self._lock:
            stopped = self._stopped_at is not None and self._deadline > self._stopped_at
            return min(self._ended_at or now_s, now_s if stopped else self._deadline, now_s)

    def on_end(self, wake: Callable[[], None]) -> None:
        """Set the function that wakes the job's thread; call it at once if the job was already asked to end."""
        with self._lock:
            self._wake = wake
            ended = self._ended is not None
        if ended:
            wake()

    def stop_clock(self) -> None:
        """Stop the job's clock until `start_clock` is called as often as this: nothing can be done for the job."""
        with self._lock:
            if not self._stops:
                self._stopped_at = self._clock()
            self._stops += 1

    def start_clock(self) -> None:
        """Undo one `stop_clock`."""
        with self._lock:
            self._stops -= 1
            if not self._stops and self._stopped_at is not None:
                self._deadline += self._clock() - self._stopped_at
                self._stopped_at = None

    def stand_still(self, wait_s: float) -> None:
        """Wait while nothing can be done for the job; that does not use up its time. Raises EndedEarlyError."""
        self.stop_clock()
        self._asked.wait(wait_s)
        self.start_clock()
        self.check()

    def check(self) -> None:
        """Raise EndedEarlyError if the job was asked to end, or is past its deadline."""
        if self._ended:
            raise self._ended
        if not self.remaining_s:
            raise EndedEarlyError(Reason.TIMED_OUT)


class RowClock:
    """Context manager in which a job's clock runs only while the job has a row of the engine.

    So a job does not fail because others, or its reader, had to be waited for. The engine's thread counts the rows; it
    may do so after the end of the block, too.
    """

    def __init__(self, token: CancelToken) -> None:
        self._token = token
        self._rows = 0
        self._open = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._open = True
        self._token.stop_clock()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open = False
            if not self._rows:
                self._token.start_clock()

    def add(self, rows: int) -> None:
        """Add to the rows that the job has; a negative number takes them away. From any thread."""
        with self._lock:
            had, self._rows = self._rows, self._rows + rows
            if self._open and self._rows and not had:
                self._token.start_clock()
            elif self._open and had and not self._rows:
                self._token.stop_clock()
