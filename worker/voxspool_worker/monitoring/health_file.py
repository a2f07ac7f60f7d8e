"""The health file of a worker, and what reads it: `voxspool-worker health`, for a supervisor.

A worker writes its file every few seconds while it is healthy. A file that is too old means that the worker is not
healthy, even if the process can no longer report anything. Times come from the machine's monotonic clock, which all
processes share, so setting the clock makes no worker look unhealthy.
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

from voxspool.atomic_file import write_whole
from voxspool.errors import SettingsError
from voxspool.protocol.numbers import count_or_zero

if TYPE_CHECKING:
    from collections.abc import Callable

STALE_S: Final = 30.0
"""A worker that has not written for this many seconds is unhealthy: ten heartbeats."""
SUFFIX: Final = ".worker"
LARGEST_PID: Final = 2**31 - 1
"""The largest process id that C's pid_t holds on Linux and macOS; psutil raises OverflowError above it."""


@dataclass(frozen=True, slots=True)
class Sign:
    """A worker's last sign of life."""

    name: str
    pid: int
    age_s: float
    said: str

    @property
    def healthy(self) -> bool:
        """Return whether the worker is healthy."""
        return self.age_s < STALE_S


class HealthFile:
    """A worker's own file: `<pid>.worker` in a folder that other users cannot write to."""

    def __init__(self, folder: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the folder, if need be. Raises SettingsError where it cannot be used."""
        self._folder = _made(folder)
        self._path = self._folder / f"{os.getpid()}{SUFFIX}"
        self._name = name
        self._clock = clock

    def write(self, said: str) -> None:
        """Write that the worker is healthy, and what it does. A full disk is no reason to stop speaking."""
        sign = {"name": self._name, "at": self._clock(), "said": said}
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the last worker may just have left
            write_whole(self._path, json.dumps(sign).encode(), sync=False)

    def remove(self) -> None:
        """Leave nothing behind: the last one takes the folder with it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._folder.rmdir()


def default_folder() -> Path:
    """Return the folder of this user's workers."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"voxspool-health-{user}"


def signs(folder: Path, clock: Callable[[], float] = time.monotonic) -> list[Sign]:
    """Return the last signs of the workers that run, by process id; forget those of processes that are gone."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        pid = count_or_zero(path.stem)
        if not 0 < pid <= LARGEST_PID or not psutil.pid_exists(pid):
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            sign = json.loads(path.read_text(encoding="utf-8"))
            found.append(Sign(str(sign["name"]), pid, clock() - float(sign["at"]), str(sign["said"])))
    return found


def _made(folder: Path) -> Path:
    """Make a folder that is ours alone; refuse one that another user made, who could say that we live."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise SettingsError(f"VOXSPOOL_HEALTH_DIR: cannot use {folder}: {error.strerror or error}") from error
    if hasattr(os, "getuid") and owner not in (os.getuid(), 0):
        raise SettingsError(f"VOXSPOOL_HEALTH_DIR: {folder} belongs to another user; name a folder of your own")
    return folder
