"""What runs where, and in which precision: one plan a process, made once, from what was asked for and what is there.

| device | layers of the GPT | precision | vocoder | conditioning |
|---|---|---|---|---|
| cpu | cpu_decoder.c; PyTorch without a compiler | int8, bf16, fp32 | bf16 if the processor has it, else fp32 | cpu |
| cuda | PyTorch, a CUDA graph for each shape | bf16, fp32 | as the GPT | cpu |
| mps | PyTorch, fixed shapes | fp32, bf16 | fp32 | cpu |

Conditioning is computed on the CPU everywhere: once for a voice, then cached, and MPS lacks operators of it. Knows no
weights and no model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

import torch

from voxspool.errors import SettingsError

Precision = Literal["fp32", "bf16", "int8"]

AUTO_PRECISION: Final[dict[str, Precision]] = {"cpu": "int8", "cuda": "bf16", "mps": "fp32"}
ROWS: Final = {"cpu": 16, "cuda": 64, "mps": 8}
"""Rows of the batch. On two cores 16 rows give 90 % of the tokens a second that 32 do, at half the wait for a step."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where."""

    device: str
    precision: Precision
    why: str
    """What `auto` decided, for people."""
    rows: int
    threads: int
    """Of the native decoder."""
    vocoder: torch.dtype

    @property
    def torch_device(self) -> torch.device:
        """The device as PyTorch names it."""
        return torch.device(self.device)


def plan(device: str = "auto", precision: str = "auto") -> Plan:
    """Decide. Raises SettingsError for a device that is not here, and for a precision that it does not have."""
    found = _device(device)
    chosen = AUTO_PRECISION[found] if precision == "auto" else precision
    if chosen == "int8" and found != "cpu":
        raise SettingsError(f"VOXSPOOL_PRECISION is int8, which only a CPU has; on {found} take bf16 or fp32, or auto")
    said = [f"device {found}{' (auto)' if device == 'auto' else ''}"]
    said.append(f"precision {chosen}{' (auto)' if precision == 'auto' else ''}")
    return Plan(found, chosen, ", ".join(said), ROWS[found], cores(), _vocoder_dtype(found, chosen))  # type: ignore[arg-type] # one of PRECISIONS, by Settings


def _device(wanted: str) -> str:
    """Choose the fastest device that is here, or the one that was asked for."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, there in here.items() if there)
    if not here[wanted]:
        there = " and ".join(name for name, is_there in here.items() if is_there)
        raise SettingsError(f"VOXSPOOL_DEVICE is {wanted}, and PyTorch finds none here (there is: {there}); take auto")
    return wanted


def _vocoder_dtype(device: str, precision: str) -> torch.dtype:
    """Choose the vocoder's precision: exact with an exact GPT; bf16 where that is computed and not emulated."""
    if precision == "fp32" or device == "mps":
        return torch.float32
    if device == "cuda" or _has_bf16():
        return torch.bfloat16
    return torch.float32


def _has_bf16() -> bool:
    """Whether this processor multiplies bf16: without, it is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
