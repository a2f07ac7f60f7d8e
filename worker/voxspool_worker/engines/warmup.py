"""Warm-up: synthesise one sentence and discard it, before the worker takes its first job.

The first synthesis is slow: libraries choose kernels, capture CUDA graphs and map files into memory, and some hold
Python's global interpreter lock meanwhile. A worker that does this during a job cannot renew the job's lease and loses
it. During warm-up it has no leases yet. Works with any engine: it uses only the interface in `engines.base`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.errors import EngineLoadError
from voxspool_worker.engines.base import SegmentError, SpeechSegment
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from voxspool_worker.engines.base import AudioChunk, Engine

WORDS: Final = "Good morning, all."
"""Text of the warm-up: short, and pronounceable in every language that the engines support."""


@dataclass(frozen=True, slots=True)
class WarmUpResult:
    """The duration of the warm-up and of its audio, in seconds."""

    elapsed_s: float
    audio_s: float
    """Duration of the audio, in seconds; 0 if the engine has no built-in voice or could not speak the text."""

    @property
    def speech_rate(self) -> float | None:
        """Seconds of audio produced per second of computing; None if there was no audio."""
        return self.audio_s / self.elapsed_s if self.audio_s else None


def warm_up(engine: Engine) -> WarmUpResult:
    """Synthesise WORDS with the engine's default voice and discard the audio. Does nothing without a built-in voice.

    Ignores SegmentError: an engine that cannot speak this text may speak others. Passes on every other exception.
    Raises EngineLoadError if the engine returns samples of a wrong dtype or shape.
    """
    started, samples = time.monotonic(), 0
    if catalog.built_in(engine.voices):
        voice = catalog.find(None, engine.voices, engine.name)
        engine.prepare(voice)
        engine.admit(SpeechSegment("warm-up", 0, WORDS, 0, len(WORDS), 0.0, voice, voice.language(None), 1.0, 0))
        try:
            while engine.free < engine.rows:
                samples += sum(_count_samples(engine, chunk) for chunk in engine.step())
        except SegmentError:
            pass
    return WarmUpResult(time.monotonic() - started, samples / engine.sample_rate)


def _count_samples(engine: Engine, chunk: AudioChunk) -> int:
    """Return the number of samples in a chunk. Raises EngineLoadError if they are not int16 of shape (n,)."""
    if chunk.pcm.dtype != np.int16 or chunk.pcm.ndim != 1:
        raise EngineLoadError(
            f"the engine {engine.name!r} returned samples of {chunk.pcm.dtype} and shape {chunk.pcm.shape}; "
            "they must be int16 of shape (n,)"
        )
    return len(chunk.pcm)
