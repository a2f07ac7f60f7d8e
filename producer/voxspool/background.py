"""Run a call in its own thread, because no timeout of a socket limits it: looking up a name, trying many addresses."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def start(act: Callable[[], T]) -> Future[T]:
    """Call `act` in a thread and return its outcome to come. Nobody has to wait for it, not even the program's end."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
            future.set_exception(error)

    threading.Thread(target=run, name="voxspool-background", daemon=True).start()
    return future
