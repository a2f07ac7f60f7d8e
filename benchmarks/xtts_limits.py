"""What this machine could do at the most: bytes read a second, and multiplications a second.

A token of one row reads all of the weights once, so bandwidth bounds it; many rows share the reading, so arithmetic
bounds them. Each is the best of a few tries: other programs only ever take away.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES: Final = 1 << 30
"""Far more than any cache."""
SMALLEST_SIDE: Final = 256
LARGEST_SIDE: Final = 2048
"""Of the square matrices that are multiplied, in rows."""
ENOUGH_S: Final = 0.05
"""A product that takes so long is measured well enough, in seconds. A processor without instructions for bf16 needs
half a minute for the largest."""
TRIES: Final = 5


def limits() -> dict[str, Any]:
    """Measure this machine. It takes seconds."""
    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    return {
        "read_gb_s": READ_BYTES / 1e9 / _best_s(numbers.sum),
        "gflops_fp32": _gflops(torch.float32),
        "gflops_bf16": _gflops(torch.bfloat16),
        "threads": torch.get_num_threads(),
    }


def _gflops(dtype: torch.dtype) -> float:
    """Measure a product of matrices: of the largest, or of the first that takes long enough."""
    side = SMALLEST_SIDE
    while True:
        one = torch.randn(side, side, dtype=dtype)
        took_s = _best_s(lambda one=one: one @ one)
        if took_s >= ENOUGH_S or side == LARGEST_SIDE:
            return 2 * side**3 / 1e9 / took_s
        side *= 2


def _best_s(work: Callable[[], object]) -> float:
    """Return the shortest time of a few tries, in seconds."""
    work()
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)
