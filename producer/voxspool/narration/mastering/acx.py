"""The rules of ACX for the files of an audiobook: the check of a finished file, and the silence around a chapter.

The rules: https://help.acx.com/s/article/what-are-the-acx-audio-submission-requirements. Files are read with
libsndfile; the bit rate is read from the frames of an MP3 by our own code.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile as sf

from voxspool.audio.files import Encoding
from voxspool.errors import OutputError
from voxspool.narration.mastering.levels import FULL_SCALE, Levels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Pcm = NDArray[np.int16]

_RATE_HZ: Final = 44_100
_BIT_RATE_KBIT_S: Final = 192
DELIVERY: Final = Encoding(rate_hz=_RATE_HZ, constant_kbit_s=_BIT_RATE_KBIT_S)
"""How an MP3 is encoded that ACX takes."""

_QUIET_DBFS: Final = -60.0
"""Room tone is what stays under the highest noise floor that is allowed."""
_HEAD_S: Final = 0.75
_TAIL_S: Final = 2.0
"""What a chapter of ours gets, within 0.5 to 1 s and 1 to 5 s."""
_WINDOW_S: Final = 0.01
_READ_SAMPLES: Final = 65_536


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule, and what a file measured."""

    rule: str
    value: float
    unit: str
    limit: str
    passed: bool


@dataclass(frozen=True, slots=True)
class AcxReport:
    """What the rules say of one file."""

    path: Path
    rows: tuple[RuleResult, ...]

    @property
    def passed(self) -> bool:
        """Whether ACX should take it."""
        return all(row.passed for row in self.rows)


def check(path: Path, *, channels: int | None = None) -> AcxReport:
    """Hold a file against every rule; `channels` is what the book's other files have, None: either will do.

    Raises OutputError where it cannot be read.
    """
    try:
        return AcxReport(path, tuple(_rows(path, channels)))
    except (OSError, sf.LibsndfileError) as error:
        raise OutputError(f"cannot check {path}: {error}; is it an audio file?") from error


def check_book(paths: Sequence[Path]) -> tuple[AcxReport, ...]:
    """Hold all files of a book against the rules; all must have as many channels as the first."""
    first = check(paths[0]) if paths else None
    if first is None:
        return ()
    channels = next(int(row.value) for row in first.rows if row.rule == "channels")
    return first, *(check(path, channels=channels) for path in paths[1:])


def _rows(path: Path, channels: int | None) -> Iterator[RuleResult]:
    with sf.SoundFile(path) as file:
        levels, head_s, tail_s = _listen(file)
        rate_hz, have = file.samplerate, file.channels
    yield _between("RMS", levels.rms_dbfs, "dBFS", -23, -18)
    yield _most("peak", levels.peak_dbfs, "dBFS", -3)
    yield _most("noise floor", levels.floor_dbfs, "dBFS", -60)
    yield _between("silence before", head_s, "s", 0.5, 1)
    yield _between("silence after", tail_s, "s", 1, 5)
    yield _most("length", levels.samples / rate_hz / 60, "min", 120)
    yield RuleResult("sample rate", rate_hz, "Hz", f"{_RATE_HZ}", rate_hz == _RATE_HZ)
    allowed = (1, 2) if channels is None else (channels,)
    yield RuleResult("channels", have, "", " or ".join(map(str, allowed)), have in allowed)
    rates = _bit_rates_kbit_s(path)
    least = min(rates, default=0)
    yield RuleResult("bit rate", least, "kbit/s", f"MP3, >= {_BIT_RATE_KBIT_S}", least >= _BIT_RATE_KBIT_S)
    yield RuleResult("different bit rates", len(rates), "", "1, constant", len(rates) == 1)


def _between(rule: str, value: float, unit: str, least: float, most: float) -> RuleResult:
    return RuleResult(rule, value, unit, f"{least} to {most}", least <= value <= most)


