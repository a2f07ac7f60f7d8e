"""Read the call in a job of RQ, `[function, null, [argument], {}]`, which any program may have written.

All reading is bounded: a small job must not become gigabytes in the program that reads it.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

from voxspool.errors import InvalidJobError

MAX_CALL_BYTES: Final = 4 * 2**20
"""Limit for the JSON of a call, in bytes. The longest text takes 1.2 MB if JSON escapes every character."""


def unpack(data: bytes) -> bytes:
    """Return the JSON of a call, which RQ may have compressed with zlib. Raises InvalidJobError if it is too long."""
    inflater = zlib.decompressobj()
    try:
        unpacked = inflater.decompress(data, MAX_CALL_BYTES + 1)
    except zlib.error:
        unpacked = data
    else:
        if len(unpacked) <= MAX_CALL_BYTES and not inflater.eof:
            unpacked = data  # it only begins like a compressed text
    if len(unpacked) > MAX_CALL_BYTES:
        raise InvalidJobError(
            f"the job's data has more than {MAX_CALL_BYTES:,} bytes of JSON; enqueue the text in parts, "
            "one job for each chapter"
        )
    return unpacked


def beginning(data: bytes, count: int) -> bytes:
    """Return the first `count` bytes of a call's JSON, or fewer, without unpacking the rest."""
    try:
        return zlib.decompressobj().decompress(data, count)
    except zlib.error:
        return data[:count]


def read_call(data: bytes) -> tuple[Any, Any]:
    """Return the function and the first argument of a call.

    Raises InvalidJobError if it is too long, and ValueError, RecursionError, TypeError, LookupError if it is no call.
    """
    function, _, arguments, _ = json.loads(unpack(data))
    return function, arguments[0]
