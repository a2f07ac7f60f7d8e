"""Tracks -> the files that people keep: audio a chapter, captions, one M4B, an EPUB with overlays, the report.

A file that was made of the same is not made again. Knows which files a recipe wants and what each depends on; how one
is encoded is its module's. Without a loudness a chapter's files are made when it is whole; with one, when the book is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SHOWN_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class Made:
    """A file for people."""

    path: Path
    new: bool
    """Whether it was made now; it was there otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a narration."""

    folder: Path
    report: Path
    chapters: int
    duration_s: float
    spoken: int
    reused: int
    problems: list[str]
    """A line each: what was not spoken, what did not pass its checks, what could not be read or written."""

    @property
    def ok(self) -> bool:
        """Whether every segment was spoken and passed."""
        return not self.problems