def _most(rule: str, value: float, unit: str, most: float) -> RuleResult:
    return RuleResult(rule, value, unit, f"<= {most}", value <= most)


def _listen(file: sf.SoundFile) -> tuple[Levels, float, float]:
    """Return a file's levels and the seconds of room tone before and after its sound; without sound, all of it."""
    levels, window = Levels(file.samplerate), round(_WINDOW_S * file.samplerate)
    first = last = None
    block = _READ_SAMPLES // window * window
    for samples in file.blocks(block, dtype="float64", always_2d=True):
        loud = _loud(samples, window, _QUIET_DBFS)
        if len(loud):
            first = levels.samples + int(loud[0]) * window if first is None else first
            last = levels.samples + (int(loud[-1]) + 1) * window
        levels.feed(samples)
    if first is None or last is None:
        return levels, levels.samples / file.samplerate, levels.samples / file.samplerate
    return levels, first / file.samplerate, max(0, levels.samples - last) / file.samplerate


def _loud(samples: NDArray[np.float64], window: int, quiet_dbfs: float) -> NDArray[np.int64]:
    """Return the indices of the windows with sound. Samples are (n, channels); the last window may be short."""
    squares = np.square(samples).mean(axis=1)
    starts = np.arange(0, len(squares), window)
    lengths = np.diff(np.append(starts, len(squares)))
    means = np.add.reduceat(squares, starts) / lengths if len(starts) else np.zeros(0)
    heard: NDArray[np.int64] = np.flatnonzero(means > 10 ** (quiet_dbfs / 10))
    return heard


class RoomTone:
    """Gives a chapter the silence that ACX wants before and after it; what is longer becomes shorter.

    It moves the chapter: sample 0 of the track is no longer at 0. Holds one pause in memory.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._window = round(_WINDOW_S * rate_hz)
        self._held: Pcm = np.zeros(0, np.int16)  # quiet up to here, or less than a window
        self._begun = False

    def feed(self, pcm: Pcm) -> Pcm:
        """Take the next samples, shape (n,); give those that are ready."""
        held = np.concatenate([self._held, pcm])
        whole = len(held) // self._window * self._window
        loud = _loud(held[:whole, None] / FULL_SCALE, self._window, _QUIET_DBFS)
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


def _last(quiet: Pcm, samples: int) -> Pcm:
    """Return the last samples of a silence, with more of it before where it is too short."""
    quiet = quiet[max(0, len(quiet) - samples) :]
    return np.concatenate([np.zeros(samples - len(quiet), np.int16), quiet])


_KBIT_S: Final = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Layer III's bit rates by their index, for MPEG 1 and for 2 and 2.5."""
_RATES_HZ: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sample rates by the version's bits: MPEG 1, 2, 2.5."""


def _bit_rates_kbit_s(path: Path) -> set[int]:
    """Return the bit rates that an MP3's frames have; none where it is no MP3."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not size:
            return set()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_frames(data, size))


def _frames(data: mmap.mmap, size: int) -> Iterator[int]:
    at = _after_id3(data)
    while at + 4 <= size:
        frame = _frame(data[at : at + 4])
        if frame is None:
            return
        kbit_s, length = frame
        info = data[at : at + min(length, 64)]
        if not (b"Info" in info or b"Xing" in info):  # the encoder's notes on the file: no sound
            yield kbit_s
        at += length


def _after_id3(data: mmap.mmap) -> int:
    if data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte
    return 10 + size


def _frame(head: bytes) -> tuple[int, int] | None:
    """Return a frame's bit rate and its length in bytes; None where no frame of Layer III begins."""
    version, rate, index = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or version == 1 or rate == 3 or index in (0, 15):
        return None
    kbit_s = _KBIT_S[version == 3][index]
    frame_samples = 1152 if version == 3 else 576
    return kbit_s, frame_samples // 8 * kbit_s * 1000 // _RATES_HZ[version][rate] + (head[2] >> 1 & 1)
