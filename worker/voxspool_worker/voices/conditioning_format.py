"""The key of a conditioning, and the storage format of its arrays: safetensors with a hash of their values."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from typing import TYPE_CHECKING, Final, TypeAlias

from voxspool.errors import InvalidJobError, MissingExtraError
from voxspool.hints import missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    Arrays: TypeAlias = dict[str, NDArray[np.generic]]

MAX_VALUE_BYTES: Final = 2**20
"""Largest stored value, in bytes. One of XTTS v2 has 0.13 MB; a larger one is not read."""
_HASH: Final = "blake2s"
"""Field of the safetensors metadata with the hash of the arrays."""


class UnfitConditioningError(InvalidJobError):
    """Arrays are not what the model takes: their names, types, shapes or values. The message says which."""


def conditioning_key(
    clips: Sequence[str], parameters: Mapping[str, object], model_fingerprint: str, library_version: str
) -> str:
    """Return the key of a conditioning, in hexadecimal: a hash of everything that its value depends on.

    `clips` are SHA-256 digests in the order in which the model reads the clips. JSON must be able to represent
    `parameters`.
    """
    inputs = json.dumps([list(clips), dict(parameters), model_fingerprint, library_version], sort_keys=True)
    return hashlib.blake2s(inputs.encode()).hexdigest()


def check_installed() -> None:
    """Raise MissingExtraError if safetensors is not installed."""
    if importlib.util.find_spec("safetensors") is None:
        raise MissingExtraError(missing("a cache of voices", "safetensors", "voxspool-worker", "xtts"))


def encode(arrays: Arrays) -> bytes:
    """Return arrays as safetensors with a hash of their values: safetensors detects a short file, not wrong bytes."""
    from safetensors.numpy import save

    # safetensors 0.8 writes the memory of an array unchanged: the values of a transposed array would be in wrong order
    arrays = {name: array.copy(order="C") for name, array in arrays.items()}
    return save(arrays, {_HASH: _hash(arrays)})


def decode(data: bytes) -> Arrays | None:
    """Return the arrays from the output of `encode`, or None if the data is damaged or has another format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: Arrays = load(data)
        header_bytes = int.from_bytes(data[:8], "little")
        expected = json.loads(data[8 : 8 + header_bytes])["__metadata__"][_HASH]
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None
    return arrays if expected == _hash(arrays) else None


def _hash(arrays: Arrays) -> str:
    """Return a hash of the names, types, shapes and values of arrays."""
    digest = hashlib.blake2s()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
