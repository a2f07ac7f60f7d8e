"""The decoder on a CPU: `cpu_decoder.c`, compiled on this machine for this machine, once, and called by ctypes.

Knows how to find a compiler, keep what it made, and hand tensors to C. What is computed stands in cpu_decoder.c, and in
torch_decoder.py in PyTorch, which is what serves where there is no compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights

log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_name("cpu_decoder.c")
COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-O3", "-shared", "-fPIC", "-pthread", "-std=gnu11", "-Wno-psabi")
NATIVE: Final = {"x86_64": "-march=native", "AMD64": "-march=native"}
"""What says "for this very machine"; elsewhere it is -mcpu=native."""
COMPILE_S: Final = 120
PRECISIONS: Final = {"fp32": 0, "bf16": 1, "int8": 2}
"""As cpu_decoder.c numbers them."""
CALL_TOKENS: Final = 64
"""Tokens in a call at the most: a longer prompt goes in parts. More makes a prompt no faster."""


class NoCompilerError(Exception):
    """The decoder cannot be compiled here; the message says why."""


def compiled(folder: Path) -> Path:
    """Return the compiled decoder, made in `folder` if it is not there yet (2 s).

    Raises NoCompilerError. Its name holds the source, the flags and the processor: a change of either makes a new one.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NoCompilerError(f"there is no C compiler ({', '.join(COMPILERS)}) on PATH")
    flags = (*FLAGS, NATIVE.get(platform.machine(), "-mcpu=native"))
    made = folder / f"decoder-{_fingerprint(flags)}.so"
    if not made.exists():
        _compile([compiler, *flags, str(SOURCE), "-lm"], made)
    return made


def _fingerprint(flags: Sequence[str]) -> str:
    """Name what the compiled file depends on."""
    digest = hashlib.blake2s(SOURCE.read_bytes(), digest_size=8)
    digest.update(" ".join((*flags, platform.system(), platform.machine(), _processor())).encode())
    return digest.hexdigest()


