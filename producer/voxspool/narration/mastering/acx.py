"""The rules of ACX for the files of an audiobook: check a finished file, and put the required silence around a chapter.

The rules: https://help.acx.com/s/article/what-are-the-acx-audio-submission-requirements. Files are read with
libsndfile; it does not tell the bit rates of an MP3, see `mp3_frames`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile as sf

from voxspool.audio.encoding import Encoding
from voxspool.errors import OutputError
from voxspool.narration.mastering.levels import FULL_SCALE, Levels
from voxspool.narration.mastering.mp3_frames import bit_rates_kbit_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pcm = NDArray[np.int16]

_RATE_HZ: Final = 44_100
_BIT_RATE_KBIT_S: Final = 192
DELIVERY: Final = Encoding(rate_hz=_RATE_HZ, constant_kbit_s=_BIT_RATE_KBIT_S)
"""The encoding of an MP3 that ACX accepts."""

_QUIET_DBFS: Final = -60.0
"""Audio up to this level counts as room tone, that is as silence: the rules allow no higher noise floor."""
_HEAD_S: Final = 0.75
"""Silence before a chapter, in seconds; the rules ask for 0.5 to 1."""
_TAIL_S: Final = 2.0
"""Silence after a chapter, in seconds; the rules ask for 1 to 5."""
_WINDOW_S: Final = 0.01
"""Length of the windows that are either quiet or not, in seconds."""
_READ_SAMPLES: Final = 65_536
"""Samples that are read at once, of all channels together; at least one window."""
_MOST_CHANNELS: Final = 8
_MOST_RATE_HZ: Final = 384_000
"""Files with more channels or a higher rate are not measured; they are no audiobook's."""


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of one rule for a file."""

    rule: str
    value: float
    """The measured value."""
    unit: str
    limit: str
    """The allowed values, for people."""
    passed: bool


@dataclass(frozen=True, slots=True)
class AcxReport:
    """The results of all rules for one file."""

    path: Path
    rows: tuple[RuleResult, ...]

    @property
    def passed(self) -> bool:
        """True if the file passed every rule."""
        return all(row.passed for row in self.rows)


def check(path: Path, *, channels: int | None = None) -> AcxReport:
    """Check a file against every rule. `channels` is the number that the book's other files have; None allows 1 or 2.

    Raises OutputError if the file cannot be read.
    """
    try:
        return AcxReport(path, tuple(_results(path, channels)))
    except (OSError, sf.LibsndfileError) as error:
        raise OutputError(f"cannot check {path}: {error}; is it an audio file?") from error


def check_book(paths: Sequence[Path]) -> tuple[AcxReport, ...]:
    """Check all files of a book. All must have as many channels as the first. Raises OutputError."""
    first = check(paths[0]) if paths else None
    if first is None:
        return ()
    channels = next(int(row.value) for row in first.rows if row.rule == "channels")
    return first, *(check(path, channels=channels) for path in paths[1:])


def _results(path: Path, channels: int | None) -> Iterator[RuleResult]:
    """Yield the result of each rule."""
    with sf.SoundFile(path) as file:
        if file.channels > _MOST_CHANNELS or not 1_000 <= file.samplerate <= _MOST_RATE_HZ:
            what = f"{file.channels} channels at {file.samplerate} Hz"
            raise OutputError(f"cannot check {path}: it has {what}; convert it to one channel at {_RATE_HZ} Hz")
        levels, head_s, tail_s = _measure(file)
        rate_hz, file_channels = file.samplerate, file.channels
    yield _between("RMS", levels.rms_dbfs, "dBFS", -23, -18)
    yield _at_most("peak", levels.peak_dbfs, "dBFS", -3)
    yield _at_most("noise floor", levels.floor_dbfs, "dBFS", -60)
    yield _between("silence before", head_s, "s", 0.5, 1)
    yield _between("silence after", tail_s, "s", 1, 5)
    yield _at_most("length", levels.samples / rate_hz / 60, "min", 120)
    yield RuleResult("sample rate", rate_hz, "Hz", f"{_RATE_HZ}", rate_hz == _RATE_HZ)
    allowed = (1, 2) if channels is None else (channels,)
    yield RuleResult("channels", file_channels, "", " or ".join(map(str, allowed)), file_channels in allowed)
    rates = bit_rates_kbit_s(path)
    lowest = min(rates, default=0)
    yield RuleResult("bit rate", lowest, "kbit/s", f"MP3, >= {_BIT_RATE_KBIT_S}", lowest >= _BIT_RATE_KBIT_S)
    yield RuleResult("different bit rates", len(rates), "", "1, constant", len(rates) == 1)


def _between(rule: str, value: float, unit: str, lowest: float, highest: float) -> RuleResult:
    return RuleResult(rule, value, unit, f"{lowest} to {highest}", lowest <= value <= highest)


def _at_most(rule: str, value: float, unit: str, highest: float) -> RuleResult:
    return RuleResult(rule, value, unit, f"<= {highest}", value <= highest)


def _measure(file: sf.SoundFile) -> tuple[Levels, float, float]:
    """Return a file's levels, and the silence before and after its sound in seconds.

    A file without sound has its whole length as both.
    """
    levels, window = Levels(file.samplerate), round(_WINDOW_S * file.samplerate)
    first = last = None
    block = max(1, _READ_SAMPLES // file.channels // window) * window
    for samples in file.blocks(block, dtype="float64", always_2d=True):
        loud = _loud_windows(samples, window)
        if len(loud):
            first = levels.samples + int(loud[0]) * window if first is None else first
            last = levels.samples + (int(loud[-1]) + 1) * window
        levels.feed(samples)
    if first is None or last is None:
        return levels, levels.samples / file.samplerate, levels.samples / file.samplerate
    return levels, first / file.samplerate, max(0, levels.samples - last) / file.samplerate


def _loud_windows(samples: NDArray[np.float64], window: int) -> NDArray[np.int64]:
    """Return the indices of the windows with sound in samples of shape (n, channels), full scale 1.

    The last window may be short.
    """
    squares = np.square(samples).mean(axis=1)
    starts = np.arange(0, len(squares), window)
    lengths = np.diff(np.append(starts, len(squares)))
    means = np.add.reduceat(squares, starts) / lengths if len(starts) else np.zeros(0)
    loud: NDArray[np.int64] = np.flatnonzero(means > 10 ** (_QUIET_DBFS / 10))
    return loud


class RoomTone:
    """Puts the silence around a chapter that ACX requires; silence that is longer is shortened.

    It moves the audio: sample 0 of the track is no longer at 0. It holds at most one pause in memory.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._window = round(_WINDOW_S * rate_hz)
        self._held: Pcm = np.zeros(0, np.int16)  # silence, and at its end less than a window that is not known yet
        self._begun = False

    def feed(self, pcm: Pcm) -> Pcm:
        """Add samples, shape (n,), and return those that can be written."""
        held = np.concatenate([self._held, pcm])
        whole = len(held) // self._window * self._window
        loud = _loud_windows(held[:whole, None] / FULL_SCALE, self._window)
        if not len(loud):
            self._held = held
            return held[:0]
        first, after = loud[0] * self._window, (loud[-1] + 1) * self._window
        self._held = held[after:]
        if self._begun:
            return held[:after]
        self._begun = True
        return np.concatenate([_last(held[:first], round(_HEAD_S * self._rate_hz)), held[first:after]])

    def finish(self) -> Pcm:
        """Return the silence at the end."""
        tail = round(_TAIL_S * self._rate_hz)
        return np.concatenate([self._held[:tail], np.zeros(max(0, tail - len(self._held)), np.int16)])


def _last(silence: Pcm, samples: int) -> Pcm:
    """Return the last samples of a silence; one that is too short gets digital silence before it."""
    silence = silence[max(0, len(silence) - samples) :]
    return np.concatenate([np.zeros(samples - len(silence), np.int16), silence])
