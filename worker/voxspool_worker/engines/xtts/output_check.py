"""Check a spoken segment: whether its length is plausible for its text, and its end is clean.

Sometimes XTTS does not stop: it repeats, hums or hisses after its text, most of all after short ones; or it stops in
the middle. So the length of a segment must be within a band that follows from its text, and its end is checked. Pure
functions of numbers: the engine decides what follows from a fault (speaking again with another seed).

Faults, as mark entries name them, from bad to worse:
    silence   more than a second of silence at the end
    noise     more than a second of noise at the end
    rate      too short or too long for its text
    cap       as many tokens as the model may produce: it did not stop
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

FAULTS: Final = ("", "silence", "noise", "rate", "cap")
"""From good to bad."""
CHAR_S: Final = 0.0625
"""Seconds that a character of English takes, read aloud: 16 a second."""
ENGLISH_CHARS: Final = 250
"""XTTS's limit for an English text. Its limits follow what a language says in a time: their ratio is pace."""
DIGIT_CHARS: Final = 6
"""Characters that a digit is worth: `7` is read as `seven`, `70` as `seventy`."""
LONGEST: Final = 2.2
"""Times the usual length that is still plausible; and SLACK_S for what does not grow with the text."""
SLACK_S: Final = 2.0
SHORTEST: Final = 0.35
"""Times the usual length below which words are missing; not asked of a text under SHORT_CHARS."""
SHORT_CHARS: Final = 25
END_S: Final = 1.0
"""How long the end must be silent or noisy to count."""
FRAME_S: Final = 0.02
SILENT_DB: Final = -55.0
"""Level below which a frame is silent, against full scale."""
FLAT: Final = 0.4
"""Spectral flatness above which a frame is noise: white noise has 0.56, voiced speech below 0.1, an s about 0.3."""


@dataclass(frozen=True, slots=True)
class Band:
    """How long a segment may be, in seconds, at speed 1."""

    shortest_s: float
    usual_s: float
    longest_s: float


def band(text: str, max_chars: int) -> Band:
    """Return the plausible length of a text in a language of which XTTS takes `max_chars` at once."""
    digits = sum(character.isdigit() for character in text)
    chars = len(text) + (DIGIT_CHARS - 1) * digits
    usual_s = chars * CHAR_S * ENGLISH_CHARS / max_chars
    shortest_s = SHORTEST * usual_s if chars >= SHORT_CHARS else 0.0
    return Band(shortest_s, usual_s, SLACK_S + LONGEST * usual_s)


def end_fault(samples: npt.NDArray[np.float32], rate: int) -> str:
    """Return what is wrong with the end of an audio (n,), -1 to 1: `silence`, `noise` or an empty text."""
    frame = round(FRAME_S * rate)
    count = math.ceil(END_S / FRAME_S)
    if len(samples) < count * frame:
        return ""
    frames = samples[len(samples) - count * frame :].reshape(count, frame).astype(np.float64)
    power = np.mean(frames**2, axis=1)
    silent = 10 * np.log10(power + 1e-12) < SILENT_DB
    if silent.all():
        return "silence"
    noisy = ~silent & (_flatness(frames) > FLAT)
    return "noise" if noisy.all() else ""


def _flatness(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each frame's spectral flatness: geometric over arithmetic mean of its power spectrum, 0 to 1."""
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), axis=1))[:, 1:] ** 2 + 1e-15
    flatness: npt.NDArray[np.float64] = np.exp(np.mean(np.log(spectrum), axis=1)) / np.mean(spectrum, axis=1)
    return flatness


def worse(fault: str, seconds: float, plausible: Band) -> tuple[int, float]:
    """Rank a try: the smallest is the best. Of equal faults, the one nearest to the usual length."""
    return FAULTS.index(fault), abs(math.log(max(seconds, 1e-3) / max(plausible.usual_s, 1e-3)))
