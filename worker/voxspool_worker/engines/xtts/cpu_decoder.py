"""The decoder on a CPU: `cpu_decoder.c`, compiled once on this machine for its processor, and called through ctypes.

This module finds a compiler, caches the compiled library, and passes tensors to C. Without a compiler, torch_decoder.py
computes the same in PyTorch.
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

from voxspool.files.atomic_file import PartialFile
from voxspool.files.private_files import FILE_MODE, make_private, tampering_fault
from voxspool_worker.engines.xtts.gpt import DecoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights

log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_name("cpu_decoder.c")
COMPILERS: Final = ("cc", "gcc", "clang")
FLAGS: Final = ("-O3", "-shared", "-fPIC", "-pthread", "-std=gnu11", "-Wno-psabi")
NATIVE_FLAGS: Final = {"x86_64": "-march=native", "AMD64": "-march=native"}
"""Architecture -> the compiler flag that enables all instructions of this processor; on others it is -mcpu=native."""
COMPILE_TIMEOUT_S: Final = 120
PRECISIONS: Final = {"fp32": 0, "bf16": 1, "int8": 2}
"""Precision -> its number in cpu_decoder.c."""
CALL_TOKENS: Final = 64
"""Maximum number of tokens in one call; longer prompts are split. A larger number does not make prompts faster."""
NO_MEMORY: Final = 1
"""The status of a call in cpu_decoder.c for which there is not enough memory; 0 is success."""
REFUSALS: Final = {
    2: "it is closed",
    3: "a size is outside its limits",
    4: "there is no such layer",
    5: "the width is not the model's",
    6: "the number of values is wrong",
    7: "there is no such row",
    8: "a position is outside the row, or not after those before it",
    9: "a weight is not set",
}
"""Status of a call that was refused in cpu_decoder.c -> the reason."""


class CompilationError(Exception):
    """The decoder cannot be compiled on this machine; the message contains the reason."""


_private_folders: Final[list[tempfile.TemporaryDirectory[str]]] = []
"""Folders of libraries that could not be kept in the cache; they are removed when the process ends."""


def compile_decoder(folder: Path) -> Path:
    """Return the compiled library in `folder`; compile it first, in about 2 s, if it is not there.

    The file's name contains a hash of the source, the flags and the processor, so a change of any of them leads to a
    new file. A library is code, so it is taken only from a folder and a file that no other user could have changed. If
    one could have changed the folder, it is compiled into a fresh one for this process. Raises CompilationError.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise CompilationError(f"there is no C compiler ({', '.join(COMPILERS)}) on PATH")
    flags = (*FLAGS, NATIVE_FLAGS.get(platform.machine(), "-mcpu=native"))
    library = _safe_folder(folder) / f"decoder-{_fingerprint(flags)}.so"
    if os.path.lexists(library):
        fault = tampering_fault(library)
        if not fault:
            return library
        log.warning("kernel.unsafe fault=%r; it is compiled again", fault)
    _compile([compiler, *flags, str(SOURCE), "-lm"], library)
    return library


def _safe_folder(folder: Path) -> Path:
    """Return a folder, created if necessary, or a fresh temporary one if other users could have changed it.

    Raises CompilationError if neither can be created, or the temporary one is not safe either.
    """
    try:
        make_private(folder)
        fault = tampering_fault(folder)
        if not fault:
            return folder
        log.warning("kernel.unsafe fault=%r; it is compiled into a temporary folder at each start", fault)
        _private_folders.append(tempfile.TemporaryDirectory(prefix="voxspool-kernel-", ignore_cleanup_errors=True))
    except OSError as error:
        raise CompilationError(f"cannot compile into {folder}: {error.strerror or error}") from error
    fresh = Path(_private_folders[-1].name)
    if fault := tampering_fault(fresh):
        raise CompilationError(f"there is no safe folder for compiled code: {fault}")
    return fresh


def _fingerprint(flags: Sequence[str]) -> str:
    """Return a hash of everything that the compiled library depends on."""
    digest = hashlib.blake2s(SOURCE.read_bytes(), digest_size=8)
    digest.update(" ".join((*flags, platform.system(), platform.machine(), _processor())).encode())
    return digest.hexdigest()


