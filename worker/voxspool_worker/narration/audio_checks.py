"""Check a spoken segment: which faults its samples show, given its text.

Pure functions of numbers, the same for every engine; the chapter's job decides what follows from a fault. The bounds
are wide: audio outside them is broken, not ugly. An engine that can detect more faults of its own reports them
itself.

Faults, as marks name them, from bad to worse:
    level      much too quiet, or much too loud
    clipping   cut off at full scale
    silence    silent for most of its time
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
"""Rises when a bound changes: what was kept by other bounds is then spoken again."""
FULL_SCALE: Final = 32_767
NOTHING_DBFS: Final = -120.0
FRAME_S: Final = 0.02
SILENT_DBFS: Final = -55.0
"""The level below which a frame is silent; the noise between an engine's words is lower."""
QUIETEST_DBFS: Final = -42.0
LOUDEST_DBFS: Final = -6.0
"""The level of what is not silent, at its limits. Piper speaks at -21 to -27; a sine of full scale has -3."""
CLIPPED_RUN: Final = 4
"""So many samples at full scale in a row are a cut-off peak; two or three are a peak."""
CLIPPED_SHARE: Final = 0.001
"""How much of the samples may lie in such runs: a plosive that is cut off for a moment is not heard."""
SILENT_SHARE: Final = 0.7
SILENT_LEAST_S: Final = 1.0
"""How much may be silence, of what is longer than SILENT_LEAST_S: a short word has its own length around it."""

CHAR_S: Final = 0.0625
"""Seconds that a character takes, read aloud: 16 a second in English, as in `engines.xtts.guard`."""
DIGIT_CHARS: Final = 6
"""Characters that a digit may be worth: `7` is read as `seven`, `70` as `seventy`."""
WIDE_CHARS: Final = 4
"""And a character of Chinese, Japanese or Korean: four to eight a second."""
WIDE_FROM: Final = "\u2e80"
CAPITAL_CHARS: Final = 4
"""And a capital letter beside another: `BBC` is spelt."""
LONGEST: Final = 2.5
SLACK_S: Final = 2.0
"""Times the usual length that is still plausible; and what does not grow with the text."""
SHORTEST: Final = 0.3
"""Times the usual length below which words are missing: 53 characters a second, where nobody speaks 30."""
SHORT_CHARS: Final = 25
"""A shorter text has no shortest length: it may be one that is read as next to nothing."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was measured of a segment's samples."""

    duration_s: float
    level_dbfs: float
    """RMS over the frames that are not silent; NOTHING_DBFS for none."""
    peak_dbfs: float
    silent_share: float
    """How much of it is silence, 0 to 1."""
    clipped_share: float
    """How much of it lies in runs at full scale, 0 to 1."""


def measure(pcm: Pcm, rate: int) -> Heard:
    """Measure samples, shape (n,)."""
    frame = round(FRAME_S * rate)
    whole = np.pad(pcm, (0, -len(pcm) % frame)).reshape(-1, frame).astype(np.float64) / FULL_SCALE
    power = np.mean(whole**2, axis=1)
    loud = power > 10 ** (SILENT_DBFS / 10)
    return Heard(
        duration_s=len(pcm) / rate,
        level_dbfs=_dbfs(float(np.mean(power[loud])) if loud.any() else 0.0),
        peak_dbfs=_dbfs(float(np.max(whole**2)) if len(pcm) else 0.0),
        silent_share=1.0 - float(np.mean(loud)) if len(pcm) else 1.0,
        clipped_share=_clipped_samples(pcm) / max(1, len(pcm)),
    )


def faults(heard: Heard, text: str, speed: float) -> list[str]:
    """Return the faults of a segment's audio, the worst first; empty if there are none."""
    if heard.level_dbfs <= NOTHING_DBFS:
        return ["empty"]
    shortest_s, longest_s = plausible_s(text)
    found = {
        "rate": not shortest_s <= heard.duration_s * speed <= longest_s,
        "silence": heard.silent_share > SILENT_SHARE and heard.duration_s > SILENT_LEAST_S,
        "clipping": heard.clipped_share > CLIPPED_SHARE,
        "level": not QUIETEST_DBFS <= heard.level_dbfs <= LOUDEST_DBFS,
    }
    return [fault for fault, is_so in found.items() if is_so]


def plausible_s(text: str) -> tuple[float, float]:
    """Return the shortest and the longest plausible duration of a text, in seconds, at speed 1."""
    shortest_s = SHORTEST * CHAR_S * len(text) if len(text) >= SHORT_CHARS else 0.0
    return shortest_s, SLACK_S + LONGEST * CHAR_S * sum(map(_worth, text, " " + text))


def _worth(character: str, before: str) -> int:
    """Return how many characters one may be read as."""
    if character.isdigit():
        return DIGIT_CHARS
    if character >= WIDE_FROM:
        return WIDE_CHARS
    return CAPITAL_CHARS if character.isupper() and before.isupper() else 1


def _clipped_samples(pcm: Pcm) -> int:
    """Count the samples that lie in runs at full scale."""
    full = np.concatenate(([False], np.abs(pcm.astype(np.int32)) >= FULL_SCALE, [False]))
    edges = np.flatnonzero(full[1:] != full[:-1])
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= CLIPPED_RUN].sum())


def _dbfs(power: float) -> float:
    """Return a mean square against full scale in dB, to a hundredth."""
    return round(10 * float(np.log10(max(power, 10 ** (NOTHING_DBFS / 10)))), 2)
