"""Open the worker's segment store in a thread of its own, because it may be remote, and retry until it opens.

A worker whose store cannot be opened still speaks the jobs that need no store.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from voxspool.errors import StoreError, VoxspoolError
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

REOPEN_S: Final = 30.0
"""Wait before the next attempt to open the store, in seconds."""
OPEN_LIMIT_S: Final = 10.0
"""Longest wait of a chapter for the first attempt to open the store, in seconds."""
RETRY_WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits between attempts to read or write a segment, in seconds; after the last attempt, the chapter fails."""

_Result = TypeVar("_Result")


class StoreHandle:
    """The segment store of a worker, or the reason why it is not open. Any thread may call all methods."""

    def __init__(self, place: str | Path) -> None:
        """Store the folder or URL of the segment store; `start` opens it."""
        self._place = place
        self._attempted = threading.Event()
        self._stopping = threading.Event()
        self._store: Store | None = None
        self._problem = "it is being opened"

    def start(self) -> None:
        """Start the thread that opens the store."""
        threading.Thread(target=self._open, name="store", daemon=True).start()

    def stop(self) -> None:
        """Stop the attempts to open the store."""
        self._stopping.set()

    @property
    def id(self) -> str:
        """The id of the store; empty until it is open."""
        return self._store.id if self._store else ""

    def store(self) -> Store:
        """Return the store, after waiting up to OPEN_LIMIT_S for the first attempt to open it.

        Raises StoreError if no attempt has succeeded yet.
        """
        self._attempted.wait(OPEN_LIMIT_S)
        if self._store is None:
            raise StoreError(f"this worker's segment store cannot be used ({self._problem}); correct VOXSPOOL_STORE")
        return self._store

    def _open(self) -> None:
        """Try to open the store until it succeeds: the body of the thread."""
        while not self._stopping.is_set():
            try:
                self._store = Store(self._place)
            except (VoxspoolError, OSError, ValueError, KeyError) as error:
                self._note(f"{type(error).__name__}: {error}")
            self._attempted.set()
            if self._store:
                return
            self._stopping.wait(REOPEN_S)

    def _note(self, problem: str) -> None:
        """Store the reason why the store is not open, and log it if it is a new one."""
        if problem != self._problem:
            log.warning("store.away error=%s", problem)
        self._problem = problem


def retry_store(act: Callable[[], _Result], wait: Callable[[float], object]) -> _Result:
    """Call `act`, which uses the store, and return its result; retry with backoff: remote stores fail now and then.

    `wait` waits for the number of seconds that it receives. Raises StoreError if the last attempt fails, too.
    """
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return act()
        except (StoreError, OSError) as error:
            log.warning("store.away error=%s", error)
            if wait_s is None:
                raise StoreError(f"the segment store failed ({error}); repair it, and narrate again") from error
            wait(wait_s)
    raise AssertionError
