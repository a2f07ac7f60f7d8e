"""How many jobs the worker may take now: interactive and batch jobs, quarantined jobs, chapters of books."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from voxspool.protocol.jobs import PRIORITIES, priority_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool.protocol.jobs import Priority
    from voxspool_worker.jobs.execution import JobExecution

WAIT_S: Final = 1.0
"""Longest wait of the main thread, in seconds, before it looks again at queues, jobs and signals."""
MAX_BATCH_JOBS: Final = 8
"""Number of batch speeches that a worker has at once, unless its engine has more rows: enough work for the rows. More
would only keep them from other workers."""
MAX_CHAPTERS: Final = 2
"""Number of chapters of books that a worker has at once, beside its speeches: while one comes to its end, the other has
work for all rows of the engine. More would only keep chapters from other workers."""
LEAVE_BATCH_S: Final = 5.0
"""Time for which a worker takes no batch work after a job that only other workers can run, in seconds."""


class Capacity:
    """Counts the jobs that run. The main thread asks what it may take and begins jobs; job threads end them.

    Batch jobs take the places that interactive jobs leave, and keep no interactive job waiting: a batch job may run for
    hours, or wait for a row all that time. So an interactive job is taken whatever number of batch jobs runs.
    """

    def __init__(
        self, jobs: int, wake_up: threading.Event, *, rows: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare. `jobs` is the number of speeches at once, beside batch speeches that began before interactive ones.

        `rows` is the engine's number of rows; `wake_up` wakes the main thread.
        """
        self.jobs = jobs
        self._max_batch_jobs = max(MAX_BATCH_JOBS, rows)
        self._running: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._chapters = 0
        self._awaited: set[Priority] = set()
        """The priorities that were closed when the main thread last looked."""
        self._quarantined: set[str] = set()
        self._wake_up = wake_up
        self._clock = clock
        self._lock = threading.Lock()
        self._leave_batch_until = 0.0

    @property
    def takes_chapters(self) -> bool:
        """True if the worker may take another chapter of a book."""
        return self._chapters < MAX_CHAPTERS and self._clock() >= self._leave_batch_until

    def takes(self, priority: Priority) -> bool:
        """Return whether the worker may take another speech of this priority, if no job is quarantined."""
        if priority == "interactive":
            return self._running["interactive"] < self.jobs
        return self._running["batch"] < self._max_batch_jobs and sum(self._running.values()) < self.jobs

    def wait_until_open(self) -> bool:
        """Return whether a job may be taken now. If not, wait a little and return False. For the main thread.

        A job that was running when a worker died is quarantined: it runs alone until it has completed a segment, and no
        other job begins. So if a worker dies again, the cause is known, and no other job is marked failed with it.
        """
        if self._quarantined:
            self._wake_up.wait(WAIT_S)
            if self._quarantined:
                return False
        with self._lock:
            self._awaited = {priority for priority in PRIORITIES if not self.takes(priority)}
        if len(self._awaited) < len(PRIORITIES):
            return True
        self._wake_up.wait(WAIT_S)
        return False

    def begin(self, run: JobExecution, *, chapter: bool) -> None:
        """Count a run that begins, and quarantine it if workers died of it."""
        self._count(run, 1, chapter=chapter)
        if run.deaths and not chapter:  # the segments of a chapter are quarantined one by one
            self._quarantined.add(run.id)

    def end(self, run: JobExecution, *, chapter: bool) -> None:
        """Count a run that has ended, and wake the main thread if it waits for that."""
        self.clear_suspicion(run)
        self._count(run, -1, chapter=chapter)
        if chapter or any(self.takes(priority) for priority in self._awaited):
            self._wake_up.set()

    def clear_suspicion(self, run: JobExecution) -> None:
        """End the quarantine of a run: it has completed a segment, or ended."""
        if run.id in self._quarantined:
            self._quarantined.discard(run.id)
            self._wake_up.set()

    def leave_batch_to_others(self) -> None:
        """Stop accepting batch work for LEAVE_BATCH_S seconds."""
        self._leave_batch_until = self._clock() + LEAVE_BATCH_S

    def _count(self, run: JobExecution, number: int, *, chapter: bool) -> None:
        """Add `number` to the count of a run's kind."""
        with self._lock:
            if chapter:
                self._chapters += number
            else:
                self._running[priority_of(run.queue)] += number
