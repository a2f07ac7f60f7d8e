"""Find out at once that the process of a worker on this machine is gone; its leases show it only when they expire.

A process is named by its machine, its id and its start. The machine is this boot of the system, and on Linux the
namespace of process ids: in another container the same id is another process. The start tells whether the id was given
to a later process. Where any of this cannot be read, nothing is concluded, and leases decide.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import psutil

SYSTEM: Final = platform.system()
PROC: Final = Path("/proc")
DEAD: Final = "dead"
"""The start of a process that has ended and that its parent has not asked about yet."""
SYSCTL: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
"""The command that names this boot of macOS."""


def own_process() -> str:
    """Return the name of this process, as `is_gone` reads it; empty if this system does not tell."""
    machine, start = _machine(), _start(os.getpid())
    return f"{machine} {os.getpid()} {start}" if machine and start else ""


def is_gone(process: str) -> bool:
    """Return whether a named process has run on this machine and is gone. False for any text that names none."""
    machine, _, rest = process.partition(" ")
    pid, _, start = rest.partition(" ")
    if not machine or machine != _machine() or not (pid.isascii() and pid.isdigit() and int(pid)):
        return False
    try:
        os.kill(int(pid), 0)  # asks only; it finds processes of other users too, which /proc may hide
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    now = _start(int(pid))
    return now is not None and now != start


@functools.cache
def _machine() -> str:
    """Return a name for this boot of this machine, and its namespace of process ids; empty if the system has none."""
    try:
        if SYSTEM == "Linux":
            boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            return f"{boot}/{(PROC / 'self/ns/pid').stat().st_ino}"
        if SYSTEM == "Darwin":
            asked = subprocess.run(SYSCTL, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 - no input
            return asked.stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return ""


def _start(pid: int) -> str | None:
    """Return when a process started, in a form that never changes; DEAD for a zombie, None if it cannot be read.

    On Linux it is in ticks since the boot, from proc(5). psutil adds the time of the boot to it, which changes when
    somebody sets the clock.
    """
    try:
        if SYSTEM == "Linux":
            fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
            return DEAD if fields[0] in (b"Z", b"X") else fields[19].decode()
        found = psutil.Process(pid)
        return DEAD if found.status() == psutil.STATUS_ZOMBIE else repr(found.create_time())
    except (OSError, IndexError, psutil.Error):
        return None
