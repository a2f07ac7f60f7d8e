"""When a reader reports how far it is, and whether it must: for jobs that are live, or have a window.

It decides the moment and understands the script's reply; it does no I/O, so the asyncio reader shares it.
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
"""How often a reader says so, in seconds; the shortest time that a live job waits for it is five of them."""
NOTED: Final = b"noted"


@cache
def script() -> str:
    """Return ack.lua."""
    return (files("voxspool.lua") / "ack.lua").read_text(encoding="utf-8")


class Acknowledgement:
    """One reader's turn. It ends where the job does not ask or is over, and where Redis forbids it."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._clock = clock
        self._due = clock() + EVERY_S
        self._wanted = True
        self.pos = 0
        """Up to which sample the reader has read."""

    @property
    def due(self) -> bool:
        """Whether it is time to say so."""
        return self._wanted and self._clock() >= self._due

    @property
    def call(self) -> dict[str, Any]:
        """The keys and arguments of the script."""
        return {
            "keys": [keys.control(self._job), keys.acknowledged(self._job)],
            "args": [self.pos, keys.ACKNOWLEDGED_TTL_S],
        }

    def heard(self, said: bytes) -> None:
        """Take the script's word."""
        self._due = self._clock() + EVERY_S
        self._wanted = said == NOTED

    def forbidden(self) -> None:
        """Take note that this reader may only read."""
        self._wanted = False
