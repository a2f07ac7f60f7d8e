"""Remember the shared keys of Redis that this worker cannot use, because another program wrote another type there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)


class SpoiltKeys:
    """The spoilt keys that the parts of a worker have found. Any thread may call it.

    Each key is logged when it is found and when it is repaired, not at each look: some are looked at every second.
    """

    def __init__(self) -> None:
        self._found: dict[str, frozenset[str]] = {}
        """Part of the worker -> what it found at its last look, each as a sentence."""

    @property
    def all(self) -> list[str]:
        """What all parts found, sorted: sentences such as `rq:queue:a is a string, not a list`."""
        return sorted(frozenset().union(*self._found.values()))

    def report(self, part: str, found: Iterable[str]) -> None:
        """Replace what a part of the worker found at its last look."""
        before, now = self._found.get(part, frozenset()), frozenset(found)
        if before == now:
            return
        known = set(self.all)
        self._found[part] = now
        for sentence in sorted(now - known):
            log.error("redis.spoilt %s: the worker goes on without it; delete or rename it", sentence)
        for sentence in sorted(before - set(self.all)):
            log.info("redis.repaired %s: no more", sentence)
