"""A chapter of a book as one job: ChapterSpec and its JSON.

Any worker that has the engine and the store may speak a chapter's segments. Their audio goes to the store; the job's
stream carries only marks, each with the key of its audio. This module defines the form of a chapter and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import InvalidJobError
from voxspool.protocol.jobs import AUTO, JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

TASK: Final = "voxspool_worker.tasks.narrate"
"""The only function beside `jobs.TASK` that a job on our queues may name."""

BETWEEN: Final = "\n\n"
"""What stands between two passages in a chapter's text: marks count characters of the passages so joined."""

TIMEOUT_S: Final = 7 * 24 * 3600
"""How long a chapter may take: it gives way to listeners, and other chapters share its rows. The longest a worker lets
a job run."""
MAX_PAUSE_S: Final = 60.0
_STORE: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a chapter that is spoken in one voice: a paragraph, a heading or a part of one.

    Raises InvalidJobError.
    """

    text: str
    """What to say; it is cut into segments by itself, so that a change elsewhere changes nothing here."""
    pause_s: float = 0.0
    """Silence after it, in seconds. One with nothing to say is silence alone."""
    voice: str | None = None
    """None: the chapter's."""
    language: str | None = None
    """None: the chapter's."""

    def __post_init__(self) -> None:
        """Refuse what is not a passage; its voice and language are checked as a job's are."""
        JobSpec(self.text, id="passage", voice=self.voice, language=self.language)
        pause = self.pause_s
        if isinstance(pause, bool) or not isinstance(pause, (int, float)) or not 0 <= pause <= MAX_PAUSE_S:
            raise InvalidJobError(f"a pause is {pause!r:.40} s; it may be 0 to {MAX_PAUSE_S:g}")


@dataclass(frozen=True, slots=True)
class ChapterSpec:
    """One chapter, as a narrator asks for it: see `chapter`. Checked when made, as JobSpec is.

    Raises InvalidJobError or UnknownEngineError, with the value and what to do.
    """

    speech: JobSpec
    """The chapter as a speech: batch work, of an engine that is named; its text is that of the passages."""
    passages: tuple[Passage, ...]
    store: str
    """The id of the segment store (`store.Store.id`) that the audio goes to: a worker with another refuses the job."""

    def __post_init__(self) -> None:
        """Refuse what cannot be narrated."""
        if self.speech.engine == AUTO:
            raise InvalidJobError("a chapter names its engine, so that a book has one; auto is none")
        if not isinstance(self.store, str) or not _STORE.fullmatch(self.store):
            raise InvalidJobError(f"store {self.store!r:.60} is not the id of a segment store: 32 hexadecimal digits")

    def encode(self) -> dict[str, Any]:
        """Return the JSON object that travels as the job's only argument. The text travels once, in the passages."""
        speech = self.speech.encode()
        del speech["text"]
        return speech | {"store": self.store, "passages": [list(dataclasses.astuple(one)) for one in self.passages]}

    @classmethod
    def decode(cls, data: object) -> ChapterSpec:
        """Read what `encode` gave, from anybody. Raises InvalidJobError for anything else."""
        if not isinstance(data, dict):
            raise InvalidJobError("a chapter's argument is not a JSON object")
        fields = dict(data)
        listed, store = fields.pop("passages", None), fields.pop("store", None)
        if "text" in fields or not isinstance(listed, list):
            raise InvalidJobError("a chapter has passages, a list, and no text beside them")
        passages = tuple(_passage(item) for item in listed)
        return cls(JobSpec.decode(fields | {"text": joined(passages)}), passages, store)


def chapter(id: str, passages: Iterable[Passage], store: str, **options: Any) -> ChapterSpec:  # noqa: A002, ANN401 - JobSpec's
    """Make a chapter of its passages; the options are JobSpec's (`voice`, `language`, `engine`, `speed`, `seed` …)."""
    passages = tuple(passages)
    return ChapterSpec(JobSpec(joined(passages), id=id, priority="batch", **options), passages, store)


def joined(passages: Iterable[Passage]) -> str:
    """Return the text of a chapter, which its marks count in."""
    return BETWEEN.join(passage.text for passage in passages)


def _passage(item: object) -> Passage:
    """Read a passage: a list of its four fields."""
    if not isinstance(item, list) or len(item) != len(dataclasses.fields(Passage)):
        raise InvalidJobError("a passage is a list: text, pause_s, voice, language")
    return Passage(*item)
