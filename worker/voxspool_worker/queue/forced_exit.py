"""End the process some seconds after its second SIGTERM or Ctrl-C, even if its main thread hangs.

Python runs signal handlers in the main thread, between two steps of it. While that thread waits in a system call that
does not return, such as a read from a dead mount, no handler runs. But Python's C code notes each signal in a file
descriptor, from which a thread can read it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Final

from voxspool_worker.queue.lifecycle import EXIT_ENGINE_LOST

log = logging.getLogger(__name__)

FORCED_EXIT_S: Final = 15.0
"""Time after the second signal in which the worker may hand its jobs back, in seconds. It needs three, unless Redis
does not answer."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def end_after_second_signal() -> None:
    """Start the thread that ends the process. Call it in the main thread."""
    reading, writing = socket.socketpair()
    writing.settimeout(0)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_end, args=(reading,), name="forced-exit", daemon=True).start()


def _end(reading: socket.socket) -> None:
    """Wait for two signals, then for FORCED_EXIT_S, and end the process: the body of the thread."""
    signals = 0
    while signals < 2:
        signals += sum(number in _SIGNALS for number in reading.recv(64))
    time.sleep(FORCED_EXIT_S)
    log.error("worker.forced seconds=%g: a thread hangs, the process ends without it", FORCED_EXIT_S)
    os._exit(EXIT_ENGINE_LOST)
