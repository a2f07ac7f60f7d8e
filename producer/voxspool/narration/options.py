"""The options of a narration: who speaks, which chapters, which files. Values, and their JSON.

Options and a book determine everything: the same two give the same jobs, the same samples and the same files.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterable

AUDIO: Final = ("flac", "wav", "mp3", "opus")
"""Formats of which there is a file a chapter; FLAC is always there."""
FORMATS: Final = (*AUDIO, "m4b", "epub", "srt", "vtt")
ALWAYS: Final = ("flac", "srt", "vtt")
_SPAN: Final = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})?\s*)?")


@dataclass(frozen=True, slots=True)
class NarrationOptions:
    """Everything that is wanted of a book."""

    engine: str
    """By name: a book has one."""
    voice: str | None = None
    language: str | None = None
    """None: the book's own."""
    speed: float = 1.0
    seed: int = 0
    chapters: tuple[int, ...] | None = None
    """The numbers of those to narrate; None: all."""
    voices: tuple[tuple[int, str], ...] = ()
    """Chapters that have another voice than the book's: number, voice."""
    formats: tuple[str, ...] = ALWAYS
    loudness: str | None = None
    """A preset of `loudness`; None: as it was spoken."""
    verify: str | None = None
    """The Whisper model that what was spoken is transcribed with and compared; None: it is not."""

    def wants(self, number: int) -> bool:
        """Whether a chapter is to be narrated."""
        return self.chapters is None or number in self.chapters

    def voice_of(self, number: int) -> str | None:
        """Return the voice of a chapter."""
        return dict(self.voices).get(number, self.voice)

    def encode(self) -> str:
        """Write it down, in JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, data: str) -> NarrationOptions:
        """Read what `encode` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        fields: dict[str, Any] = json.loads(data)
        chapters = fields["chapters"]
        return replace(
            cls(**fields),
            chapters=None if chapters is None else tuple(chapters),
            voices=tuple((number, voice) for number, voice in fields["voices"]),
            formats=tuple(fields["formats"]),
        )


def numbers(text: str, last: int) -> list[int]:
    """Read which chapters are meant: `3`, `2-5`, `7-`, or several of them with commas between.

    Raises BookError for anything else, and for a number that the book has not.
    """
    found: list[int] = []
    for span in text.split(","):
        matched = _SPAN.fullmatch(span)
        if not matched:
            raise BookError(f"chapters {text!r} are not numbers; write them like 3, 2-5 or 1,4,7-", wrong_value=True)
        first = int(matched[1])
        until = first if "-" not in span else int(matched[2] or last)
        if not 1 <= first <= until <= last:
            raise BookError(f"chapters {span.strip()!r} are not there: the book has 1 to {last}", wrong_value=True)
        found += range(first, until + 1)
    return found


def chosen(last: int, only: str | None, skipped: str | None) -> tuple[int, ...] | None:
    """Return the wanted chapters of those that a book has; None means all of them."""
    if only is None and skipped is None:
        return None
    wanted = set(numbers(only, last)) if only else set(range(1, last + 1))
    left = tuple(sorted(wanted - set(numbers(skipped, last) if skipped else ())))
    if not left:
        raise BookError("no chapter is left to narrate; see them with --plan", wrong_value=True)
    return left


def voices_of(said: Iterable[str], last: int) -> tuple[tuple[int, str], ...]:
    """Read voices for chapters: `2-5=NAME`, several times; the last that names a chapter counts."""
    found: dict[int, str] = {}
    for one in said:
        where, equals, voice = one.partition("=")
        if not (equals and voice):
            raise BookError(f"{one!r} names no voice for a chapter; write it like 2-5=alice", wrong_value=True)
        found |= dict.fromkeys(numbers(where, last), voice)
    return tuple(sorted(found.items()))
