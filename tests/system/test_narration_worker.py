"""Chapters of books: many workers on one chapter, whatever dies; and nothing spoken twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from narrated import narrate, place, reference
from reference import SENTENCE
from voxspool.protocol.narration import Passage
from voxspool.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store that `start_worker` gives its workers."""
    return Store(tmp_path / "store")


def test_a_chapter_is_marked_in_order_and_its_audio_lies_in_the_store(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    start_worker()
    passages = [Passage(SENTENCE * 3, 1.5), Passage("***", 0.5), Passage("A word.", 0.25, voice="sine")]
    chapter = place(client, store, "one", passages)
    marks = narrate(client, chapter)
    assert [mark.segment for mark in marks] == list(range(len(marks)))
    assert not any(mark.reused or mark.fault for mark in marks)
    expected, samples = reference(chapter), 0
    for mark, (segment, pcm) in zip(marks, expected, strict=True):
        assert (mark.start, mark.end, mark.seed) == (segment.start, segment.end, segment.seed)
        assert mark.pos == samples
        assert np.array_equal(store.read(mark.key), pcm)
        samples += len(pcm) + round(segment.pause_s * 24_000)
        assert mark.end_pos == samples
    end = client.speech("one").end()
    assert end is not None
    assert (end.pos, end.segments) == (samples, len(marks))
