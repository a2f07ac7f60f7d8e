"""Speak one sentence before the first job, and discard it: an engine does some things only once.

Kernels are chosen, graphs are captured, files are mapped. If a first step took long in a library that holds Python's
lock, the worker would lose its leases; at this point it has none yet. It uses the interface of an engine alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voxspool_worker.engines.base import SegmentError, SpeechSegment
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from voxspool_worker.engines.base import Engine

WORDS: Final = "Good morning, all."
"""Short, and sayable in every language that we speak."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What the first words came to."""

    elapsed_s: float
    audio_s: float

    @property
    def speech_rate(self) -> float | None:
        """Seconds of audio a second of work, as far as that can be told; None where nothing was said."""
        return self.audio_s / self.elapsed_s if self.audio_s else None


def warm_up(engine: Engine) -> Warmed:
    """Speak a few words with the engine's own voice, if it has one; give what it took, and what came of it.

    What the engine raises, it raises here; a segment that it cannot say is no fault of it.
    """
    began, samples = time.monotonic(), 0
    if catalog.built_in(engine.voices):
        voice = catalog.find(None, engine.voices, engine.name)
        engine.prepare(voice)
        engine.admit(SpeechSegment("warm-up", 0, WORDS, 0, len(WORDS), 0.0, voice, voice.language(None), 1.0, 0))
        try:
            while engine.free < engine.rows:
                samples += sum(len(chunk.pcm) for chunk in engine.step())
        except SegmentError:
            pass
    return Warmed(time.monotonic() - began, samples / engine.sample_rate)
