"""The choice of device, precision and number of rows: made once per process, from the settings and the machine.

| device | GPT decoder | precision | vocoder | conditioning |
|---|---|---|---|---|
| cpu | cpu_decoder.c; PyTorch without a compiler | int8, bf16, fp32 | bf16 if the processor has it, else fp32 | cpu |
| cuda | PyTorch, one CUDA graph per pair of sizes | bf16, fp32 | as the GPT | cpu |
| mps | PyTorch, fixed sizes | fp32, bf16 | fp32 | cpu |

Conditioning is computed on the CPU everywhere: it is needed once per voice and then cached, and MPS lacks some of its
operators.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

import torch

from voxspool.errors import SettingsError

Precision = Literal["fp32", "bf16", "int8"]

AUTO_PRECISION: Final[dict[str, Precision]] = {"cpu": "int8", "cuda": "bf16", "mps": "fp32"}
"""Device -> the precision that `auto` means."""
ROWS: Final = {"cpu": 16, "cuda": 64, "mps": 8}
"""Device -> rows of the batch.

Measured on two cores: 16 rows generate 90 % of the tokens per second that 32 rows do, and a step takes half as long.
"""


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """Where and how XTTS computes."""

    device: str
    precision: Precision
    reason: str
    """The device and precision, and which of them `auto` chose, as text for the log."""
    rows: int
    threads: int
    """Number of threads of the CPU decoder."""
    vocoder: torch.dtype

    @property
    def torch_device(self) -> torch.device:
        """The device as a PyTorch object."""
        return torch.device(self.device)


def plan(device: str = "auto", precision: str = "auto") -> DevicePlan:
    """Return the plan for a device and a precision of the settings.

    Raises SettingsError if the machine lacks the device or the device lacks the precision.
    """
    found = _device(device)
    chosen = AUTO_PRECISION[found] if precision == "auto" else precision
    if chosen == "int8" and found != "cpu":
        raise SettingsError(
            f"VOXSPOOL_PRECISION is int8, which only the CPU supports; on {found} set it to bf16, fp32 or auto"
        )
    reason = (
        f"device {found}{' (auto)' if device == 'auto' else ''}, "
        f"precision {chosen}{' (auto)' if precision == 'auto' else ''}"
    )
    return DevicePlan(found, chosen, reason, ROWS[found], cores(), _vocoder_dtype(found, chosen))  # type: ignore[arg-type] # one of PRECISIONS, by Settings


def _device(wanted: str) -> str:
    """Return the wanted device, or for `auto` the fastest one of this machine."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, found in available.items() if found)
    if not available[wanted]:
        names = " and ".join(name for name, found in available.items() if found)
        raise SettingsError(
            f"VOXSPOOL_DEVICE is {wanted}, but PyTorch finds no such device (available: {names}); set it to auto"
        )
    return wanted


def _vocoder_dtype(device: str, precision: str) -> torch.dtype:
    """Return the vocoder's dtype: fp32 with an fp32 GPT, and where bf16 would be emulated; else bf16."""
    if precision == "fp32" or device == "mps":
        return torch.float32
    if device == "cuda" or _has_bf16():
        return torch.bfloat16
    return torch.float32


def _has_bf16() -> bool:
    """Return whether this processor has bf16 instructions. Without them, bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
