"""Samples -> the same samples with a gain, and none above a ceiling. Works on a stream.

The limiter looks ahead: the gain falls smoothly before a peak and rises slowly after it. Far from peaks it is exactly
the requested gain. Peaks between two samples count too, because resamplers and lossy codecs bring them out. No sample
exceeds the ceiling; between samples it is kept within 0.05 dB. The output does not depend on how the input is divided
into blocks: it is divided again, into blocks of one size.
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
"""Time before a peak at which the gain starts to fall, in seconds. A shorter one is audible as a click, a longer one as
a gap."""
_RELEASE_DB_S: Final = 120.0
"""Speed at which the gain returns, in dB a second. A reduction of 12 dB, the most that speech at -16 LUFS needs, ends
within 100 ms, less than a syllable. 60 was tried: the same loudness then needs 0.6 dB more gain."""
_BLOCK_SAMPLES: Final = 16_384


class Limiter:
    """Applies a gain and a ceiling to a stream.

    It returns as many samples as it gets. `feed` may hold back up to a block; `finish` returns the last samples. The
    output is in step with the input: nothing is inserted.
    """

    def __init__(self, rate_hz: int, *, gain_db: float, ceiling_dbfs: float) -> None:
        self._gain = 10 ** (gain_db / 20)
        self._ceiling = min(FULL_SCALE - 1, int(FULL_SCALE * 10 ** (ceiling_dbfs / 20)))
        self._ahead = max(1, round(_AHEAD_S * rate_hz))
        window = np.hanning(self._ahead + 3)[1:-1]
        self._window = window / window.sum()
        self._release_db = _RELEASE_DB_S / rate_hz
        self._arrived: Pcm = np.zeros(0, np.int16)  # input, less than a block
        self._waiting: Pcm = np.zeros(0, np.int16)  # analysed input that is not returned yet
        self._seen: Floats = np.zeros(2 * REACH)  # the last analysed samples: the next block tells what is between them
        self._depths: Floats = np.zeros(
            self._ahead - REACH
        )  # reductions in dB, from `ahead` before the first waiting one

    def feed(self, pcm: Pcm) -> Pcm:
        """Add samples, shape (n,), and return those that are ready, shape (m,)."""
        self._arrived = np.concatenate([self._arrived, pcm])
        ready = []
        while len(self._arrived) >= _BLOCK_SAMPLES:
            block, self._arrived = self._arrived[:_BLOCK_SAMPLES], self._arrived[_BLOCK_SAMPLES:]
            self._waiting = np.concatenate([self._waiting, block])
            self._analyse(block)
            ready.append(self._limited(len(self._waiting) - self._ahead - REACH))
        return np.concatenate(ready) if ready else np.zeros(0, np.int16)

    def finish(self) -> Pcm:
        """Return the samples that are left, as if silence followed."""
        self._waiting, rest = np.concatenate([self._waiting, self._arrived]), self._arrived
        self._arrived = rest[:0]
        self._analyse(np.concatenate([rest, np.zeros(self._ahead + REACH, np.int16)]))
        return self._limited(len(self._waiting))

    def _analyse(self, block: Pcm) -> None:
        """Add the reductions of the samples that now have REACH samples on both sides."""
        samples = np.concatenate([self._seen, block * self._gain])
        self._seen = samples[-2 * REACH :]
        self._depths = np.concatenate([self._depths, self._released(self._needed(samples))])

    def _needed(self, samples: Floats) -> Floats:
        """Return how far each sample, or the signal beside it, exceeds the ceiling, in dB; shape (n,) to (n - 12,)."""
        own = np.abs(samples[REACH:-REACH])
        if float(np.abs(samples).max()) * between_gain() <= self._ceiling:
            return np.zeros(len(own))
        beside = between(samples)
        highest = np.maximum.reduce([own, beside[:-1], beside[1:]])
        depths: Floats = 20 * np.log10(np.maximum(1.0, highest / self._ceiling))
        return depths

    def _released(self, needed: Floats) -> Floats:
        """Return reductions that decrease no faster than the release, down to exactly 0."""
        if not needed.any() and not self._depths[-1]:
            return needed
        slope = self._release_db * np.arange(1, len(needed) + 1)
        raised = needed + slope
        np.maximum(raised, self._depths[-1], out=raised)
        depths: Floats = np.maximum(0.0, np.maximum.accumulate(raised) - slope)
        return depths

    def _limited(self, count: int) -> Pcm:
        """Return the next `count` waiting samples, limited. The reductions up to `ahead` on both sides are known."""
        pcm, self._waiting = self._waiting[:count], self._waiting[count:]
        around = self._depths[: count + 2 * self._ahead]
        self._depths = self._depths[count:]
        if count == 0 or (self._gain == 1 and not around.any()):
            return pcm
        scaled = np.rint(pcm * (self._gain * self._smooth(around)))
        limited: Pcm = scaled.clip(-self._ceiling, self._ceiling).astype(np.int16)
        return limited

    def _smooth(self, around: Floats) -> Floats | float:
        """Return the factors for the reductions around samples; 1 if there are none.

        The largest reduction within `ahead` is averaged over a window before the sample. Each averaged value covers the
        sample itself, so the mean is large enough, and the window limits how fast it changes.
        """
        if not around.any():
            return 1.0
        deepest = np.lib.stride_tricks.sliding_window_view(around, self._ahead + 1).max(axis=1)
        factors: Floats = 10 ** (np.convolve(deepest, self._window, "valid") / -20)
        return factors
