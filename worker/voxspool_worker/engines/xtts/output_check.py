"""Checks the audio of a segment: whether its length is plausible for the text, and whether it ends in silence or noise.

Sometimes XTTS does not stop at the end of the text but repeats words, hums or hisses, mostly after short texts; and
sometimes it stops in the middle. These functions only detect that; the engine then tries again with another seed.

Faults, with the names of mark entries, in order of severity:
    silence   the last second is silent
    noise     the last second is noise
    rate      the audio is too short or too long for the text
    cap       the model produced its maximum number of tokens without a stop token
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.protocol.pace import ENGLISH_CHARS_PER_S
from voxspool_worker.text import duration

if TYPE_CHECKING:
    import numpy.typing as npt

    from voxspool_worker.text.duration import PlausibleDuration

FAULTS: Final = ("", "silence", "noise", "rate", "cap")
"""All faults in order of severity; the empty text means none."""
ENGLISH_MAX_CHARS: Final = 250
"""XTTS's length limit for English. The limits of languages stand for about the same time, so they give the pace."""
END_S: Final = 1.0
"""Duration of silence or noise at the end that counts as a fault, in seconds."""
FRAME_S: Final = 0.02
"""Duration of an analysis frame, in seconds."""
SILENT_DB: Final = -55.0
"""Level below which a frame is silent, in dBFS."""
NOISE_FLATNESS: Final = 0.4
"""Spectral flatness above which a frame is noise: white noise has 0.56, voiced speech under 0.1, an s about 0.3."""


def plausible_duration(text: str, max_chars: int) -> PlausibleDuration:
    """Return the plausible duration of a text; `max_chars` is XTTS's length limit for its language."""
    return duration.plausible_duration(text, ENGLISH_CHARS_PER_S * max_chars / ENGLISH_MAX_CHARS)


def end_fault(samples: npt.NDArray[np.float32], rate: int) -> str:
    """Return the fault at the end of samples (n,), -1 to 1, at `rate` Hz: `silence`, `noise` or an empty text."""
    frame = round(FRAME_S * rate)
    count = math.ceil(END_S / FRAME_S)
    if len(samples) < count * frame:
        return ""
    frames = samples[len(samples) - count * frame :].reshape(count, frame).astype(np.float64)
    power = np.mean(frames**2, axis=1)
    silent = 10 * np.log10(power + 1e-12) < SILENT_DB
    if silent.all():
        return "silence"
    noisy = ~silent & (_flatness(frames) > NOISE_FLATNESS)
    return "noise" if noisy.all() else ""


def _flatness(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the spectral flatness of each frame, 0 to 1: geometric over arithmetic mean of its power spectrum."""
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), axis=1))[:, 1:] ** 2 + 1e-15
    flatness: npt.NDArray[np.float64] = np.exp(np.mean(np.log(spectrum), axis=1)) / np.mean(spectrum, axis=1)
    return flatness


def badness(fault: str, seconds: float, plausible: PlausibleDuration) -> tuple[int, float]:
    """Return a sort key for attempts at one segment: the best attempt has the smallest.

    It compares the severity of the fault, then the ratio between the duration and the expected one.
    """
    return FAULTS.index(fault), abs(math.log(max(seconds, 1e-3) / max(plausible.expected_s, 1e-3)))
