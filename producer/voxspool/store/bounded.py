"""A time limit for every access to a segment store: a dead mount or a remote store may never answer.

An access runs in a thread of its own, because nothing can interrupt a system call that waits for a disk. If it does not
return in time, the caller gets a StoreError, and so does everybody else until it returns: a store that hangs must not
take a thread for each attempt. The threads do not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from voxspool.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool.store.backends import Backend

CALL_LIMIT_S: Final = 20.0
"""Longest access to a store, in seconds: a segment has some 100 kB. It is below the time after which a worker ends
itself because a cancelled job does not react."""
_MOST_IDLE: Final = 64
"""Threads that wait for the next access; a chapter looks up 16 segments at once."""

_Result = TypeVar("_Result")


class BoundedBackend:
    """A backend whose methods return, or raise StoreError, within CALL_LIMIT_S."""

    def __init__(self, place: Backend) -> None:
        self._place = place
        self._threads = _Threads()
        self._hanging: tuple[Future[Any], float] | None = None
        """An access that did not return in time, and when it began, by the monotonic clock."""

    def __str__(self) -> str:
        return str(self._place)

    @property
    def settle_s(self) -> float:
        """The time for which two writers that create the same object may both get True, in seconds."""
        return self._place.settle_s

    def get(self, name: str, most_bytes: int) -> bytes | None:
        """See Backend."""
        return self._within(lambda: self._place.get(name, most_bytes))

    def size_bytes(self, name: str) -> int | None:
        """See Backend."""
        return self._within(lambda: self._place.size_bytes(name))

    def put(self, name: str, data: bytes) -> None:
        """See Backend."""
        self._within(lambda: self._place.put(name, data))

    def create(self, name: str, data: bytes) -> bool:
        """See Backend."""
        return self._within(lambda: self._place.create(name, data))

    def prepare(self) -> None:
        """See Backend."""
        self._within(self._place.prepare)

    def tidy(self) -> None:
        """See Backend. It may take longer than other accesses: nobody needs it."""
        with suppress(TimeoutError):
            self._threads.start(self._place.tidy).result(CALL_LIMIT_S)

    def _within(self, act: Callable[[], _Result]) -> _Result:
        """Return the result of an access. Raises StoreError if it takes too long, or if an earlier one still hangs."""
        began = time.monotonic()
        if (hanging := self._hanging) and not hanging[0].done():
            raise self._no_answer(began - hanging[1])
        future = self._threads.start(act)
        try:
            return future.result(CALL_LIMIT_S)
        except TimeoutError:
            if future.done():
                return future.result()
            self._hanging = (future, began)
            raise self._no_answer(CALL_LIMIT_S) from None

    def _no_answer(self, waited_s: float) -> StoreError:
        return StoreError(
            f"the segment store {self._place} has not answered for {waited_s:.0f} s; see that its disk or server is "
            "there, or name another place with VOXSPOOL_STORE"
        )


class _Threads:
    """Threads that call functions. A thread that returns is used again: reading a file is faster than starting one."""

    def __init__(self) -> None:
        self._idle: deque[_Thread] = deque()

    def start(self, act: Callable[[], _Result]) -> Future[_Result]:
        """Call `act` in a thread and return the future of its result."""
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = _Thread()
        future: Future[_Result] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = act()
            except BaseException as error:  # noqa: BLE001 - the future raises it
                self._free(thread)
                future.set_exception(error)
            else:
                self._free(thread)
                future.set_result(result)

        thread.calls.put(run)
        return future

    def _free(self, thread: _Thread) -> None:
        """Keep a thread for the next call; end it if there are enough."""
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(thread)
        else:
            thread.calls.put(None)

    def __del__(self) -> None:
        for thread in self._idle:
            thread.calls.put(None)


class _Thread:
    """A daemon thread that makes the calls in its queue, until None comes."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_make_calls, args=(self.calls,), name="store-access", daemon=True).start()


def _make_calls(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    """Make calls until None comes: the body of a thread. It does not refer to the owner of the queue."""
    while call := calls.get():
        call()
        del call  # the closure refers to the owner of the threads
