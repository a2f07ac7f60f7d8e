"""Measure how CPU time grows with the input. The result is a ratio, so it does not depend on the machine's speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3


def growth(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Return the CPU time of `large` divided by the CPU time of `small`.

    The calls alternate, and the fastest round of each counts, because other work on the cores only adds time.
    """
    taken_s: dict[Callable[[], object], list[float]] = {small: [], large: []}
    for _ in range(ROUNDS):
        for act, rounds_s in taken_s.items():
            begun_s = time.process_time()
            act()
            rounds_s.append(time.process_time() - begun_s)
    return min(taken_s[large]) / min(taken_s[small])
