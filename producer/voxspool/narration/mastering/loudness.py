"""Samples -> their loudness (ITU-R BS.1770-4), and the gain that brings a book to the loudness of a preset.

Works on a stream, so memory does not grow with the length of a book. Mono only. The filters are those of pyloudnorm,
for the given sample rate. pyloudnorm's own meter needs all samples at once; the tests compare with it.
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
"""Slots of 100 ms in a gating block of 400 ms. A block starts in each slot: that is the overlap of 75 %."""
_ABSOLUTE_GATE_LUFS: Final = -70.0
"""Blocks below this loudness do not count."""
_RELATIVE_GATE_LU: Final = -10.0
"""Nor do blocks this far below the mean of all others."""
_OFFSET_LU: Final = -0.691
"""Loudness of a mean square of 1 after the filters."""

_BINS_PER_LU: Final = 100
"""Blocks are counted in bins of a histogram, not stored. It is exact except for the bin that contains the relative
gate."""
_BINS: Final = 80 * _BINS_PER_LU
"""From the absolute gate to +10 LUFS, louder than a full-scale square wave."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The loudness of a book. One of `loudness_lufs` and `rms_dbfs` is set."""

    peak_dbfs: float
    """The level that no sample of a finished file exceeds."""
    loudness_lufs: float | None = None
    rms_dbfs: float | None = None


PRESETS: Final[dict[PresetName, Preset]] = {
    "podcast": Preset(peak_dbfs=-1.0, loudness_lufs=-16.0),
    "ebu": Preset(peak_dbfs=-1.0, loudness_lufs=-23.0),
    "acx": Preset(peak_dbfs=-3.0, rms_dbfs=-20.0),  # ACX requires -23 to -18 dB of every file
}

_HEADROOM_DB: Final = 1.0
"""Distance of the limiter's ceiling from the preset's peak: lossy codecs exceed the peaks of their input. MP3 and Opus
did so by 0.8 dB on six minutes of speech at -16 LUFS, limited between the samples too."""

_SAMPLE_S: Final = 600.0
"""Duration of the sample of a book on which the gain is corrected, in seconds."""
_CORRECTIONS: Final = 6
"""Maximum number of corrections."""
_CLOSE_DB: Final = 0.1
"""The correction ends when the sample is this close to the preset."""


@dataclass(frozen=True, slots=True)
class LoudnessMeasurement:
    """The measured loudness and levels of some audio. For silence each is SILENCE_DB."""

    loudness_lufs: float
    rms_dbfs: float
    peak_dbfs: float
    true_peak_dbfs: float
    """The peak with fourfold oversampling, so between samples too."""
    floor_dbfs: float
    """The RMS of the quietest half second."""


