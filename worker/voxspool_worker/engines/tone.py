"""The engine `tone`: it turns each segment into a sine wave. For tests and for trying the system without a model.

It has the same interface as the speech engines but needs neither weights nor libraries. A segment of n characters
lasts n x CHAR_S / speed seconds. Its pitch depends only on its seed, so a segment gives the same samples on every
machine. The voice `sine` is produced as fast as possible, the voice `sine-live` in real time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool_worker.engines.base import AudioChunk, Prepared
from voxspool_worker.text import Limits
from voxspool_worker.voices.catalog import Voice

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from voxspool_worker.engines.base import SpeechSegment

CHAR_S: Final = 0.06
"""Duration of one character, in seconds: about the speaking rate of English (16 characters per second)."""
STEP_S: Final = 0.05
"""Audio that one step produces for each row, in seconds."""
AMPLITUDE: Final = 0.25
"""Peak amplitude as a share of full scale: close to the level of speech."""
LOWEST_HZ: Final = 220
"""Frequency of the lowest pitch, in Hz."""
FAST: Final = Voice("sine", ())
LIVE: Final = Voice("sine-live", ())
PITCHES: Final = 24
"""Number of pitches: two octaves of semitones above LOWEST_HZ."""


@dataclass(slots=True)
class _ToneRow:
    """A segment that is being spoken."""

    segment: SpeechSegment
    samples: npt.NDArray[np.int16]
    emitted: int = 0
    """Number of samples that `step` has returned."""


class ToneEngine:
    """The engine `tone`. See `engines.base.Engine` for the methods."""

    name: Final = "tone"
    model: Final = "sine-1"
    device: Final = "cpu"
    sample_rate: Final = 24_000

    def __init__(self, rows: int = 8) -> None:
        self.rows = rows
        self._rows: list[_ToneRow] = []
        self._step_samples = round(STEP_S * self.sample_rate)
        self._last_step_s = 0.0

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self.rows - len(self._rows)

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The voices `sine` and `sine-live`, by name; both accept any language."""
        return {FAST.name: FAST, LIVE.name: LIVE}

    def limits(self, language: str) -> Limits:
        """Return the limits of a segment; they are the same for every language."""
        del language
        return Limits(max_chars=200, first_max_chars=80)

    def digest(self, voice: Voice) -> str:
        """Return an empty text: the voices have no files."""
        del voice
        return ""

    def prepare(self, voice: Voice) -> Prepared:
        """Return at once: the voices need no preparation."""
        del voice
        return Prepared()

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row."""
        self._rows.append(_ToneRow(segment, sine(segment, self.sample_rate)))

    def step(self) -> list[AudioChunk]:
        """Return the next 50 ms of every row. A row of `sine-live` makes it wait for real time."""
        if any(row.segment.voice == LIVE for row in self._rows):
            time.sleep(max(0.0, self._last_step_s + STEP_S - time.monotonic()))
        self._last_step_s = time.monotonic()
        chunks = [self._next_chunk(row) for row in self._rows]
        self._rows = [row for row in self._rows if row.emitted < len(row.samples)]
        return chunks

    def drop(self, job: str) -> None:
        """Free the rows of a job."""
        self._rows = [row for row in self._rows if row.segment.job != job]

    def _next_chunk(self, row: _ToneRow) -> AudioChunk:
        """Return the next chunk of a row."""
        pcm = row.samples[row.emitted : row.emitted + self._step_samples]
        row.emitted += len(pcm)
        return AudioChunk(row.segment.job, row.segment.index, pcm, last=row.emitted >= len(row.samples))


def sine(segment: SpeechSegment, sample_rate: int) -> npt.NDArray[np.int16]:
    """Return all samples of a segment, shape (n,) at `sample_rate` Hz: the concatenation of its chunks."""
    count = max(1, round(len(segment.text) * CHAR_S / segment.speed * sample_rate))
    hz = LOWEST_HZ * 2 ** ((segment.seed % PITCHES) / 12)
    phase = 2 * np.pi * hz * np.arange(count) / sample_rate
    return np.rint(np.sin(phase) * AMPLITUDE * np.iinfo(np.int16).max).astype(np.int16)
