"""A Redis server whose clock a test sets, with libfaketime. The clocks of the workers and the monotonic clock stay."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import redis

from tests.support.processes import RedisServer, until

LIBRARY: Final = "faketime/libfaketimeMT.so.1"
"""The library in Debian's package faketime, below a folder of libraries."""
EXACT_S: Final = 5.0
"""The difference of two clocks that count as one, in seconds: less than a jump."""


@dataclass
class FakeClockServer(RedisServer):
    """A private redis-server whose clock can jump."""

    offset_s: int = 0

    def start(self) -> None:
        self._write()
        self.environ = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset_file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        super().start()

    def set_clock(self, seconds: int) -> None:
        """Set the clock of Redis forward, or back. Redis may reply with the former time once more."""
        self.offset_s += seconds
        self._write()

    def jump(self, seconds: int) -> None:
        """Set the clock of Redis forward, or back, and wait until it shows."""
        self.set_clock(seconds)
        with contextlib.closing(redis.Redis(port=self.port)) as client:
            until(lambda: abs(client.time()[0] - time.time() - self.offset_s) < EXACT_S, "the jump")

    @property
    def _offset_file(self) -> Path:
        return self.folder / "clock"

    def _write(self) -> None:
        """Write the offset in one step: Redis reads the file each time it reads its clock."""
        new = self._offset_file.with_suffix(".new")
        new.write_text(f"{self.offset_s:+d}s\n")
        new.replace(self._offset_file)


def library() -> Path:
    """Return the path of libfaketime; skip the test if it is not installed."""
    folders = itertools.chain(Path("/usr/lib").glob("*-linux-gnu"), [Path("/usr/lib"), Path("/usr/lib64")])
    for folder in folders:
        if (folder / LIBRARY).exists():
            return folder / LIBRARY
    pytest.skip("libfaketime is not installed: apt-get install faketime")
