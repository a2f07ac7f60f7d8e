"""Samples -> RMS, peak and noise floor, and the peaks between samples. Works on a stream: memory does not grow.

`loudness` measures the perceived loudness.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SILENCE_DB: Final = -120.0
"""The level that stands for silence. 16 bits reach no lower than -96, and JSON has no infinity."""

FULL_SCALE: Final = 32_768
"""The int16 amplitude of 0 dBFS."""

REACH: Final = 6
"""Samples on each side that determine the signal between two samples: with 12 taps in all, as in BS.1770-4, annex 2."""

_QUARTERS: Final = np.arange(1, 4) / 4
"""The three places between two samples that are computed: fourfold oversampling."""

_FLOOR_SLOTS: Final = 5
"""Slots in half a second. The noise floor is the RMS of the quietest half second, as in the checks of ACX."""


def decibels(amplitude: float) -> float:
    """Return an amplitude in dB relative to 1.0, at least SILENCE_DB."""
    return max(SILENCE_DB, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE_DB


def between(samples: Floats) -> Floats:
    """Return the largest amplitude between each sample and the next one.

    Shape (n,) to (n - 11,): the first is that after samples[5], the last that after samples[n - 7].
    """
    points = [np.abs(np.convolve(samples, taps[::-1], "valid")) for taps in _interpolators()]
    greatest: Floats = np.maximum.reduce(points)
    return greatest


@cache
def _interpolators() -> Floats:
    """Return windowed sinc filters, one for each place between two samples, shape (3, 12)."""
    distances = np.arange(1 - REACH, REACH + 1) - _QUARTERS[:, None]
    taps: Floats = np.sinc(distances) * np.cos(np.pi * distances / (2 * REACH + 2)) ** 2
    taps /= taps.sum(axis=1, keepdims=True)
    return taps


@cache
def between_gain() -> float:
    """Return the largest ratio of an amplitude between samples to the highest of the samples around it."""
    return float(np.abs(_interpolators()).sum(axis=1).max())


class Slots:
    """Squares of samples, in blocks of any sizes -> the mean of each slot, which is 100 ms."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._slot = 0
        self._held: Floats = np.zeros(0)

    def feed(self, squares: Floats) -> Floats:
        """Add squares, shape (n,); return the means of the slots that are now full, shape (slots,), often none."""
        self._held = np.concatenate([self._held, squares])
        start = self._slot * self._rate_hz // 10
        last = (start + len(self._held)) * 10 // self._rate_hz + 1  # if the rate is no multiple of 10, one too many
        bounds = np.arange(self._slot, last + 1) * self._rate_hz // 10 - start
        bounds = bounds[bounds <= len(self._held)]
        if len(bounds) < 2:
            return np.zeros(0)
        full, self._held = self._held[: bounds[-1]], self._held[bounds[-1] :]
        self._slot += len(bounds) - 1
        means: Floats = np.add.reduceat(full, bounds[:-1]) / np.diff(bounds)
        return means


class Levels:
    """The levels of the audio that was fed so far."""

    def __init__(self, rate_hz: int) -> None:
        self._slots = Slots(rate_hz)
        self._recent: Floats = np.zeros(0)
        self.samples = 0
        self.squares = 0.0
        """The sum of the squares of all samples, full scale 1."""
        self.peak = 0.0
        """The largest amplitude, full scale 1."""
        self.floor_square = math.inf
        """The mean square of the quietest half second; infinite until there is one."""

    def feed(self, samples: Floats) -> None:
        """Add samples, full scale 1, shape (n,) or (n, channels)."""
        squares = np.square(samples)
        if squares.ndim == 2:
            squares = squares.mean(axis=1)
        self.samples += len(squares)
        self.squares += float(squares.sum())
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        self._floor(self._slots.feed(squares))

    @property
    def rms_dbfs(self) -> float:
        """The RMS of all samples, pauses included."""
        return decibels(math.sqrt(self.squares / self.samples)) if self.samples else SILENCE_DB

    @property
    def peak_dbfs(self) -> float:
        """The highest sample. Between samples the signal may be higher."""
        return decibels(self.peak)

    @property
    def floor_dbfs(self) -> float:
        """The RMS of the quietest half second; if there is less than half a second, that of all samples."""
        return decibels(math.sqrt(self.floor_square)) if math.isfinite(self.floor_square) else self.rms_dbfs

    def _floor(self, slots: Floats) -> None:
        """Update the noise floor with the means of further slots."""
        recent = np.concatenate([self._recent, slots])
        if len(recent) >= _FLOOR_SLOTS:
            halves = np.convolve(recent, np.full(_FLOOR_SLOTS, 1 / _FLOOR_SLOTS), "valid")
            self.floor_square = min(self.floor_square, max(0.0, float(halves.min())))
        self._recent = recent[-(_FLOOR_SLOTS - 1) :]
