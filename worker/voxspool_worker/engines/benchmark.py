"""Benchmark of an engine on this machine: time to first audio, real-time factor (RTF) of one job and of many at once.

The RTF is computing time divided by audio duration; below 1 is faster than real time. Works with any engine: it uses
only the interface in `engines.base` and discards the audio. It does not measure Redis and the worker: `make bench`
does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from voxspool_worker import text
from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxspool_worker.engines.base import Engine

PASSAGE: Final = (
    "The lighthouse stood at the end of a long and narrow spit of sand. Every evening, an hour before dark, the keeper "
    "climbed its two hundred steps, wiped the salt from the glass, and lit the lamp. He had done so for thirty years, "
    "in calm and in storm, and he had never once been late. On clear nights he could see the lights of the harbour, "
    "and the small boats that came home one after another, low in the water and slow. On other nights there was "
    "nothing but rain. Then he sat by the stove with a book, and he listened to the wind; and now and again he put "
    "the book down, went to the window, and made sure that the light was still turning. It always was, and it was a "
    "comfort to him to know it."
)
"""A page of English: about 700 characters, seven sentences."""
SENTENCE: Final = "The lighthouse stood at the end of a long and narrow spit of sand."
"""First sentence of PASSAGE."""


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Results of the benchmark. Times are in seconds."""

    voice_s: float
    """Time to prepare the default voice, the first time."""
    first_chunk_s: float
    """Time from admitting a sentence to its first audio, with no other segment in the engine."""
    one_rtf: float
    """Real-time factor of one sentence with no other segment in the engine."""
    passage_s: float
    """Time to speak PASSAGE as one job, whose segments share the rows."""
    passage_rtf: float
    many_rtf: float
    """Real-time factor with every row in use: two sentences per row, each a job of its own."""


def measure(engine: Engine, clock: Callable[[], float] = time.monotonic) -> EngineSpeed:
    """Benchmark an engine whose rows are all free.

    It speaks two sentences alone, PASSAGE once, and two sentences per row. `clock` returns the time in seconds.
    """
    started = clock()
    voice = catalog.find(None, engine.voices, engine.name)
    engine.prepare(voice)
    voice_s = clock() - started
    _BenchmarkRun(engine, clock).speak([SENTENCE])  # not used: the first run includes compilation and allocation
    one = _BenchmarkRun(engine, clock).speak([SENTENCE])
    pieces = [piece.text for piece in text.split(PASSAGE, voice.language(None), engine.limits(voice.language(None)))]
    passage = _BenchmarkRun(engine, clock).speak(pieces)
    many = _BenchmarkRun(engine, clock).speak([SENTENCE] * engine.rows * 2, jobs=engine.rows * 2)
    return EngineSpeed(voice_s, one.first_chunk_s, one.rtf, passage.elapsed_s, passage.rtf, many.rtf)


@dataclass(slots=True)
class _BenchmarkRun:
    """One measured run: a list of texts, spoken to the end. Times are in seconds."""

    engine: Engine
    clock: Callable[[], float]
    first_chunk_s: float = 0.0
    elapsed_s: float = 0.0
    audio_s: float = 0.0

    @property
    def rtf(self) -> float:
        """Real-time factor; 0 if there was no audio."""
        return self.elapsed_s / self.audio_s if self.audio_s else 0.0

    def speak(self, texts: list[str], jobs: int = 1) -> _BenchmarkRun:
        """Speak texts as the scheduler does, admitting the next one when a row is free, and return this run.

        The texts are distributed over `jobs` jobs in turn.
        """
        started = self.clock()
        waiting = self._segments(texts, jobs)
        following = next(waiting, None)
        while following or self.engine.free < self.engine.rows:
            while following and self.engine.free:
                self.engine.admit(following)
                following = next(waiting, None)
            for chunk in self.engine.step():
                if len(chunk.pcm) and not self.audio_s:
                    self.first_chunk_s = self.clock() - started
                self.audio_s += len(chunk.pcm) / self.engine.sample_rate
        self.elapsed_s = self.clock() - started
        return self

    def _segments(self, texts: list[str], jobs: int) -> Iterator[SpeechSegment]:
        voice = catalog.find(None, self.engine.voices, self.engine.name)
        language, indices = voice.language(None), [count() for _ in range(jobs)]
        for number, piece in enumerate(texts):
            job = number % jobs
            index = next(indices[job])
            yield SpeechSegment(f"job-{job}", index, piece, 0, len(piece), 0.0, voice, language, 1.0, number)
