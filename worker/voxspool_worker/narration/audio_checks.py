"""Check the audio of a spoken segment: measure its samples, and name the faults that they show, given the text.

Pure functions of numbers, the same for every engine; the caller decides what follows from a fault. The limits are wide:
audio outside them is broken, not merely ugly. An engine that can detect more faults of its own reports them itself.

Faults, as marks name them, from bad to worse:
    level      much too quiet, or much too loud
    clipping   cut off at full scale
    silence    silent most of the time
    rate       too short or too long for its text
    empty      nothing was spoken
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Pcm = npt.NDArray[np.int16]

VERSION: Final = 1
"""Part of every segment's key. Raise it when a limit changes: segments that passed the old limits are spoken again."""
FULL_SCALE: Final = 32_767
"""Largest 16-bit sample; levels in dBFS are relative to it."""
NOTHING_DBFS: Final = -120.0
"""The level that stands for digital silence."""
FRAME_S: Final = 0.02
"""Length of the frames whose level is measured, in seconds."""
SILENT_DBFS: Final = -55.0
"""A frame below this level is silent; the noise between the words of an engine is lower."""
QUIETEST_DBFS: Final = -42.0
"""Lowest level of speech (see `AudioMeasurements.level_dbfs`). Piper speaks at -21 to -27."""
LOUDEST_DBFS: Final = -6.0
"""Highest level of speech. A sine at full scale has -3."""
CLIPPED_RUN: Final = 4
"""Number of samples in a row at full scale that make a clipped peak; two or three are an ordinary peak."""
CLIPPED_SHARE: Final = 0.001
"""Largest share of samples in clipped peaks: one plosive that is clipped for a moment is not audible."""
SILENT_SHARE: Final = 0.7
"""Largest share of silent frames, in audio longer than SILENT_LEAST_S."""
SILENT_LEAST_S: Final = 1.0
"""Audio up to this length, in seconds, may be silent for any share: a short word has as much silence around it."""

CHAR_S: Final = 0.0625
"""Seconds that a character takes when read aloud: 16 a second in English, as in `engines.xtts.output_check`."""
DIGIT_CHARS: Final = 6
"""Number of characters that a digit counts as: `7` is read as `seven`, `70` as `seventy`."""
WIDE_CHARS: Final = 4
"""Number of characters that one of Chinese, Japanese or Korean counts as: readers say four to eight a second."""
WIDE_FROM: Final = "\u2e80"
"""The first of these characters in Unicode."""
CAPITAL_CHARS: Final = 4
"""Number of characters that a capital letter after another counts as: `BBC` is spelt out."""
LONGEST: Final = 2.5
"""Longest plausible duration, as a multiple of the usual one; SLACK_S is added."""
SLACK_S: Final = 2.0
"""Part of the longest duration that does not grow with the text, in seconds."""
SHORTEST: Final = 0.3
"""Shortest plausible duration, as a multiple of the usual one: 53 characters a second, where fast speakers reach 30."""
SHORT_CHARS: Final = 25
"""A text with fewer characters has no shortest duration: it may be one that is hardly spoken at all."""


@dataclass(frozen=True, slots=True)
class AudioMeasurements:
    """What was measured in the samples of a segment."""

    duration_s: float
    level_dbfs: float
    """RMS over the frames that are not silent; NOTHING_DBFS if all are silent."""
    peak_dbfs: float
    silent_share: float
    """Share of silent frames, 0 to 1."""
    clipped_share: float
    """Share of samples in clipped peaks, 0 to 1."""


def measure(pcm: Pcm, rate: int) -> AudioMeasurements:
    """Measure samples, shape (n,), at `rate` Hz; n may be 0."""
    frame = round(FRAME_S * rate)
    frames = np.pad(pcm, (0, -len(pcm) % frame)).reshape(-1, frame).astype(np.float64) / FULL_SCALE
    power = np.mean(frames**2, axis=1)
    loud = power > 10 ** (SILENT_DBFS / 10)
    return AudioMeasurements(
        duration_s=len(pcm) / rate,
        level_dbfs=_dbfs(float(np.mean(power[loud])) if loud.any() else 0.0),
        peak_dbfs=_dbfs(float(np.max(frames**2)) if len(pcm) else 0.0),
        silent_share=1.0 - float(np.mean(loud)) if len(pcm) else 1.0,
        clipped_share=_clipped_samples(pcm) / max(1, len(pcm)),
    )


def faults(measured: AudioMeasurements, text: str, speed: float) -> list[str]:
    """Return the faults of a segment's audio, the worst first; empty if there are none."""
    if measured.level_dbfs <= NOTHING_DBFS:
        return ["empty"]
    shortest_s, longest_s = plausible_s(text)
    found = {
        "rate": not shortest_s <= measured.duration_s * speed <= longest_s,
        "silence": measured.silent_share > SILENT_SHARE and measured.duration_s > SILENT_LEAST_S,
        "clipping": measured.clipped_share > CLIPPED_SHARE,
        "level": not QUIETEST_DBFS <= measured.level_dbfs <= LOUDEST_DBFS,
    }
    return [fault for fault, is_so in found.items() if is_so]


def plausible_s(text: str) -> tuple[float, float]:
    """Return the shortest and the longest plausible duration of a text, in seconds, at speed 1."""
    shortest_s = SHORTEST * CHAR_S * len(text) if len(text) >= SHORT_CHARS else 0.0
    return shortest_s, SLACK_S + LONGEST * CHAR_S * sum(map(_spoken_chars, text, " " + text))


def _spoken_chars(character: str, before: str) -> int:
    """Return the number of characters that one counts as, when it follows `before`."""
    if character.isdigit():
        return DIGIT_CHARS
    if character >= WIDE_FROM:
        return WIDE_CHARS
    return CAPITAL_CHARS if character.isupper() and before.isupper() else 1


def _clipped_samples(pcm: Pcm) -> int:
    """Return the number of samples in clipped peaks."""
    full = np.concatenate(([False], np.abs(pcm.astype(np.int32)) >= FULL_SCALE, [False]))
    edges = np.flatnonzero(full[1:] != full[:-1])
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= CLIPPED_RUN].sum())


def _dbfs(power: float) -> float:
    """Return the level of a mean square relative to full scale, in dB, rounded to a hundredth."""
    return round(10 * float(np.log10(max(power, 10 ** (NOTHING_DBFS / 10)))), 2)
