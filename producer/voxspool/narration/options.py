"""The options of a narration: voices, chapters, files. Values and their JSON, and the parsing of chapter numbers.

Book and options determine everything: the same two give the same jobs, the same samples and the same files.
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
"""The formats with one file for each chapter."""
FORMATS: Final = (*AUDIO, "m4b", "epub", "srt", "vtt")
ALWAYS: Final = ("flac", "srt", "vtt")
"""The formats that are made even if nobody asks for them."""
_SPAN: Final = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})?\s*)?")


@dataclass(frozen=True, slots=True)
class NarrationOptions:
    """The options of one narration."""

    engine: str
    """The engine's name. A book is spoken by one engine."""
    voice: str | None = None
    """None: the engine's default voice."""
    language: str | None = None
    """None: the language that the book states."""
    speed: float = 1.0
    seed: int = 0
    chapters: tuple[int, ...] | None = None
    """The numbers of the chapters to narrate; None: all."""
    voices: tuple[tuple[int, str], ...] = ()
    """Chapter number and voice, for chapters with a voice of their own."""
    formats: tuple[str, ...] = ALWAYS
    loudness: str | None = None
    """The name of a loudness preset; None: the loudness as spoken."""
    verify: str | None = None
    """The Whisper model that checks the words that were spoken; None: they are not checked."""

    def wants(self, number: int) -> bool:
        """Return whether a chapter is to be narrated."""
        return self.chapters is None or number in self.chapters

    def voice_of(self, number: int) -> str | None:
        """Return the voice of a chapter."""
        return dict(self.voices).get(number, self.voice)

    def encode(self) -> str:
        """Return the options as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, data: str) -> NarrationOptions:
        """Read the JSON that `encode` returns. Raises ValueError, TypeError or KeyError for anything else."""
        fields: dict[str, Any] = json.loads(data)
        chapters = fields["chapters"]
        found = replace(
            cls(**fields),
            chapters=None if chapters is None else tuple(chapters),
            voices=tuple((number, voice) for number, voice in fields["voices"]),
            formats=tuple(fields["formats"]),
        )
        if not found._has_its_types():  # noqa: SLF001 - its own
            raise ValueError(f"{data:.60} has a value of another type")
        return found

    def _has_its_types(self) -> bool:
        """Return whether the values that JSON gave have the types that are stated here."""
        numbers = [*(self.chapters or ()), *(number for number, _ in self.voices), self.seed]
        texts = [self.engine, *(voice for _, voice in self.voices)]
        texts += [text for text in (self.voice, self.language, self.loudness, self.verify) if text is not None]
        return (
            all(type(number) is int for number in numbers)
            and all(type(text) is str for text in texts)
            and type(self.speed) in (int, float)
            and all(name in FORMATS for name in self.formats)
        )


def numbers(text: str, last: int) -> list[int]:
    """Parse chapter numbers of a book with `last` chapters: `3`, `2-5`, `7-`, or several with commas between them.

    Raises BookError for anything else, and for a chapter that does not exist.
    """
    found: list[int] = []
    for span in text.split(","):
        matched = _SPAN.fullmatch(span)
        if not matched:
            raise BookError(f"chapters {text!r} are not numbers; write them like 3, 2-5 or 1,4,7-", wrong_value=True)
        first = int(matched[1])
        until = first if "-" not in span else int(matched[2] or last)
        if not 1 <= first <= until <= last:
            raise BookError(f"chapters {span.strip()!r} do not exist: the book has 1 to {last}", wrong_value=True)
        found += range(first, until + 1)
    return found


def chosen(last: int, only: str | None, skipped: str | None) -> tuple[int, ...] | None:
    """Return the chapters to narrate of a book with `last` chapters; None for all of them. Raises BookError.

    `only` and `skipped` are chapter numbers as `numbers` parses them.
    """
    if only is None and skipped is None:
        return None
    wanted = set(numbers(only, last)) if only else set(range(1, last + 1))
    left = tuple(sorted(wanted - set(numbers(skipped, last) if skipped else ())))
    if not left:
        raise BookError("no chapter is left to narrate; list the chapters with --plan", wrong_value=True)
    return left


def voices_of(assignments: Iterable[str], last: int) -> tuple[tuple[int, str], ...]:
    """Parse the voices of chapters, each like `2-5=NAME`, of a book with `last` chapters. Raises BookError.

    If several name the same chapter, the last one counts.
    """
    found: dict[int, str] = {}
    for assignment in assignments:
        chapters, equals, voice = assignment.partition("=")
        if not (equals and voice):
            raise BookError(f"{assignment!r} names no voice for a chapter; write it like 2-5=alice", wrong_value=True)
        found |= dict.fromkeys(numbers(chapters, last), voice)
    return tuple(sorted(found.items()))
