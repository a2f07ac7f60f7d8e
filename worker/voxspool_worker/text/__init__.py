"""A job's text, made ready to be spoken: `split` gives the pieces, `normalise` the wording of each.

Pure functions of strings. They know scripts, sentences and lengths; they know no job, voice or engine.
"""

from voxspool_worker.text.normalise import normalise, speakable
from voxspool_worker.text.split import (
    CLAUSE_PAUSE_S,
    PARAGRAPH_PAUSE_S,
    SENTENCE_PAUSE_S,
    Limits,
    Piece,
    split,
)

__all__ = [
    "CLAUSE_PAUSE_S",
    "PARAGRAPH_PAUSE_S",
    "SENTENCE_PAUSE_S",
    "Limits",
    "Piece",
    "normalise",
    "speakable",
    "split",
]
