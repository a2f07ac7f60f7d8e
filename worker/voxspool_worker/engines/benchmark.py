"""Measure an engine on this machine: the first chunk, one speech, and as many speeches at once as it has rows.

It uses the interface of an engine alone, so it measures any engine. Redis and the worker are not part of it: `make
bench` measures what they cost. The audio is discarded.
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
"""A page read aloud: some 700 characters, seven sentences."""
FIRST: Final = "The lighthouse stood at the end of a long and narrow spit of sand."


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured."""

    voice_s: float
    """To make the voice ready, the first time."""
    first_chunk_s: float
    """From a sentence to its first audio, alone."""
    one_factor: float
    """Seconds of work a second of audio, one speech after the other; below 1 is faster than real time."""
    passage_s: float
    """The page, as one job: its segments share the rows."""
    passage_factor: float
    many_factor: float
    """As many speeches at once as there are rows."""


def measure(engine: Engine, clock: Callable[[], float] = time.monotonic) -> Speed:
    """Measure an engine with all its rows free. Takes as long as some six pages take to speak."""
    began = clock()
    voice = catalog.find(None, engine.voices, engine.name)
    engine.prepare(voice)
    voice_s = clock() - began
    _Talk(engine, clock).say([FIRST])  # what is compiled, allocated or captured the first time is not counted
    one = _Talk(engine, clock).say([FIRST])
    pieces = [piece.text for piece in text.split(PASSAGE, voice.language(None), engine.limits(voice.language(None)))]
    page = _Talk(engine, clock).say(pieces)
    many = _Talk(engine, clock).say([FIRST] * engine.rows * 2, jobs=engine.rows * 2)
    return Speed(voice_s, one.first_s, one.factor, page.elapsed_s, page.factor, many.factor)


@dataclass(slots=True)
class _Talk:
    """One go at an engine."""

    engine: Engine
    clock: Callable[[], float]
    first_s: float = 0.0
    elapsed_s: float = 0.0
    audio_s: float = 0.0

    @property
    def factor(self) -> float:
        """Seconds of work a second of audio."""
        return self.elapsed_s / self.audio_s if self.audio_s else 0.0

    def say(self, texts: list[str], jobs: int = 1) -> _Talk:
        """Speak texts, seated as rows come free, the scheduler's way."""
        began = self.clock()
        waiting = self._segments(texts, jobs)
        following = next(waiting, None)
        while following or self.engine.free < self.engine.rows:
            while following and self.engine.free:
                self.engine.admit(following)
                following = next(waiting, None)
            for chunk in self.engine.step():
                if len(chunk.pcm) and not self.audio_s:
                    self.first_s = self.clock() - began
                self.audio_s += len(chunk.pcm) / self.engine.sample_rate
        self.elapsed_s = self.clock() - began
        return self

    def _segments(self, texts: list[str], jobs: int) -> Iterator[SpeechSegment]:
        voice = catalog.find(None, self.engine.voices, self.engine.name)
        language, indices = voice.language(None), [count() for _ in range(jobs)]
        for number, piece in enumerate(texts):
            job = number % jobs
            index = next(indices[job])
            yield SpeechSegment(f"job-{job}", index, piece, 0, len(piece), 0.0, voice, language, 1.0, number)
