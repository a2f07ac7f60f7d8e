"""The state of the worker process, shared by all threads: whether it takes jobs, ends, or must be restarted."""

from __future__ import annotations

import math
import threading
from typing import Final

from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason

EXIT_ENGINE_LOST: Final = 70
"""Exit code if the engine broke, or a thread hung: EX_SOFTWARE. A supervisor starts the worker again."""
EXIT_RESTART: Final = 75
"""Exit code if the process has grown too large: EX_TEMPFAIL. A supervisor starts it again."""


class Lifecycle:
    """Flags of the worker process, which change only from False to True, and a time that is set once.

    They are plain attributes because signal handlers set them: a handler runs in the main thread, which may hold the
    lock of an Event at that moment.
    """

    def __init__(self) -> None:
        self.burst = False
        """The worker ends when no job is left."""
        self.stopping = False
        """The worker takes no new job."""
        self.forced = False
        """The running jobs are handed back."""
        self.hand_back_at = math.inf
        """When the jobs that still run are handed back, by the monotonic clock. The first signal sets it."""
        self.engine_lost = False
        """The engine broke, or a thread hangs."""
        self.restart = False
        """The process has grown too large and ends after its jobs."""
        self.failed = False
        """The main loop ended with an error."""
        self.wake_up = threading.Event()
        """Set to make the main thread check queues, running jobs and flags again."""
        self.left = threading.Event()
        """Set when all threads should end."""

    def lose_engine(self) -> None:
        """Record that the engine broke. All jobs are handed back and the process ends."""
        self.engine_lost = self.stopping = True
        self.wake_up.set()

    def request_restart(self) -> None:
        """Stop accepting jobs, and exit after the running ones with the code that asks for a restart."""
        self.restart = self.stopping = True
        self.wake_up.set()

    def wait_for_memory(self, wait_s: float) -> None:
        """Wait some seconds for Redis to have memory. Raises EndedEarlyError if the worker stops."""
        self.left.wait(wait_s)
        if self.stopping:
            raise EndedEarlyError(Reason.HANDED_BACK)

    @property
    def exit_code(self) -> int:
        """The exit code of the process: 0 if it was asked to stop, or had no more jobs in burst mode."""
        if self.restart:
            return EXIT_RESTART
        return 0 if (self.stopping or self.burst) and not self.failed else EXIT_ENGINE_LOST
