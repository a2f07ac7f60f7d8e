"""Define a job that narrates a chapter of a book: ChapterSpec and its JSON.

Any worker with the engine and the store may speak segments of a chapter. Their audio goes to the store; the job's
stream contains only marks, each with the key of its audio. This module defines only the format of a chapter.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import InvalidJobError
from voxspool.protocol.jobs import AUTO, MAX_TEXT_CHARS, MILLIONTHS, JobSpec, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

TASK: Final = "voxspool_worker.tasks.narrate"
"""The function of chapter jobs. Jobs on voxspool's queues may name only this one and `jobs.TASK`."""

BETWEEN: Final = "\n\n"
"""The separator between two passages in a chapter's text. Marks count characters of this joined text."""

TIMEOUT_S: Final = 7 * 24 * 3600
"""Time limit of a chapter, in seconds: the longest that a worker allows.

It is long because a chapter waits while interactive jobs are spoken, and shares the engine with other chapters.
"""
MAX_PAUSE_S: Final = 60.0
MAX_PASSAGES: Final = MAX_TEXT_CHARS // len(BETWEEN) + 1
"""Limit for the number of passages: more would exceed the limit for a chapter's text with the separators alone."""
_STORE: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a chapter that is spoken in one voice: a paragraph, a heading or a part of one.

    Raises InvalidJobError.
    """

    text: str
    """The text to speak. Each passage is split into segments separately, so a change in one leaves the others as is."""
    pause_s: float = 0.0
    """Silence after it, in seconds. A passage with an empty text is only silence."""
    voice: str | None = None
    """None: the chapter's."""
    language: str | None = None
    """None: the chapter's."""

    def __post_init__(self) -> None:
        """Check the fields. Text, voice and language follow the rules for a job."""
        JobSpec(self.text, id="passage", voice=self.voice, language=self.language)
        pause = self.pause_s
        if isinstance(pause, bool) or not isinstance(pause, (int, float)) or not 0 <= pause <= MAX_PAUSE_S:
            raise InvalidJobError(f"a pause is {pause!r:.40} s; it must be 0 to {MAX_PAUSE_S:g} s")


@dataclass(frozen=True, slots=True)
class ChapterSpec:
    """The job of one chapter. Create it with `chapter`. The fields are checked on construction.

    Raises InvalidJobError or UnknownEngineError, with the value and what to do.
    """

    speech: JobSpec
    """The chapter as a batch job for a named engine. Its text is the joined text of the passages."""
    passages: tuple[Passage, ...]
    store: str
    """The id of the segment store (`store.Store.id`) for the audio. A worker with another store refuses the job."""

    def __post_init__(self) -> None:
        """Check the engine and the store."""
        if self.speech.engine == AUTO:
            raise InvalidJobError("a chapter needs a named engine, not auto, so that one engine speaks the whole book")
        if not isinstance(self.store, str) or not _STORE.fullmatch(self.store):
            raise InvalidJobError(f"store {self.store!r:.60} is not the id of a segment store: 32 hexadecimal digits")

    @property
    def digest(self) -> str:
        """The SHA-256 of what is spoken, in hexadecimal. See docs/protocol.md."""
        lines = [*self.speech.manner, self.store]
        for one in self.passages:
            pause = round(one.pause_s * MILLIONTHS)
            lines += [one.voice or "", one.language or "", str(pause), str(len(one.text)), one.text]
        return digest_of(lines)

    def encode(self) -> dict[str, Any]:
        """Return the JSON object that is the job's only argument. It contains the text once, in the passages."""
        speech = self.speech.encode()
        del speech["text"]
        return speech | {"store": self.store, "passages": [list(dataclasses.astuple(one)) for one in self.passages]}

    @classmethod
    def decode(cls, data: object) -> ChapterSpec:
        """Return the chapter of an untrusted JSON object. Raises InvalidJobError if `encode` cannot have written it."""
        if not isinstance(data, dict):
            raise InvalidJobError("a chapter's argument is not a JSON object")
        fields = dict(data)
        listed, store = fields.pop("passages", None), fields.pop("store", None)
        if "text" in fields or not isinstance(listed, list):
            raise InvalidJobError("a chapter has a list of passages and no text beside them")
        if len(listed) > MAX_PASSAGES:
            raise InvalidJobError(f"the chapter has {len(listed):,} passages and the limit is {MAX_PASSAGES:,}")
        passages = tuple(_passage(item) for item in listed)
        return cls(JobSpec.decode(fields | {"text": joined(passages)}), passages, store)


def chapter(id: str, passages: Iterable[Passage], store: str, **options: Any) -> ChapterSpec:  # noqa: A002, ANN401 - JobSpec's
    """Return the job of a chapter. The options are fields of JobSpec (`voice`, `language`, `engine`, `speed` …)."""
    passages = tuple(passages)
    return ChapterSpec(JobSpec(joined(passages), id=id, priority="batch", **options), passages, store)


def joined(passages: Iterable[Passage]) -> str:
    """Return the joined text of a chapter. Marks count characters of this text."""
    return BETWEEN.join(passage.text for passage in passages)


def _passage(item: object) -> Passage:
    """Return the passage of a list of four fields. Raises InvalidJobError."""
    if not isinstance(item, list) or len(item) != len(dataclasses.fields(Passage)):
        raise InvalidJobError("a passage is a list of text, pause_s, voice and language")
    return Passage(*item)
