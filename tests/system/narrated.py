"""Chapters for the tests of narration: made, enqueued, followed, and what they must come to, by the plainest means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voxspool.protocol import narration
from voxspool.protocol.narration import ChapterSpec, Passage
from voxspool.protocol.stream import Audio, Mark
from voxspool_worker.chapters import plan
from voxspool_worker.engines.tone import ToneEngine, sine

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from voxspool import Client
    from voxspool.store import Store
    from voxspool_worker.engines.base import Segment

LIVE = "sine-live"


def book_of(sentences: int, first: int = 0) -> list[Passage]:
    """Give passages of one sentence each, all different: a segment each, of some 2 s."""
    return [Passage(f"This is the sentence {number} of a book.", 0.1) for number in range(first, first + sentences)]


def place(client: Client, store: Store, job: str, passages: Iterable[Passage], **options: Any) -> ChapterSpec:  # noqa: ANN401 - JobSpec's
    """Enqueue a chapter for tone."""
    chapter = narration.chapter(job, passages, store.id, **({"engine": "tone", "voice": "sine"} | options))
    client.place_chapter(chapter)
    return chapter


def narrate(client: Client, chapter: ChapterSpec) -> list[Mark]:
    """Follow a chapter to its end; give its marks."""
    entries = [received.entry for received in client.speech(chapter.speech.id).entries()]
    assert not any(isinstance(entry, Audio) for entry in entries), "a book's audio does not pass through Redis"
    return [entry for entry in entries if isinstance(entry, Mark)]


def reference(chapter: ChapterSpec) -> list[tuple[Segment, npt.NDArray[Any]]]:
    """Give a chapter's segments, each with its samples."""
    segments = plan(chapter, ToneEngine(), "").segments
    return [(segment, sine(segment, ToneEngine.sample_rate)) for segment in segments]
