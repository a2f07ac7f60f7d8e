"""How the CPU time of something grows with its input: a ratio, which holds on a fast machine and on a busy one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3


def growth(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Return how many times the CPU time of `small` the call `large` takes.

    The two alternate, and each counts with its fastest round: other work on the same cores makes a call slower, never
    faster.
    """
    taken_s: dict[Callable[[], object], list[float]] = {small: [], large: []}
    for _ in range(ROUNDS):
        for act, rounds_s in taken_s.items():
            begun_s = time.process_time()
            act()
            rounds_s.append(time.process_time() - begun_s)
    return min(taken_s[large]) / min(taken_s[small])