def _processor() -> str:
    """Name the processor and what it can do; a folder of caches may be shared by machines."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:  # noqa: PTH123
        return "".join(sorted({line for line in info if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor()


def _compile(command: Sequence[str], made: Path) -> None:
    """Compile under another name first: workers that start together never load half a file."""
    try:
        made.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            fresh = Path(folder) / made.name
            subprocess.run(  # noqa: S603 - a compiler from PATH, on a source of ours
                [*command, "-o", str(fresh)], check=True, capture_output=True, text=True, timeout=COMPILE_S
            )
            os.replace(fresh, made)  # noqa: PTH105 - atomic, and over one that another worker made meanwhile
    except subprocess.CalledProcessError as error:
        raise NoCompilerError(f"{command[0]} failed: {_first_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCompilerError(f"cannot compile into {made.parent}: {error}") from error
    log.info("kernel.compiled file=%s", made)


def _first_line(said: str) -> str:
    """Return the first line that says what is wrong."""
    lines = [line for line in said.splitlines() if "error" in line] or said.splitlines() or ["it said nothing"]
    return lines[0]


class NativeDecoder:
    """The GPT with room for a number of rows. One thread calls it.

    Every method that takes a position counts from the row's first.
    """

    device = torch.device("cpu")

    def __init__(
        self, library: Path, weights: GptWeights, *, rows: int, positions: int, precision: str, threads: int
    ) -> None:
        """Pack the weights (half a second for XTTS v2 in int8). Raises MemoryError."""
        self._c = _load(library)
        self._width = weights.width
        self._handle: int | None = self._c.vx_create(
            len(weights.blocks), weights.width, rows, positions, PRECISIONS[precision], CALL_TOKENS, threads
        )
        if not self._handle:
            raise MemoryError("no memory for the decoder")
        self._pack(weights)

    def _pack(self, weights: GptWeights) -> None:
        """Hand the weights over, layer by layer."""
        for number, block in enumerate(weights.blocks):
            for which, norm in enumerate(block.norms):
                self._set_norm(number, which, norm.gain, norm.bias)
            for which, linear in enumerate(block.linears):
                weight, bias = _floats(linear.weight), _floats(linear.bias)
                _check(self._c.vx_set_linear(self._handle, number, which, _at(weight), _at(bias), *weight.shape))
        for which, norm in enumerate((weights.norm_gpt, weights.norm_final)):
            self._set_norm(len(weights.blocks), which, norm.gain, norm.bias)

    def _set_norm(self, layer: int, which: int, gain: Tensor, bias: Tensor) -> None:
        gain, bias = _floats(gain), _floats(bias)
        _check(self._c.vx_set_norm(self._handle, layer, which, _at(gain), _at(bias)))

    def prompt(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Take embeddings (n, width) from position `first` on; give the last one's latent (width,)."""
        count = len(embeddings)
        places = np.arange(first, first + count, dtype=np.int32)
        latents = torch.empty(0)
        for start in range(0, count, CALL_TOKENS):
            part = slice(start, start + CALL_TOKENS)
            latents = self._forward(embeddings[part], np.full(len(places[part]), row, np.int32), places[part])
        return latents[-1]

    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Take one embedding for each of these rows (b, width), each at its position; give latents (b, width)."""
        row_index, places = np.asarray(rows, np.int32), np.asarray(positions, np.int32)
        parts = [slice(start, start + CALL_TOKENS) for start in range(0, len(row_index), CALL_TOKENS)]
        return torch.cat([self._forward(embeddings[part], row_index[part], places[part]) for part in parts])

    def keep_prefix(self, row: int, positions: int) -> Tensor:
        """Return a row's first positions as bytes, for `take_prefix`."""
        kept = torch.empty(self._c.vx_prefix_bytes(self._handle, positions), dtype=torch.uint8)
        self._c.vx_copy_prefix(self._handle, row, positions, _at(kept), 0)
        return kept

    def take_prefix(self, row: int, positions: int, kept: Tensor) -> None:
        """Put them into a row: what `prompt` would have computed."""
        self._c.vx_copy_prefix(self._handle, row, positions, _at(kept), 1)

    def close(self) -> None:
        """Free the memory and end the threads."""
        if self._handle:
            self._c.vx_free(self._handle)
            self._handle = None

    def _forward(self, embeddings: Tensor, row_index: np.ndarray[tuple[int], np.dtype[np.int32]],
                 places: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Tensor:  # fmt: skip
        embeddings, row_index, places = (
            _floats(embeddings),
            np.ascontiguousarray(row_index),
            np.ascontiguousarray(places),
        )
        latents = torch.empty_like(embeddings)
        self._c.vx_forward(
            self._handle, len(row_index), _at(embeddings), row_index.ctypes.data, places.ctypes.data, _at(latents)
        )
        return latents


def _floats(tensor: Tensor) -> Tensor:
    """Return it as C reads it; no copy where it is so already."""
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _at(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _check(done: int) -> None:
    if not done:
        raise MemoryError("no memory for the decoder's weights")


def _load(library: Path) -> ctypes.CDLL:
    """Load the compiled file and say what its functions take."""
    c = ctypes.CDLL(str(library))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "vx_create": (pointer, [number] * 7),
        "vx_free": (None, [pointer]),
        "vx_set_norm": (number, [pointer, number, number, pointer, pointer]),
        "vx_set_linear": (number, [pointer, number, number, pointer, pointer, number, number]),
        "vx_forward": (None, [pointer, number, pointer, pointer, pointer, pointer]),
        "vx_prefix_bytes": (ctypes.c_int64, [pointer, number]),
        "vx_copy_prefix": (None, [pointer, number, number, pointer, number]),
    }
    for name, (gives, takes) in signatures.items():
        function = getattr(c, name)
        function.restype, function.argtypes = gives, takes
    return c
