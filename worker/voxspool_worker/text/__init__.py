"""Prepare the text of a job: `split` cuts it into pieces, and `normalise` writes each piece as an engine reads it.

All functions are pure functions of strings. They do not depend on jobs, voices or engines.
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
