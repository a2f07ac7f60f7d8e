"""Load engines once per process, create segments, and speak them, for tests of engines."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from voxspool_worker.engines import load
from voxspool_worker.engines.base import AudioChunk, SpeechSegment
from voxspool_worker.engines.piper import PACKAGED_VOICE
from voxspool_worker.settings import Settings
from voxspool_worker.voices.catalog import find

if TYPE_CHECKING:
    from voxspool_worker.engines.base import Engine

SENTENCE = "The keeper counted every lamp before the night began."
FULL_SCALE = np.iinfo(np.int16).max

_loaded: dict[str, Engine] = {}


def need_piper() -> None:
    """Skip the test if Piper or its packaged voice is missing; in CI, fail it."""
    missing = [name for name in ("piper", PACKAGED_VOICE) if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed; the extra demo has both"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def loaded(name: str) -> Engine:
    """Return an engine, loaded once per process: loading a model takes half a second."""
    if name == "piper":
        need_piper()
    if name not in _loaded:
        _loaded[name] = load(name, Settings(engine=name))
    return _loaded[name]


def segment_for(
    engine: Engine, text: str = SENTENCE, *, job: str = "a", index: int = 0, speed: float = 1.0, seed: int = 7
) -> SpeechSegment:
    """Return a segment in the engine's default voice."""
    voice = find(None, engine.voices, engine.name)
    return SpeechSegment(job, index, text, 0, len(text), 0.0, voice, voice.language(None), speed, seed)


def steps_to_end(engine: Engine) -> list[AudioChunk]:
    """Step until every row is free, and return all chunks."""
    chunks: list[AudioChunk] = []
    for _ in range(10_000):
        if engine.free == engine.rows:
            return chunks
        chunks += engine.step()
    pytest.fail("the engine did not free all rows within 10,000 steps")


def speak(engine: Engine, segment: SpeechSegment) -> npt.NDArray[np.int16]:
    """Speak one segment to its end and return its samples, shape (n,)."""
    engine.admit(segment)
    return np.concatenate([chunk.pcm for chunk in steps_to_end(engine) if chunk.job == segment.job])
