"""Read a recording that a stranger made: by its header first, then block by block, so that the memory stays small.

A compressed file of a few kilobytes can state, and contain, hours of silence in eight channels. Producers read the
recordings that people name, workers the clips that Redis has; both use these limits, which docs/protocol.md states.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import numpy as np
import soundfile as sf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

LEAST_CLIP_S: Final = 0.5
"""The shortest clip, in seconds: less is shorter than a word."""
MOST_CLIP_S: Final = 30.0
"""The longest clip, in seconds: XTTS uses the first 30 s of a clip (its max_ref_length)."""
MOST_TOTAL_S: Final = 60.0
"""The most audio of all clips of a voice together, in seconds: at most 3 MB of Redis per voice at 48 kHz."""
RATES_HZ: Final = (8_000, 192_000)
"""The lowest and the highest sample rate."""
MOST_CHANNELS: Final = 8
MOST_CLIPS: Final = int(MOST_TOTAL_S / LEAST_CLIP_S)
"""The largest number of clips of a voice."""
MOST_TOTAL_BYTES: Final = 24 * 2**20
"""The largest size of all clips of a voice together: MOST_TOTAL_S of 16 bits at the highest rate have 23 MB."""

_BLOCK_SAMPLES: Final = 2**18
"""Samples of all channels together that are decoded at once: 1 MiB."""


class SoundSource:
    """A file that libsndfile reads. It keeps the first failure: an error that is raised in C is printed, and lost.

    For a wrong header, libsndfile seeks before the start of the file. That is no failure; the position stays then.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.failure: OSError | None = None
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none after a failure."""
        try:
            return self._file.read(size) if self.failure is None else b""
        except OSError as error:
            self.failure = error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position if that is possible, and return it."""
        with suppress(OSError, ValueError):
            self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()


class RecordingError(Exception):
    """A recording that cannot be used. `fault` continues a sentence about it, `remedy` says what its owner can do."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(fault)
        self.fault, self.remedy = fault, remedy


class Recording(NamedTuple):
    """The samples of a recording, mixed to mono."""

    samples: Samples
    """Shape (n,), full scale 1."""
    rate_hz: int
    frames: int
    """The number of samples of each channel in the whole recording, as its header states it."""


def read_mono(file: BinaryIO, most_s: float, *, cut: bool) -> Recording:
    """Read a recording that libsndfile can read. One of more than `most_s` seconds is cut, or without `cut` refused.

    Raises RecordingError if it is no recording, or has too many channels or another sample rate; OSError.
    """
    source = SoundSource(file)
    try:
        with sf.SoundFile(source) as recording:
            rate_hz, frames = recording.samplerate, recording.frames
            _check_form(rate_hz, recording.channels)
            most = math.ceil(most_s * rate_hz)
            if frames > most and not cut:
                fault = f"is {frames / rate_hz:.1f} s long, and {most_s:g} s is the most"
                raise RecordingError(fault, f"cut it to {most_s:g} s")
            found = Recording(_samples(recording, most), rate_hz, frames)
    except sf.LibsndfileError as error:
        if source.failure:
            raise source.failure from error
        raise RecordingError(
            f"is no recording that can be read ({_reason(error)})", "convert it to WAV, FLAC or MP3"
        ) from error
    if source.failure:
        raise source.failure
    return found


def _check_form(rate_hz: int, channels: int) -> None:
    """Refuse a sample rate or a number of channels that no recording of a voice has. Raises RecordingError."""
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise RecordingError(
            f"has a sample rate of {rate_hz} Hz, outside {RATES_HZ[0]} to {RATES_HZ[1]}", "convert it to 24000 Hz"
        )
    if channels > MOST_CHANNELS:
        raise RecordingError(f"has {channels} channels, and {MOST_CHANNELS} is the most", "mix it to one")


def _samples(recording: sf.SoundFile, most: int) -> Samples:
    """Return the first `most` samples of an open recording, mixed to mono, shape (n,)."""
    block, blocks, left = _BLOCK_SAMPLES // recording.channels, [np.zeros(0, np.float32)], most
    while left > 0:
        part = recording.read(min(block, left), dtype="float32", always_2d=True)
        if not len(part):
            break
        blocks.append(part.mean(axis=1))
        left -= len(part)
    return np.concatenate(blocks)


def _reason(error: Exception) -> str:
    """Return why libsndfile refused, without its prefix, which names a Python object."""
    return str(getattr(error, "error_string", error)).rstrip(".")
