"""A sine for every segment: no weights, no dependencies, exact lengths. For tests, smoke runs and learning the system.

A peer of the real engines behind the same interface. A segment of n characters lasts n x CHAR_S / speed seconds, its
pitch follows from its seed, and the same segment gives the same samples on every machine. It says nothing intelligible.
The voice `sine` comes as fast as it can be computed, `sine-live` at the pace of real time in every row.
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
"""Seconds of sine a character: about the pace of English speech (16 characters a second)."""
STEP_S: Final = 0.05
"""Seconds of sine that one step gives every row."""
AMPLITUDE: Final = 0.25
"""Of full scale: a level near that of speech."""
LOWEST_HZ: Final = 220
FAST: Final = Voice("sine", ())
LIVE: Final = Voice("sine-live", ())
PITCHES: Final = 24
"""A segment's pitch is one of two octaves of semitones above LOWEST_HZ."""


@dataclass(slots=True)
class _ToneRow:
    """A segment being sounded."""

    segment: SpeechSegment
    samples: npt.NDArray[np.int16]
    given: int = 0


class ToneEngine:
    """The engine `tone`."""

    name: Final = "tone"
    model: Final = "sine-1"
    device: Final = "cpu"
    sample_rate: Final = 24_000

    def __init__(self, rows: int = 8) -> None:
        self.rows = rows
        self._rows: list[_ToneRow] = []
        self._step_samples = round(STEP_S * self.sample_rate)
        self._stepped = 0.0

    @property
    def free(self) -> int:
        """How many rows are open now."""
        return self.rows - len(self._rows)

    @property
    def voices(self) -> Mapping[str, Voice]:
        """Two voices, of any language."""
        return {FAST.name: FAST, LIVE.name: LIVE}

    def limits(self, language: str) -> Limits:
        """The same for every language."""
        del language
        return Limits(max_chars=200, first_max_chars=80)

    def digest(self, voice: Voice) -> str:
        """Nothing: its voices are computed."""
        del voice
        return ""

    def prepare(self, voice: Voice) -> Prepared:
        """Do nothing: its voices come with it."""
        del voice
        return Prepared()

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row."""
        self._rows.append(_ToneRow(segment, sine(segment, self.sample_rate)))

    def step(self) -> list[AudioChunk]:
        """Make the next 50 ms of every row. If a row is live, wait until they have passed."""
        if any(row.segment.voice == LIVE for row in self._rows):
            time.sleep(max(0.0, self._stepped + STEP_S - time.monotonic()))
        self._stepped = time.monotonic()
        chunks = [self._advance(row) for row in self._rows]
        self._rows = [row for row in self._rows if row.given < len(row.samples)]
        return chunks

    def drop(self, job: str) -> None:
        """Free the job's rows."""
        self._rows = [row for row in self._rows if row.segment.job != job]

    def _advance(self, row: _ToneRow) -> AudioChunk:
        """Cut the next chunk off a row."""
        pcm = row.samples[row.given : row.given + self._step_samples]
        row.given += len(pcm)
        return AudioChunk(row.segment.job, row.segment.index, pcm, last=row.given >= len(row.samples))


def sine(segment: SpeechSegment, sample_rate: int) -> npt.NDArray[np.int16]:
    """Return a segment's whole sound, shape (n,): what the chunks must add up to."""
    count = max(1, round(len(segment.text) * CHAR_S / segment.speed * sample_rate))
    hz = LOWEST_HZ * 2 ** ((segment.seed % PITCHES) / 12)
    phase = 2 * np.pi * hz * np.arange(count) / sample_rate
    return np.rint(np.sin(phase) * AMPLITUDE * np.iinfo(np.int16).max).astype(np.int16)
