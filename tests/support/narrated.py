"""Create, enqueue and follow chapters for tests of narration, and check their results against a simple reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.reference import SENTENCE
from voxspool import NarrationJobs
from voxspool.protocol import keys, narration
from voxspool.protocol.narration import ChapterSpec, Passage
from voxspool.protocol.stream import Audio, Mark
from voxspool_worker.engines.tone import PITCHES, ToneEngine, sine
from voxspool_worker.narration.segment_plan import plan_chapter, seed_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import redis

    from voxspool import Client
    from voxspool.store.segments import Store
    from voxspool_worker.engines.base import SpeechSegment

LIVE = "sine-live"


def book_of(sentences: int, first: int = 0) -> list[Passage]:
    """Return passages of one sentence each, all different. Each is one segment of about 1.5 s."""
    return [Passage(f"Sentence {number} of this book.", 0.1) for number in range(first, first + sentences)]


def place(client: Client, store: Store, job: str, passages: Iterable[Passage], **options: Any) -> ChapterSpec:  # noqa: ANN401 - JobSpec's
    """Enqueue a chapter for tone."""
    chapter = narration.chapter(job, passages, store.id, **({"engine": "tone", "voice": "sine"} | options))
    NarrationJobs(client).place(chapter)
    return chapter


def narrate(client: Client, chapter: ChapterSpec) -> list[Mark]:
    """Follow a chapter to its end, and return its marks."""
    entries = [received.entry for received in client.speech(chapter.speech.id).entries()]
    assert not any(isinstance(entry, Audio) for entry in entries), "the audio of a chapter passed through Redis"
    return [entry for entry in entries if isinstance(entry, Mark)]


def marked(db: redis.Redis, job: str) -> int:
    """Return the number of marked segments of a chapter."""
    return int(db.hget(keys.control(job), "marked_segments") or 0)


def held(db: redis.Redis, job: str) -> int:
    """Return the number of segments of a chapter that workers have claimed."""
    return int(db.zcount(keys.unspoken(job), 1, "+inf"))


def reference(chapter: ChapterSpec) -> list[tuple[SpeechSegment, npt.NDArray[Any]]]:
    """Return a chapter's segments, each with its samples."""
    segments = plan_chapter(chapter, ToneEngine(), "").segments
    return [(segment, sine(segment, ToneEngine.sample_rate)) for segment in segments]


def check(chapter: ChapterSpec, marks: list[Mark], store: Store) -> None:
    """Assert that the marks and the audio of a chapter are those of the reference."""
    samples = 0
    assert [mark.segment for mark in marks] == list(range(len(marks)))
    for mark, (segment, pcm) in zip(marks, reference(chapter), strict=True):
        assert (mark.start, mark.end, mark.seed, mark.fault) == (segment.start, segment.end, segment.seed, "")
        assert mark.pos == samples
        assert np.array_equal(store.read(mark.key), pcm)
        samples += len(pcm) + round(segment.pause_s * ToneEngine.sample_rate)
        assert mark.end_pos == samples


def long_book(sentences: int) -> list[Passage]:
    """Return passages of one sentence each, all different, of about 4 s."""
    return [Passage(f"Number {number}: {SENTENCE}") for number in range(sentences)]


def sounding(word: str, *parities: int) -> Passage:
    """Return a passage with a word of `faulty.SOUNDS` whose first seeds are even (0) or odd (1), as in `parities`.

    The sounds in faulty.py depend on whether the seed is even.
    """
    for number in range(1000):
        text = f"Sentence {number} sounds {word}."
        first = seed_of(0, "sine", text)
        seeds = [seed_of(first, "sine", text, again) if again else first for again in range(len(parities))]
        pitches = {seed % PITCHES for seed in seeds}
        if [seed % 2 for seed in seeds] == list(parities) and len(pitches) == len(seeds):
            return Passage(text)
    raise AssertionError(parities)
