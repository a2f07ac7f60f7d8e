"""Samples -> their loudness (ITU-R BS.1770-4), and the one gain that brings a book to the wanted loudness.

In a stream: memory does not grow with the length of a book. Mono only. The filters are pyloudnorm's, for the given
sample rate; pyloudnorm itself needs all samples at once, and the tests compare with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.errors import MissingExtraError
from voxspool.hints import missing
from voxspool.narration.mastering.levels import (
    FULL_SCALE,
    REACH,
    SILENCE_DB,
    Levels,
    Slots,
    between,
    between_gain,
    decibels,
)
from voxspool.narration.mastering.master import Gain, PresetName, master

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from voxspool.narration.track import Track
    from voxspool.store.segments import Store

    Floats = NDArray[np.float64]
    Pcm = NDArray[np.int16]

# ITU-R BS.1770-4, annex 1.
_GATE_SLOTS: Final = 4
"""A gating block, 400 ms, in slots of 100 ms: that is the overlap of 75 %."""
_ABSOLUTE_GATE_LUFS: Final = -70.0
_RELATIVE_GATE_LU: Final = -10.0
_OFFSET_LU: Final = -0.691

_BINS_PER_LU: Final = 100
"""Blocks are counted by loudness, not kept. Only where the relative gate cuts through a bin is anything lost."""
_BINS: Final = 80 * _BINS_PER_LU
"""From the absolute gate to +10 LUFS, louder than a full-scale square wave."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How loud a book should be."""

    peak_dbfs: float
    """What no sample of a delivered file passes."""
    loudness_lufs: float | None = None
    rms_dbfs: float | None = None
    """One of the two is aimed at."""


PRESETS: Final[dict[PresetName, Preset]] = {
    "podcast": Preset(peak_dbfs=-1.0, loudness_lufs=-16.0),
    "ebu": Preset(peak_dbfs=-1.0, loudness_lufs=-23.0),
    "acx": Preset(peak_dbfs=-3.0, rms_dbfs=-20.0),  # ACX wants -23 to -18 dB of every file
}

_HEADROOM_DB: Final = 1.0
"""The limiter stays this much under the preset's peak: lossy codecs go over what they are given. On six minutes of
speech at -16 LUFS, limited between the samples too, MP3 and Opus did so by 0.8 dB."""

_SAMPLE_S: Final = 600.0
"""How much of a book is listened to, again and again, to find out what the limiter takes."""
_CORRECTIONS: Final = 6
_CLOSE_DB: Final = 0.1


@dataclass(frozen=True, slots=True)
class LoudnessMeasurement:
    """How loud something is. Silence is SILENCE_DB in every row."""

    loudness_lufs: float
    rms_dbfs: float
    peak_dbfs: float
    true_peak_dbfs: float
    """Between the samples too: oversampled four times."""
    floor_dbfs: float
    """Of its quietest half second."""


def fit(name: PresetName, tracks: Sequence[Track], store: Store) -> tuple[LoudnessMeasurement, Gain]:
    """Return how loud a book was spoken and the one gain that brings it to a preset, the limiter's losses made good.

    What the limiter takes of speech at -16 LUFS, 2 LU of it, is found out on a sample of the book, so it takes the
    same time for any book. Raises StoreError, MissingExtraError.
    """
    measured = measure(tracks, store)
    gain = gain_for(name, measured)
    sample = _sample(tracks)
    aim = _aimed_at(name, measure(sample, store)) + gain.db
    for _ in range(_CORRECTIONS if sample else 0):
        lost_db = aim - _aimed_at(name, measure(sample, store, gain))
        if abs(lost_db) < _CLOSE_DB:
            break
        gain = replace(gain, db=gain.db + lost_db)
    return measured, gain


def gain_for(name: PresetName, measured: LoudnessMeasurement) -> Gain:
    """Return the gain that brings a book to a preset if its limiter takes nothing away. Silence stays as it is."""
    preset = PRESETS[name]
    aim = preset.loudness_lufs if preset.rms_dbfs is None else preset.rms_dbfs
    assert aim is not None, "a preset aims at something"
    have = _aimed_at(name, measured)
    return Gain(name, aim - have if have > SILENCE_DB else 0.0, preset.peak_dbfs - _HEADROOM_DB)


def measure(tracks: Iterable[Track], store: Store, gain: Gain | None = None) -> LoudnessMeasurement:
    """Listen to a whole book, as spoken or with a gain. Raises StoreError, MissingExtraError."""
    tally = Tally()
    for track in tracks:
        meter = Meter(track.sample_rate)
        for pcm in master(track, store, gain):
            meter.feed(pcm)
        tally.add(meter)
    return tally.measured()


def _aimed_at(name: PresetName, measured: LoudnessMeasurement) -> float:
    return measured.loudness_lufs if PRESETS[name].rms_dbfs is None else measured.rms_dbfs


def _sample(tracks: Sequence[Track]) -> list[Track]:
    """Return every nth segment of every chapter, so that it is about as much as is listened to for the limiter."""
    step = max(1, round(sum(track.duration_s for track in tracks) / _SAMPLE_S))
    return [replace(track, cues=track.cues[index % step :: step]) for index, track in enumerate(tracks)]


