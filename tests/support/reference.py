"""A simple reference implementation of speech with the engine `tone`: split the text, then join sines and pauses."""

from __future__ import annotations

import numpy as np

from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.engines.tone import FAST, ToneEngine, sine
from voxspool_worker.speech.speech_job import segment_seed
from voxspool_worker.text import split

SENTENCE = "The keeper of the lighthouse counted every lamp before the night began. "
"""72 characters, so 4.32 s of tone."""


def passage(number: int, sentences: int) -> str:
    """Return a text of this many SENTENCEs, and a last sentence that makes it unique."""
    return f"{SENTENCE * sentences}Number {number} is the one that speaks."


def tone(text: str, *, seed: int = 0, speed: float = 1.0) -> bytes:
    """Return the whole speech, s16le."""
    engine = ToneEngine()
    parts = []
    for index, piece in enumerate(split(text, "en", engine.limits("en"))):
        segment = SpeechSegment(
            "", index, piece.text, piece.start, piece.end, piece.pause_s, FAST, "en", speed, segment_seed(seed, index)
        )
        parts += [sine(segment, engine.sample_rate), np.zeros(round(piece.pause_s * engine.sample_rate), np.int16)]
    return b"".join(part.astype("<i2").tobytes() for part in parts)
