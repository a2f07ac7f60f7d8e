"""The worker's segment store, opened in a thread of its own because it may be remote; retried until it can be opened.

A worker whose store cannot be opened still speaks the jobs that do not need it.
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

AGAIN_S: Final = 30.0
"""How long after a failure the store is tried again, in seconds."""
PATIENCE_S: Final = 10.0
"""How long a chapter waits for a store that is being opened, in seconds."""
WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before something that the store refused is tried again, in seconds; then it is given up."""

_Given = TypeVar("_Given")


class StoreHandle:
    """Where a worker's store is, or why it is not there."""

    def __init__(self, place: str | Path) -> None:
        """Prepare; nothing is opened before `start`."""
        self._place = place
        self._tried = threading.Event()
        self._quit = threading.Event()
        self._store: Store | None = None
        self._why = "it is being opened"

    def start(self) -> None:
        """Begin to open the store."""
        threading.Thread(target=self._open, name="store", daemon=True).start()

    def stop(self) -> None:
        """Try no more."""
        self._quit.set()

    @property
    def id(self) -> str:
        """The store's id; empty where there is none yet."""
        return self._store.id if self._store else ""

    def store(self) -> Store:
        """Return the store. Raises StoreError where it could not be opened so far."""
        self._tried.wait(PATIENCE_S)
        if self._store is None:
            raise StoreError(f"this worker's segment store cannot be used ({self._why}); correct VOXSPOOL_STORE")
        return self._store

    def _open(self) -> None:
        """Open it, as often as it takes: the body of the thread."""
        while not self._quit.is_set():
            try:
                self._store = Store(self._place)
            except (VoxspoolError, OSError, ValueError, KeyError) as error:
                why, self._why = self._why, f"{type(error).__name__}: {error}"
                if why != self._why:
                    log.warning("store.away error=%s", self._why)
            self._tried.set()
            if self._store:
                return
            self._quit.wait(AGAIN_S)


def patiently(act: Callable[[], _Given], wait: Callable[[float], object]) -> _Given:
    """Do something with the store, and again where it fails: one far away does at times.

    `wait` spends seconds. Raises StoreError where the store fails to the end.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return act()
        except (StoreError, OSError) as error:
            log.warning("store.away error=%s", error)
            if wait_s is None:
                raise StoreError(f"the segment store refuses ({error}); see to it, and narrate again") from error
            wait(wait_s)
    raise AssertionError
