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

from voxspool_worker.text.duration import plausible_duration_at_any_pace

if TYPE_CHECKING:
    import numpy.typing as npt

    Pcm = npt.NDArray[np.int16]

VERSION: Final = 1
"""Part of every segment's key. Raise it when a limit changes, here or in `text.duration`: segments that passed the old
limits are spoken again."""
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
"""Length in seconds up to which audio may have any share of silence: a short word has as much silence around it."""


@dataclass(frozen=True, slots=True)
class AudioMeasurements:
    """The measurements of a segment's samples."""

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
    plausible = plausible_duration_at_any_pace(text)
    found = {
        "rate": not plausible.min_s <= measured.duration_s * speed <= plausible.max_s,
        "silence": measured.silent_share > SILENT_SHARE and measured.duration_s > SILENT_LEAST_S,
        "clipping": measured.clipped_share > CLIPPED_SHARE,
        "level": not QUIETEST_DBFS <= measured.level_dbfs <= LOUDEST_DBFS,
    }
    return [fault for fault, is_so in found.items() if is_so]


def _clipped_samples(pcm: Pcm) -> int:
    """Return the number of samples in clipped peaks."""
    full = np.concatenate(([False], np.abs(pcm.astype(np.int32)) >= FULL_SCALE, [False]))
    edges = np.flatnonzero(full[1:] != full[:-1])
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= CLIPPED_RUN].sum())


def _dbfs(power: float) -> float:
    """Return the level of a mean square relative to full scale, in dB, rounded to a hundredth."""
    return round(10 * float(np.log10(max(power, 10 ** (NOTHING_DBFS / 10)))), 2)
