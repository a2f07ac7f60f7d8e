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
SIDE: Final = 2048
"""Of the square matrices that are multiplied."""
TRIES: Final = 5


def limits() -> dict[str, Any]:
    """Measure; seconds."""
    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    return {
        "read_gb_s": READ_BYTES / 1e9 / _best_s(numbers.sum),
        "gflops_fp32": _gflops(torch.float32),
        "gflops_bf16": _gflops(torch.bfloat16),
        "threads": torch.get_num_threads(),
    }


def _gflops(dtype: torch.dtype) -> float:
    """Measure a product of matrices."""
    one = torch.randn(SIDE, SIDE, dtype=dtype)
    return 2 * SIDE**3 / 1e9 / _best_s(lambda: one @ one)


def _best_s(work: Callable[[], object]) -> float:
    """Give the shortest time of a few."""
    work()
    took = []
    for _ in range(TRIES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)
