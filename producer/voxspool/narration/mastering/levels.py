"""Samples -> RMS, peak and noise floor, as a meter shows them. In a stream: memory does not grow.

`loudness` measures what ears hear.
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
"""What silence is called: below anything that 16 bits can hold, and a number that JSON can."""

FULL_SCALE: Final = 32_768
"""The int16 amplitude that 0 dBFS is."""

REACH: Final = 6
"""How many samples to either side say what lies between two of them: 12, the taps of BS.1770-4, annex 2."""

_QUARTERS: Final = np.arange(1, 4) / 4
"""Where to look between two samples: with the samples themselves that is four times as many."""

_FLOOR_SLOTS: Final = 5
"""Half a second in slots: the noise floor is the RMS of the quietest half second, as ACX's own checks measure it."""


def decibels(amplitude: float) -> float:
    """Return an amplitude in dB of 1.0, at least SILENCE_DB."""
    return max(SILENCE_DB, 20 * math.log10(amplitude)) if amplitude > 0 else SILENCE_DB


def between(samples: Floats) -> Floats:
    """Return the greatest amplitude between each sample and its next one.

    Shape (n,) to (n - 11,): the first is behind samples[5], the last behind samples[n - 7].
    """
    points = [np.abs(np.convolve(samples, taps[::-1], "valid")) for taps in _interpolators()]
    greatest: Floats = np.maximum.reduce(points)
    return greatest


@cache
def _interpolators() -> Floats:
    """Windowed sincs, one for each quarter, shape (3, 12)."""
    distances = np.arange(1 - REACH, REACH + 1) - _QUARTERS[:, None]
    taps: Floats = np.sinc(distances) * np.cos(np.pi * distances / (2 * REACH + 2)) ** 2
    taps /= taps.sum(axis=1, keepdims=True)
    return taps


@cache
def between_gain() -> float:
    """Return how many times as high as all samples it can at most be between them."""
    return float(np.abs(_interpolators()).sum(axis=1).max())


class Slots:
    """Squares of samples -> the mean of each 100 ms of them, whatever the sizes they come in."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._slot = 0
        self._held: Floats = np.zeros(0)

    def feed(self, squares: Floats) -> Floats:
        """Take the next, shape (n,); give the means of the slots that are full now, shape (slots,), often none."""
        self._held = np.concatenate([self._held, squares])
        start = self._slot * self._rate_hz // 10
        last = (start + len(self._held)) * 10 // self._rate_hz + 1  # where the rate is no multiple of 10, one too far
        bounds = np.arange(self._slot, last + 1) * self._rate_hz // 10 - start
        bounds = bounds[bounds <= len(self._held)]
        if len(bounds) < 2:
            return np.zeros(0)
        full, self._held = self._held[: bounds[-1]], self._held[bounds[-1] :]
        self._slot += len(bounds) - 1
        means: Floats = np.add.reduceat(full, bounds[:-1]) / np.diff(bounds)
        return means


class Levels:
    """The levels of one stretch of audio, up to now."""

    def __init__(self, rate_hz: int) -> None:
        self._slots = Slots(rate_hz)
        self._recent: Floats = np.zeros(0)
        self.samples = 0
        self.squares = 0.0
        """The sum of the squares of all samples, full scale 1."""
        self.peak = 0.0
        """The greatest amplitude, full scale 1."""
        self.floor_square = math.inf
        """The mean square of the quietest half second; infinite before there was one."""

    def feed(self, samples: Floats) -> None:
        """Take the next, full scale 1, shape (n,) or (n, channels)."""
        squares = np.square(samples)
        if squares.ndim == 2:
            squares = squares.mean(axis=1)
        self.samples += len(squares)
        self.squares += float(squares.sum())
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        self._floor(self._slots.feed(squares))

    @property
    def rms_dbfs(self) -> float:
        """Over all of it, pauses too."""
        return decibels(math.sqrt(self.squares / self.samples)) if self.samples else SILENCE_DB

    @property
    def peak_dbfs(self) -> float:
        """Of the samples; between them it may be higher."""
        return decibels(self.peak)

    @property
    def floor_dbfs(self) -> float:
        """The RMS of the quietest half second; of less than half a second, its RMS."""
        return decibels(math.sqrt(self.floor_square)) if math.isfinite(self.floor_square) else self.rms_dbfs

    def _floor(self, slots: Floats) -> None:
        recent = np.concatenate([self._recent, slots])
        if len(recent) >= _FLOOR_SLOTS:
            halves = np.convolve(recent, np.full(_FLOOR_SLOTS, 1 / _FLOOR_SLOTS), "valid")
            self.floor_square = min(self.floor_square, max(0.0, float(halves.min())))
        self._recent = recent[-(_FLOOR_SLOTS - 1) :]