class Tally:
    """What meters saw, added up: chapters are measured each by itself, and are a book together."""

    def __init__(self) -> None:
        self.samples = 0
        self.squares = 0.0
        self.peak = 0.0
        self.true_peak = 0.0
        self.floor_square = math.inf
        self.gated = _Gated()

    def add(self, meter: Meter) -> None:
        """Count what a meter has seen to its end."""
        self.samples += meter.levels.samples
        self.squares += meter.levels.squares
        self.peak = max(self.peak, meter.levels.peak)
        self.true_peak = max(self.true_peak, meter.true_peak)
        self.floor_square = min(self.floor_square, meter.levels.floor_square)
        self.gated.add(meter.gated)

    def measured(self) -> LoudnessMeasurement:
        """Return the loudness of all samples together."""
        rms = math.sqrt(self.squares / self.samples) if self.samples else 0.0
        floor = math.sqrt(self.floor_square) if math.isfinite(self.floor_square) else rms
        return LoudnessMeasurement(
            self.gated.loudness_lufs(), decibels(rms), decibels(self.peak), decibels(self.true_peak), decibels(floor)
        )


class Meter:
    """Measures one stretch of mono audio, block by block; any sizes give the same."""

    def __init__(self, rate_hz: int) -> None:
        self.levels = Levels(rate_hz)
        self.gated = _Gated()
        self._ears = _Ears(rate_hz)
        self._between = _Between()
        self._slots = Slots(rate_hz)
        self._recent: Floats = np.zeros(0)

    def feed(self, pcm: Pcm) -> None:
        """Take the next samples, shape (n,)."""
        if not len(pcm):
            return
        samples = pcm / FULL_SCALE
        self.levels.feed(samples)
        self._between.feed(samples)
        recent = np.concatenate([self._recent, self._slots.feed(np.square(self._ears.hear(samples)))])
        if len(recent) >= _GATE_SLOTS:
            self.gated.count(np.convolve(recent, np.full(_GATE_SLOTS, 1 / _GATE_SLOTS), "valid"))
        self._recent = recent[-(_GATE_SLOTS - 1) :]

    @property
    def true_peak(self) -> float:
        """Full scale 1."""
        return max(self.levels.peak, self._between.peak())

    def measured(self) -> LoudnessMeasurement:
        """Return the loudness up to now. Less than 400 ms have no loudness."""
        tally = Tally()
        tally.add(self)
        return tally.measured()


class _Gated:
    """Gating blocks, counted by their loudness; those under the absolute gate do not count."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._powers: Floats = np.zeros(_BINS)

    def count(self, powers: Floats) -> None:
        """Take the mean squares of blocks."""
        powers = powers[powers > 0]
        lufs = _OFFSET_LU + 10 * np.log10(powers)
        loud = lufs >= _ABSOLUTE_GATE_LUFS
        bins = np.minimum(_bin(lufs[loud]), _BINS - 1)
        np.add.at(self._counts, bins, 1)
        np.add.at(self._powers, bins, powers[loud])

    def add(self, other: _Gated) -> None:
        """Count what another counted."""
        self._counts += other._counts
        self._powers += other._powers

    def loudness_lufs(self) -> float:
        """Return the integrated loudness; SILENCE_DB where no block counts."""
        if not self._counts.any():
            return SILENCE_DB
        gate = max(0, int(_bin(np.array(self._mean_lufs(0) + _RELATIVE_GATE_LU))))
        return self._mean_lufs(gate)

    def _mean_lufs(self, first_bin: int) -> float:
        power = self._powers[first_bin:].sum() / self._counts[first_bin:].sum()
        return float(_OFFSET_LU + 10 * np.log10(power))


def _bin(lufs: Floats) -> NDArray[np.int64]:
    bins: NDArray[np.int64] = np.floor((lufs - _ABSOLUTE_GATE_LUFS) * _BINS_PER_LU).astype(np.int64)
    return bins


class _Ears:
    """The K-weighting: what a head and an ear make of sound. Keeps the filters' state between blocks."""

    def __init__(self, rate_hz: int) -> None:
        try:
            import pyloudnorm
            from scipy import signal
        except ImportError as error:
            raise MissingExtraError(missing("loudness", "pyloudnorm and scipy", "voxspool", "books")) from error
        # Gain in dB, Q, frequency in Hz, as pyloudnorm's own meter has them.
        shelf = pyloudnorm.IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, rate_hz, "high_shelf")
        high_pass = pyloudnorm.IIRfilter(0.0, 0.5, 38.0, rate_hz, "high_pass")
        self._sections = np.array([[*shelf.b, *shelf.a], [*high_pass.b, *high_pass.a]])
        self._state = np.zeros((2, 2))
        self._filter: Any = signal.sosfilt

    def hear(self, samples: Floats) -> Floats:
        heard: Floats
        heard, self._state = self._filter(self._sections, samples, zi=self._state)
        return heard


class _Between:
    """The peak between the samples. Where the samples are too low to matter it does not look."""

    def __init__(self) -> None:
        self._recent: Floats = np.zeros(2 * REACH - 1)
        self._peak = 0.0

    def feed(self, samples: Floats) -> None:
        joined = np.concatenate([self._recent, samples])
        self._peak = max(self._peak, self._look(joined))
        self._recent = joined[1 - 2 * REACH :]

    def peak(self) -> float:
        """Return the peak so far, between samples too, as if silence followed."""
        return max(self._peak, self._look(np.concatenate([self._recent, np.zeros(REACH)])))

    def _look(self, joined: Floats) -> float:
        if float(np.abs(joined).max()) * between_gain() <= self._peak:
            return 0.0
        return float(between(joined).max())
