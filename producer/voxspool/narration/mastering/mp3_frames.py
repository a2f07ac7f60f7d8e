"""The bit rate of every frame of an MP3 file (MPEG audio, layer III).

Libraries judge a file by its first frames, or by a header that an encoder wrote. ACX asks that every frame has the same
bit rate, so all of them are read.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MPEG_1: Final = 3
"""The version bits of MPEG 1. MPEG 2 has 2, MPEG 2.5 has 0; 1 is reserved."""
_KBIT_S: Final = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of layer III by index, for MPEG 1 (True) and for MPEG 2 and 2.5 (False). From ISO 11172-3 and 13818-3."""
_RATES_HZ: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by the version bits."""
_HEADER_BYTES: Final = 4
_INFO_WITHIN_BYTES: Final = 64
"""A frame without sound holds the encoder's notes; within so many bytes it has the word Xing or Info."""


def bit_rates_kbit_s(path: Path) -> set[int]:
    """Return all bit rates that the frames of a file have; an empty set if it is no MP3. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_bit_rates(data, size))


def _bit_rates(data: mmap.mmap, size: int) -> Iterator[int]:
    """Yield the bit rate of each frame with sound, up to the first bytes that are no frame."""
    at = _id3_bytes(data)
    while at + _HEADER_BYTES <= size:
        frame = _frame(data[at : at + _HEADER_BYTES])
        if frame is None:
            return
        kbit_s, length = frame
        start = data[at : at + min(length, _INFO_WITHIN_BYTES)]
        if not (b"Info" in start or b"Xing" in start):
            yield kbit_s
        at += length


def _id3_bytes(data: mmap.mmap) -> int:
    """Return the length of the ID3 tag at the start of a file; 0 if there is none."""
    if data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:  # seven bits each
        size = size << 7 | byte
    return 10 + size


def _frame(header: bytes) -> tuple[int, int] | None:
    """Return a frame's bit rate and its length in bytes; None if the header is not that of a frame of layer III."""
    version, rate, index = header[1] >> 3 & 3, header[2] >> 2 & 3, header[2] >> 4
    if header[0] != 0xFF or header[1] & 0xE6 != 0xE2 or version == 1 or rate == 3 or index in (0, 15):
        return None
    kbit_s = _KBIT_S[version == _MPEG_1][index]
    frame_samples = 1152 if version == _MPEG_1 else 576
    return kbit_s, frame_samples // 8 * kbit_s * 1000 // _RATES_HZ[version][rate] + (header[2] >> 1 & 1)
