"""Samples -> the same samples, louder or quieter, with nothing above a ceiling. In a stream.

The limiter looks ahead: the gain falls smoothly before a peak and rises slowly after it. Far from peaks the gain is
exactly the one that was asked for. Peaks between two samples count too, because resamplers and lossy codecs reveal
them. Samples keep the ceiling exactly, what is between them within 0.05 dB. The output does not depend on the sizes
of the blocks: inside, all blocks have one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.narration.mastering.levels import FULL_SCALE, REACH, between, between_gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Pcm = NDArray[np.int16]

_AHEAD_S: Final = 0.005
"""How long before a peak the gain begins to fall: shorter is heard as a click, longer as a hole."""
_RELEASE_DB_S: Final = 120.0
"""How fast the gain comes back: from 12 dB, the most that speech at -16 LUFS needs, in 100 ms, less than a syllable.
60 was tried: it takes 0.6 dB more of gain to be as loud."""
_BLOCK_SAMPLES: Final = 16_384


class Limiter:
    """A gain and a ceiling for one stretch of audio. As many samples come out as go in, `finish` gives the last.

    Between the two calls it holds back up to a block: the output is not delayed, it comes later.
    """

    def __init__(self, rate_hz: int, *, gain_db: float, ceiling_dbfs: float) -> None:
        self._gain = 10 ** (gain_db / 20)
        self._ceiling = min(FULL_SCALE - 1, int(FULL_SCALE * 10 ** (ceiling_dbfs / 20)))
        self._ahead = max(1, round(_AHEAD_S * rate_hz))
        window = np.hanning(self._ahead + 3)[1:-1]
        self._window = window / window.sum()
        self._release_db = _RELEASE_DB_S / rate_hz
        self._arrived: Pcm = np.zeros(0, np.int16)  # not yet a block
        self._waiting: Pcm = np.zeros(0, np.int16)  # what comes next out, up to what was looked at
        self._seen: Floats = np.zeros(2 * REACH)  # the last that were looked at: what is between them is known later
        self._depths: Floats = np.zeros(self._ahead - REACH)  # dB to turn down, from `ahead` behind what waits

    def feed(self, pcm: Pcm) -> Pcm:
        """Take the next samples, shape (n,); give those that are ready, shape (m,)."""
        self._arrived = np.concatenate([self._arrived, pcm])
        ready = []
        while len(self._arrived) >= _BLOCK_SAMPLES:
            block, self._arrived = self._arrived[:_BLOCK_SAMPLES], self._arrived[_BLOCK_SAMPLES:]
            self._waiting = np.concatenate([self._waiting, block])
            self._look_at(block)
            ready.append(self._give(len(self._waiting) - self._ahead - REACH))
        return np.concatenate(ready) if ready else np.zeros(0, np.int16)

    def finish(self) -> Pcm:
        """Return what is left, as if silence followed."""
        self._waiting, rest = np.concatenate([self._waiting, self._arrived]), self._arrived
        self._arrived = rest[:0]
        self._look_at(np.concatenate([rest, np.zeros(self._ahead + REACH, np.int16)]))
        return self._give(len(self._waiting))

    def _look_at(self, block: Pcm) -> None:
        """Add the depths of the samples that now have `REACH` samples on both sides."""
        samples = np.concatenate([self._seen, block * self._gain])
        self._seen = samples[-2 * REACH :]
        self._depths = np.concatenate([self._depths, self._released(self._needed(samples))])

    def _needed(self, samples: Floats) -> Floats:
        """Return by how many dB each is too high, itself or what is beside it, 0 for none; shape (n,) to (n - 12,)."""
        own = np.abs(samples[REACH:-REACH])
        if float(np.abs(samples).max()) * between_gain() <= self._ceiling:
            return np.zeros(len(own))
        beside = between(samples)
        highest = np.maximum.reduce([own, beside[:-1], beside[1:]])
        depths: Floats = 20 * np.log10(np.maximum(1.0, highest / self._ceiling))
        return depths

    def _released(self, needed: Floats) -> Floats:
        """Let each depth fall behind it no faster than the release, to exactly 0."""
        if not needed.any() and not self._depths[-1]:
            return needed
        slope = self._release_db * np.arange(1, len(needed) + 1)
        raised = needed + slope
        np.maximum(raised, self._depths[-1], out=raised)
        depths: Floats = np.maximum(0.0, np.maximum.accumulate(raised) - slope)
        return depths

    def _give(self, count: int) -> Pcm:
        """Turn down the next `count` samples; their depths and `ahead` to either side are known."""
        pcm, self._waiting = self._waiting[:count], self._waiting[count:]
        around = self._depths[: count + 2 * self._ahead]
        self._depths = self._depths[count:]
        if count == 0 or (self._gain == 1 and not around.any()):
            return pcm
        turned = np.rint(pcm * (self._gain * self._smooth(around)))
        limited: Pcm = turned.clip(-self._ceiling, self._ceiling).astype(np.int16)
        return limited

    def _smooth(self, around: Floats) -> Floats | float:
        """Return the factors, 1 where nothing is near.

        The deepest of what lies ahead is averaged over what lies behind: every value that is averaged covers the sample
        itself, so the mean is as deep as it needs, and it changes no faster than the window lets it.
        """
        if not around.any():
            return 1.0
        deepest = np.lib.stride_tricks.sliding_window_view(around, self._ahead + 1).max(axis=1)
        factors: Floats = 10 ** (np.convolve(deepest, self._window, "valid") / -20)
        return factors