def fit(name: PresetName, tracks: Sequence[Track], store: Store) -> tuple[LoudnessMeasurement, Gain]:
    """Return the loudness of a book as spoken, and the gain that brings it to a preset.

    The limiter makes speech quieter (by 2 LU at -16 LUFS). The gain is raised until a sample of the book, limited, has
    the loudness of the preset; the sample has the same length for every book. Raises StoreError, MissingExtraError.
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
    """Return the gain that brings a book to a preset, not counting what the limiter changes; 0 dB for silence."""
    preset = PRESETS[name]
    aim = preset.loudness_lufs if preset.rms_dbfs is None else preset.rms_dbfs
    assert aim is not None, "a preset aims at something"
    have = _aimed_at(name, measured)
    return Gain(name, aim - have if have > SILENCE_DB else 0.0, preset.peak_dbfs - _HEADROOM_DB)


def measure(tracks: Iterable[Track], store: Store, gain: Gain | None = None) -> LoudnessMeasurement:
    """Measure all audio of a book, as spoken or with a gain. Raises StoreError, MissingExtraError."""
    tally = Tally()
    for track in tracks:
        meter = Meter(track.sample_rate)
        for pcm in master(track, store, gain):
            meter.feed(pcm)
        tally.add(meter)
    return tally.measured()


def _aimed_at(name: PresetName, measured: LoudnessMeasurement) -> float:
    """Return the measured value of the quantity that a preset sets."""
    return measured.loudness_lufs if PRESETS[name].rms_dbfs is None else measured.rms_dbfs


def _sample(tracks: Sequence[Track]) -> list[Track]:
    """Return every nth segment of every chapter, about _SAMPLE_S in all."""
    step = max(1, round(sum(track.duration_s for track in tracks) / _SAMPLE_S))
    return [replace(track, cues=track.cues[index % step :: step]) for index, track in enumerate(tracks)]


class Tally:
    """The sum of several meters: each chapter has its own, and together they are the book."""

    def __init__(self) -> None:
        self.samples = 0
        self.squares = 0.0
        self.peak = 0.0
        self.true_peak = 0.0
        self.floor_square = math.inf
        self.gated = _Gated()

    def add(self, meter: Meter) -> None:
        """Add the measurement of a complete chapter."""
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
    """Measures mono audio block by block. The result does not depend on the sizes of the blocks."""

    def __init__(self, rate_hz: int) -> None:
        self.levels = Levels(rate_hz)
        self.gated = _Gated()
        self._weighting = _KWeighting(rate_hz)
        self._between = _Between()
        self._slots = Slots(rate_hz)
        self._recent: Floats = np.zeros(0)

    def feed(self, pcm: Pcm) -> None:
        """Add samples, shape (n,)."""
        if not len(pcm):
            return
        samples = pcm / FULL_SCALE
        self.levels.feed(samples)
        self._between.feed(samples)
        recent = np.concatenate([self._recent, self._slots.feed(np.square(self._weighting.filter(samples)))])
        if len(recent) >= _GATE_SLOTS:
            self.gated.count(np.convolve(recent, np.full(_GATE_SLOTS, 1 / _GATE_SLOTS), "valid"))
        self._recent = recent[-(_GATE_SLOTS - 1) :]

    @property
    def true_peak(self) -> float:
        """The largest amplitude, between samples too, full scale 1."""
        return max(self.levels.peak, self._between.peak())

    def measured(self) -> LoudnessMeasurement:
        """Return the loudness of all samples so far. Less than 400 ms have the loudness of silence."""
        tally = Tally()
        tally.add(self)
        return tally.measured()


class _Gated:
    """A histogram of gating blocks by loudness, without those below the absolute gate."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._powers: Floats = np.zeros(_BINS)

    def count(self, powers: Floats) -> None:
        """Count blocks by their mean squares."""
        powers = powers[powers > 0]
        lufs = _OFFSET_LU + 10 * np.log10(powers)
        loud = lufs >= _ABSOLUTE_GATE_LUFS
        bins = np.minimum(_bin(lufs[loud]), _BINS - 1)
        np.add.at(self._counts, bins, 1)
        np.add.at(self._powers, bins, powers[loud])

    def add(self, other: _Gated) -> None:
        """Add the counts of another histogram."""
        self._counts += other._counts
        self._powers += other._powers

    def loudness_lufs(self) -> float:
        """Return the integrated loudness; SILENCE_DB if no block was counted."""
        if not self._counts.any():
            return SILENCE_DB
        gate = max(0, int(_bin(np.array(self._mean_lufs(0) + _RELATIVE_GATE_LU))))
        return self._mean_lufs(gate)

    def _mean_lufs(self, first_bin: int) -> float:
        """Return the loudness of the mean of all blocks from a bin up."""
        power = self._powers[first_bin:].sum() / self._counts[first_bin:].sum()
        return float(_OFFSET_LU + 10 * np.log10(power))


def _bin(lufs: Floats) -> NDArray[np.int64]:
    bins: NDArray[np.int64] = np.floor((lufs - _ABSOLUTE_GATE_LUFS) * _BINS_PER_LU).astype(np.int64)
    return bins


class _KWeighting:
    """The K-weighting of BS.1770: two filters that model head and ear. They keep their state between blocks."""

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

    def filter(self, samples: Floats) -> Floats:
        filtered: Floats
        filtered, self._state = self._filter(self._sections, samples, zi=self._state)
        return filtered


class _Between:
    """The peak between samples. It is computed only for blocks that could exceed the peak so far."""

    def __init__(self) -> None:
        self._recent: Floats = np.zeros(2 * REACH - 1)
        self._peak = 0.0

    def feed(self, samples: Floats) -> None:
        joined = np.concatenate([self._recent, samples])
        self._peak = max(self._peak, self._highest(joined))
        self._recent = joined[1 - 2 * REACH :]

    def peak(self) -> float:
        """Return the peak so far, as if silence followed."""
        return max(self._peak, self._highest(np.concatenate([self._recent, np.zeros(REACH)])))

    def _highest(self, joined: Floats) -> float:
        """Return the highest amplitude between samples; 0 if it cannot exceed the peak so far."""
        if float(np.abs(joined).max()) * between_gain() <= self._peak:
            return 0.0
        return float(between(joined).max())
