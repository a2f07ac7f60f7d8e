"""Decide whether the worker may take another job: slots, quarantined jobs, chapters of books."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool_worker.jobs.execution import JobExecution

WAIT_S: Final = 1.0
"""Longest wait of the main thread, in seconds, before it looks again at queues, slots and signals."""
MAX_CHAPTERS: Final = 2
"""Number of chapters of books that a worker runs at once, in addition to its slots: while one is nearly complete, the
other has work for all rows of the engine. More would only keep chapters from other workers."""
LEAVE_BATCH_S: Final = 5.0
"""Time for which a worker takes no batch work after a job that only other workers can run, in seconds."""


class Capacity:
    """Counts the jobs that run. The main thread reserves; job threads release."""

    def __init__(self, slots: int, wake_up: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
        """Create free slots. `slots` is the number of speeches at once; `wake_up` wakes the main thread."""
        self.slots = slots
        self._free = threading.Semaphore(slots)
        self._wake_up = wake_up
        self._clock = clock
        self._slot_awaited = threading.Event()
        self._quarantined: set[str] = set()
        self._chapters = 0
        self._lock = threading.Lock()
        self._leave_batch_until = 0.0

    @property
    def takes_chapters(self) -> bool:
        """True if the worker may take another chapter of a book."""
        return self._chapters < MAX_CHAPTERS and self._clock() >= self._leave_batch_until

    def reserve(self) -> bool:
        """Reserve a slot for a job that is not chosen yet. If no slot may be used now, wait a little and return False.

        A job that was running when a worker died is quarantined: it runs alone until it has completed a segment, and no
        other job begins. So if a worker dies again, the cause is known, and no other job is marked failed with it.
        """
        if self._quarantined:
            self._wake_up.wait(WAIT_S)
            if self._quarantined:
                return False
        self._slot_awaited.clear()
        if self._free.acquire(blocking=False):
            return True
        self._slot_awaited.set()
        if self._free.acquire(blocking=False):  # a job ended just before the flag was set
            return True
        self._wake_up.wait(WAIT_S)
        return False

    def release(self) -> None:
        """Give back a slot that was reserved and not used."""
        self._free.release()

    def begin(self, run: JobExecution, *, chapter: bool) -> None:
        """Use the reserved slot for a run; quarantine it if workers died in it. A chapter gives its slot back."""
        if chapter:  # the segments of a chapter are quarantined one by one
            with self._lock:
                self._chapters += 1
            self._free.release()
        elif run.deaths:
            self._quarantined.add(run.id)

    def end(self, run: JobExecution, *, chapter: bool) -> None:
        """Free what a run used, and wake the main thread if it waits for that."""
        self.clear_suspicion(run)
        if chapter:
            with self._lock:
                self._chapters -= 1
        else:
            self._free.release()
        if chapter or self._slot_awaited.is_set():
            self._wake_up.set()

    def clear_suspicion(self, run: JobExecution) -> None:
        """End the quarantine of a run: it has completed a segment, or ended."""
        if run.id in self._quarantined:
            self._quarantined.discard(run.id)
            self._wake_up.set()

    def leave_batch_to_others(self) -> None:
        """Take no batch work for LEAVE_BATCH_S."""
        self._leave_batch_until = self._clock() + LEAVE_BATCH_S
