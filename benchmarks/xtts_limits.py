"""Measure the hardware limits of this machine: memory bandwidth and floating-point operations per second.

A step with one row reads all weights once, so memory bandwidth limits it. With many rows, the weights are read once for
all of them, and arithmetic is the limit. Each result is the best of several attempts, because other programs can only
slow an attempt down.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES: Final = 1 << 30
"""Size of the memory that is read: much larger than any cache."""
MIN_SIZE: Final = 256
MAX_SIZE: Final = 2048
"""Smallest and largest square matrices that are multiplied, in rows."""
ENOUGH_S: Final = 0.05
"""Duration of a matrix product that is long enough for a precise result, in seconds. It ends the search for a size.

A processor without bf16 instructions would need half a minute for the largest matrices.
"""
ATTEMPTS: Final = 5


def limits() -> dict[str, Any]:
    """Return bandwidth (GB/s), speed (GFLOP/s) in fp32 and bf16, and PyTorch's threads. Takes seconds."""
    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    return {
        "read_gb_s": READ_BYTES / 1e9 / _best_s(numbers.sum),
        "gflops_fp32": _gflops(torch.float32),
        "gflops_bf16": _gflops(torch.bfloat16),
        "threads": torch.get_num_threads(),
    }


def _gflops(dtype: torch.dtype) -> float:
    """Return the speed of a matrix product in GFLOP/s, at the first size that takes ENOUGH_S or at the largest size."""
    size = MIN_SIZE
    while True:
        matrix = torch.randn(size, size, dtype=dtype)
        elapsed_s = _best_s(lambda matrix=matrix: matrix @ matrix)
        if elapsed_s >= ENOUGH_S or size == MAX_SIZE:
            return 2 * size**3 / 1e9 / elapsed_s
        size *= 2


def _best_s(work: Callable[[], object]) -> float:
    """Return the shortest time of ATTEMPTS calls, in seconds. One more call before them is not measured."""
    work()
    times = []
    for _ in range(ATTEMPTS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