def _processor() -> str:
    """Return the processor's model and instruction sets: several machines may share one cache folder."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:  # noqa: PTH123
        return "".join(sorted({line for line in info if line.startswith(("model name", "flags", "Features"))}))
    return platform.processor()


def _compile(command: Sequence[str], library: Path) -> None:
    """Compile to a temporary file and rename it, so that no other worker loads a partial library."""
    try:
        with PartialFile(library) as part:
            subprocess.run(  # noqa: S603 - a compiler from PATH, on a file of this package
                [*command, "-o", str(part.path)], check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S
            )
            part.path.chmod(FILE_MODE)  # whatever the umask is
            part.place()
    except subprocess.CalledProcessError as error:
        raise CompilationError(f"{command[0]} failed: {_first_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilationError(f"cannot compile into {library.parent}: {error}") from error
    log.info("kernel.compiled file=%s", library)


def _first_line(output: str) -> str:
    """Return the first line of a compiler's output that contains an error, or else its first line."""
    lines = [line for line in output.splitlines() if "error" in line] or output.splitlines() or ["it printed nothing"]
    return lines[0]


class CpuDecoder:
    """The GPT's blocks in C. Implements the protocol `gpt.Decoder`, which describes the methods.

    `positions` is the size of the KV cache of a row, `threads` the number of threads that share each call. C checks the
    arguments of every call; a call that it refuses raises DecoderError and changes nothing.
    """

    device = torch.device("cpu")

    def __init__(
        self, library: Path, weights: GptWeights, *, rows: int, positions: int, precision: str, threads: int
    ) -> None:
        """Convert the weights to the decoder's own layout: half a second for XTTS v2 in int8. Raises MemoryError."""
        self._c = _load(library)
        self._handle = ctypes.c_void_p()
        sizes = (len(weights.blocks), weights.width, rows, positions, PRECISIONS[precision], CALL_TOKENS, threads)
        _check(
            self._c.vx_create(ctypes.byref(self._handle), *sizes),
            f"{sizes[0]} layers of width {sizes[1]}, {rows} rows, {positions} positions and {threads} threads",
        )
        try:
            self._pack(weights)
        except BaseException:
            self.close()
            raise

    def _pack(self, weights: GptWeights) -> None:
        """Pass the weights to C, layer by layer."""
        for number, block in enumerate(weights.blocks):
            for which, norm in enumerate(block.norms):
                self._set_norm(number, which, norm.gain, norm.bias)
            for which, linear in enumerate(block.linears):
                weight, bias = _floats(linear.weight), _floats(linear.bias)
                inputs, outputs = weight.shape
                _check(
                    self._c.vx_set_linear(
                        self._handle, number, which, _address(weight), _address(bias), inputs, outputs, bias.numel()
                    ),
                    f"linear layer {which} of layer {number}, {inputs} to {outputs} values, with {bias.numel()} biases",
                )
        for which, norm in enumerate((weights.norm_gpt, weights.norm_final)):
            self._set_norm(len(weights.blocks), which, norm.gain, norm.bias)

    def _set_norm(self, layer: int, which: int, gain: Tensor, bias: Tensor) -> None:
        gain, bias = _floats(gain), _floats(bias)
        width = gain.numel() if gain.numel() == bias.numel() else 0  # C refuses a width of 0
        _check(
            self._c.vx_set_norm(self._handle, layer, which, _address(gain), _address(bias), width),
            f"norm {which} of layer {layer}, with {gain.numel()} gains and {bias.numel()} biases",
        )

    def prefill(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Run embeddings (n, width) of one row from position `first` on; return the latent (width,) of the last one."""
        count = len(embeddings)
        positions = range(first, first + count)
        latents = torch.empty(0)
        for start in range(0, max(count, 1), CALL_TOKENS):
            part = slice(start, start + CALL_TOKENS)
            latents = self._forward(embeddings[part], [row] * len(positions[part]), positions[part])
        return latents[-1]

    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Run one embedding per row (rows, width), each at its position; return the latents (rows, width)."""
        parts = [slice(start, start + CALL_TOKENS) for start in range(0, max(len(rows), 1), CALL_TOKENS)]
        return torch.cat([self._forward(embeddings[part], rows[part], positions[part]) for part in parts])

    def save_prefix(self, row: int, positions: int) -> Tensor:
        """Return the KV cache of a row's first positions, as bytes in the decoder's own layout."""
        size = ctypes.c_int64()
        of = f"{positions} positions of row {row}"
        _check(self._c.vx_prefix_bytes(self._handle, _int32(positions), ctypes.byref(size)), of)
        saved = torch.empty(size.value, dtype=torch.uint8)
        self._copy_prefix(row, positions, saved, into_cache=False)
        return saved

    def restore_prefix(self, row: int, positions: int, saved: Tensor) -> None:
        """Copy a saved prefix into the KV cache of a row."""
        self._copy_prefix(row, positions, saved.contiguous(), into_cache=True)

    def _copy_prefix(self, row: int, positions: int, saved: Tensor, *, into_cache: bool) -> None:
        """Copy the KV cache of a row's first positions into `saved`, or back."""
        status = self._c.vx_copy_prefix(
            self._handle, _int32(row), _int32(positions), _address(saved), saved.nbytes, into_cache
        )
        _check(status, f"{positions} positions of row {row}, in {saved.nbytes} bytes")

    def close(self) -> None:
        """Free the memory and end the threads."""
        if self._handle:
            self._c.vx_free(self._handle)
            self._handle = ctypes.c_void_p()

    def _forward(self, embeddings: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Run up to CALL_TOKENS embeddings (n, width), each at its row and position; return the latents (n, width)."""
        embeddings = _floats(embeddings)
        row_index, position_index = (np.asarray([_int32(one) for one in many], np.int32) for many in (rows, positions))
        of = f"embeddings {tuple(embeddings.shape)} for rows {_span(rows)} at positions {_span(positions)}"
        if not (embeddings.dim() == 2 and len(embeddings) == len(row_index) == len(position_index)):
            raise DecoderError(
                f"the decoder refused a call ({of}): the numbers of embeddings, rows and positions differ"
            )
        latents = torch.empty_like(embeddings)
        status = self._c.vx_forward(
            self._handle,
            *embeddings.shape,
            _address(embeddings),
            row_index.ctypes.data,
            position_index.ctypes.data,
            _address(latents),
        )
        _check(status, of)
        return latents


def _floats(tensor: Tensor) -> Tensor:
    """Return a tensor as contiguous fp32 on the CPU; without a copy if it is so already."""
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _int32(number: int) -> int:
    """Return a number as C gets it: one that 32 bits cannot hold becomes -1, which C refuses."""
    return int(number) if 0 <= number < 2**31 else -1


def _span(numbers: Sequence[int]) -> str:
    """Return the smallest and the largest of some numbers, for a message."""
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) else "none"


def _check(status: int, of: str) -> None:
    """Raise the error of a call's status. `of` says in one line what the call was about."""
    if status == NO_MEMORY:
        raise MemoryError(f"no memory for the decoder ({of})")
    if status:
        raise DecoderError(f"the decoder refused a call ({of}): {REFUSALS.get(status, f'status {status}')}")


def _load(library: Path) -> ctypes.CDLL:
    """Load the compiled library and declare the signatures of its functions. Raises CompilationError."""
    try:
        c = ctypes.CDLL(str(library))
    except OSError as error:  # compiled by another machine's compiler, or on a file system that allows no code
        raise CompilationError(f"cannot load {library}: {error}") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures: dict[str, list[type]] = {
        "vx_create": [pointer, *[number] * 7],
        "vx_free": [pointer],
        "vx_set_norm": [pointer, number, number, pointer, pointer, number],
        "vx_set_linear": [pointer, number, number, pointer, pointer, number, number, number],
        "vx_forward": [pointer, number, number, pointer, pointer, pointer, pointer],
        "vx_prefix_bytes": [pointer, number, pointer],
        "vx_copy_prefix": [pointer, number, number, pointer, ctypes.c_int64, number],
    }
    for name, arguments in signatures.items():
        function = getattr(c, name)
        function.restype, function.argtypes = number, arguments
    return c
