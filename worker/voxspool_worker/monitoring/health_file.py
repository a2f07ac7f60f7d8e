"""Write and read the health files of workers; `voxspool-worker health` reads them for a supervisor.

A worker writes its file every few seconds while it is healthy. A file that is too old means that the worker is not
healthy, even if the process can no longer report anything. Times come from the machine's monotonic clock, which all
processes share: a change of the system time does not make a worker look unhealthy.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from voxspool.errors import SettingsError
from voxspool.files.atomic_file import write_whole
from voxspool.protocol.numbers import count_or_zero

if TYPE_CHECKING:
    from collections.abc import Callable

STALE_S: Final = 30.0
"""Age of a health file from which its worker is unhealthy, in seconds: ten heartbeats."""
SUFFIX: Final = ".worker"
LARGEST_PID: Final = 2**31 - 1
"""The largest process id that C's pid_t holds on Linux and macOS; psutil raises OverflowError above it."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The content of a health file, and its age."""

    name: str
    pid: int
    age_s: float
    said: str
    written_s: float = 0.0
    """How long ago Redis last accepted a heartbeat, in seconds: one changes keys in Redis."""

    @property
    def healthy(self) -> bool:
        """Return whether the worker is healthy."""
        return self.age_s < STALE_S and not self.redis_refuses

    @property
    def redis_refuses(self) -> bool:
        """Return whether Redis has accepted no heartbeat for STALE_S: it is away, full, or no longer the primary."""
        return self.written_s >= STALE_S


class HealthFile:
    """A worker's own file: `<pid>.worker` in a folder that other users cannot write to."""

    def __init__(self, folder: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the folder if it does not exist. Raises SettingsError if it cannot be used."""
        self._folder = _made(folder)
        self._path = self._folder / f"{os.getpid()}{SUFFIX}"
        self._name = name
        self._clock = clock

    def write(self, said: str, beat_at: float | None = None) -> None:
        """Write that the worker is healthy, and what it does. Ignore errors: a full disk must not end the worker."""
        now = self._clock()
        sign = {"name": self._name, "at": now, "said": said, "beat_at": now if beat_at is None else beat_at}
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # another worker may just have removed it
            write_whole(self._path, json.dumps(sign).encode(), sync=False)

    def remove(self) -> None:
        """Remove the file, and the folder if it is empty."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._folder.rmdir()


def default_folder() -> Path:
    """Return the default folder of the health files of this user's workers."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"voxspool-health-{user}"


def signs(folder: Path, clock: Callable[[], float] = time.monotonic) -> list[Sign]:
    """Return the signs of all running workers; remove the files of processes that have ended."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        pid = count_or_zero(path.stem)
        if not 0 < pid <= LARGEST_PID or not psutil.pid_exists(pid):
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            sign = json.loads(path.read_text(encoding="utf-8"))
            now, at = clock(), float(sign["at"])
            written_s = now - float(sign.get("beat_at", now))  # a worker of an earlier version writes no such time
            found.append(Sign(str(sign["name"]), pid, now - at, str(sign["said"]), written_s))
    return found


def _made(folder: Path) -> Path:
    """Create a folder that only this user can write to, and return it.

    Raises SettingsError if it belongs to another user, who could fake the health of a worker.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners = {folder.stat().st_uid, folder.lstat().st_uid}  # a link, too, may be somebody else's
    except OSError as error:
        raise SettingsError(f"VOXSPOOL_HEALTH_DIR: cannot use {folder}: {error.strerror or error}") from error
    if hasattr(os, "getuid") and not owners <= {os.getuid(), 0}:
        raise SettingsError(f"VOXSPOOL_HEALTH_DIR: {folder} belongs to another user; name a folder of your own")
    return folder
