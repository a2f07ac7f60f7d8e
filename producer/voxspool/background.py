"""Calls in separate threads, for waits that no socket timeout limits: looking up a name, trying several addresses."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def start(act: Callable[[], T]) -> Future[T]:
    """Call `act` in a daemon thread and return the future of its result. The program may end without waiting for it."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001 - reading the future's result raises it
            future.set_exception(error)

    threading.Thread(target=run, name="voxspool-background", daemon=True).start()
    return future
