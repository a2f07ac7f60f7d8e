"""Run the real `voxspool-worker` with a segment store on a disk that may go away: then no system call returns.

    python hanging_store.py run --engine tone …

HANGING_STORE names a file. While it exists, each access of the worker to its store waits in a system call, as on a
mount whose server is dead: a read from a pipe that nobody writes to. If it exists at the start, the main thread hangs.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


LIMIT_S = 3.0
"""The limit of an access in this worker, in seconds, so that tests need not wait."""


def main() -> None:
    from voxspool.store import backends, bounded
    from voxspool_worker.cli import main as worker
    from voxspool_worker.queue import forced_exit
    from voxspool_worker.queue import worker as module

    forced_exit.FORCED_EXIT_S = LIMIT_S  # type: ignore[misc]
    bounded.CALL_LIMIT_S = LIMIT_S  # type: ignore[misc] # mypy forbids assigning to constants
    gone = Path(os.environ["HANGING_STORE"])
    dead, _ = os.pipe()

    def hang(_: object) -> None:
        logging.getLogger().info("hanging")
        os.read(dead, 1)

    def hanging(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: object, *arguments: Any) -> Any:  # noqa: ANN401 - any method's
            if gone.exists():
                os.read(dead, 1)
            return method(self, *arguments)

        return call

    if gone.exists():
        module.warm_up = hang  # type: ignore[assignment]
    for name in ("get", "size_bytes", "put", "create"):
        setattr(backends._FolderBackend, name, hanging(getattr(backends._FolderBackend, name)))
    worker(prog_name="voxspool-worker")


if __name__ == "__main__":
    main()
