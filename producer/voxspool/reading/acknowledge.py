"""When a reader reports its position, and whether it does: only for jobs that are live or have a window.

Here are the timing and the script's replies, without I/O. `follow` sends the report.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S: Final = 1.0
"""Interval of the reports, in seconds. A live job waits for at least five of them (jobs.MIN_LIVE_S)."""
NOTED: Final = b"noted"
"""The script's reply if the job asks for reports and is not over."""


@cache
def script() -> str:
    """Return ack.lua."""
    return (files("voxspool.lua") / "ack.lua").read_text(encoding="utf-8")


class Acknowledgement:
    """The reports of one reader. They stop if the job does not ask for them or is over, or if Redis forbids them."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self._due = clock() + EVERY_S
        self._wanted = True
        self.pos = 0
        """The number of samples that were read."""

    @property
    def due(self) -> bool:
        """True if the next acknowledgement is due."""
        return self._wanted and self._clock() >= self._due

    @property
    def call(self) -> dict[str, Any]:
        """The keys and arguments of the script, as register_script's object takes them."""
        return {
            "keys": [keys.control(self._job), keys.acknowledged(self._job)],
            "args": [self.pos, keys.ACKNOWLEDGED_TTL_S],
        }

    def heard(self, said: bytes) -> None:
        """Note the script's reply."""
        self._due = self._clock() + EVERY_S
        self._wanted = said == NOTED

    def postpone(self) -> None:
        """Note that Redis refused this report; the next one is due as usual."""
        self._due = self._clock() + EVERY_S

    def forbidden(self) -> None:
        """Note that this reader may not run the script."""
        self._wanted = False
