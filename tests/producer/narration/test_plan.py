"""A book and its options become jobs, and a job's marks become a track: pure values, and a real store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from voxspool.books.book import Block, Book, Chapter
from voxspool.books.pronunciation import Pronunciations
from voxspool.errors import StoreError
from voxspool.narration.options import NarrationOptions
from voxspool.narration.plan import LOST, check_whole, plan
from voxspool.protocol.narration import ChapterSpec
from voxspool.protocol.stream import Mark
from voxspool.store.segments import Store, key_of

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = NarrationOptions("tone", "sine", seed=3)
BOOK = Book(
    "Lamps",
    (
        Chapter("One", (Block("One", "heading"), Block("Dr. Brown  lit it."), Block("Il pleut.", language="fr"))),
        Chapter("Two", (Block("It went out."),)),
    ),
    language="en",
)


@pytest.fixture
def rules(tmp_path: Path) -> Pronunciations:
    path = tmp_path / "words.txt"
    path.write_text("Dr. => Doctor\n")
    return Pronunciations.read(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_the_job_of_a_chapter_has_its_parts_and_the_options(rules: Pronunciations, store: Store) -> None:
    first, second = plan(BOOK, replace(OPTIONS, voices=((2, "sine-live"),)), rules)
    spec = first.spec("job", OPTIONS, store.id)
    assert ChapterSpec.decode(spec.encode()) == spec
    assert [passage.text for passage in spec.passages] == ["One.", "Doctor Brown  lit it.", "Il pleut."]
    assert [passage.language for passage in spec.passages] == [None, None, "fr"]
    speech = spec.speech
    assert (speech.engine, speech.voice, speech.language, speech.seed) == ("tone", "sine", "en", 3)
    assert speech.queue == "voxspool-tone-batch"
    assert second.spec("job", OPTIONS, store.id).speech.voice == "sine-live"


def test_only_the_chosen_chapters_are_planned_and_they_keep_their_numbers(rules: Pronunciations) -> None:
    (only,) = plan(BOOK, replace(OPTIONS, chapters=(2,)), rules)
    assert (only.number, only.chapter.title) == (2, "Two")


def test_a_digest_depends_on_everything_that_is_spoken_and_on_nothing_else(rules: Pronunciations, store: Store) -> None:
    first, second = plan(BOOK, OPTIONS, rules)
    plain, _ = plan(BOOK, OPTIONS, Pronunciations())
    retitled, _ = plan(replace(BOOK, title="Lights"), OPTIONS, rules)
    digest = first.digest(OPTIONS, store.id)
    others = [
        second.digest(OPTIONS, store.id), plain.digest(OPTIONS, store.id), first.digest(OPTIONS, "0" * 32),
        first.digest(replace(OPTIONS, seed=4), store.id), first.digest(replace(OPTIONS, engine="piper"), store.id),
        first.digest(replace(OPTIONS, speed=1.5), store.id),
    ]  # fmt: skip
    assert len({digest, *others}) == 7
    assert retitled.digest(replace(OPTIONS, loudness="ebu", formats=("flac",)), store.id) == digest


def keep(store: Store, name: str, samples: int) -> str:
    """Put a segment into the store; give its key."""
    about = {
        "sample_rate": 24_000, "engine": "tone", "model": "m", "voice": "sine", "language": "en", "seed": 1, "tries": 1,
        "fault": "", "elapsed_s": 0.1, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.0, "worker": "w",
    }  # fmt: skip
    pcm = np.arange(samples, dtype=np.int16)
    return store.write(pcm, key=key_of(name), **about).key


def test_marks_become_cues_with_the_text_of_the_book(rules: Pronunciations, store: Store) -> None:
    first, _ = plan(BOOK, OPTIONS, rules)
    text = first.spec("job", OPTIONS, store.id).speech.text
    doctor, french = text.index("Doctor"), text.index("Il")
    marks = [
        Mark(0, 150, 0, 0, 4, seed=1, key=keep(store, "a", 100)),
        Mark(150, 400, 1, doctor, french - 2, seed=1, key=keep(store, "b", 200), reused=True),
        Mark(400, 420, 2, french, len(text), seed=1, fault="poison"),
    ]
    track = first.track(marks, 24_000, store)
    assert [cue.text for cue in track.cues] == ["One", "Dr. Brown  lit it.", "Il pleut."]
    assert [cue.spoken for cue in track.cues] == ["One.", "Doctor Brown  lit it.", "Il pleut."]
    assert [(cue.block, cue.pos, cue.said_pos, cue.end_pos) for cue in track.cues] == [
        (0, 0, 100, 150), (1, 150, 350, 400), (2, 400, 400, 420),
    ]  # fmt: skip
    assert [(cue.fault, cue.reused) for cue in track.cues] == [("", False), ("", True), ("poison", False)]
    samples = np.concatenate(list(track.audio(store)))
    assert (len(samples), track.samples) == (420, 420)
    np.testing.assert_array_equal(samples[150:350], np.arange(200))
    assert not samples[350:].any()
    check_whole(track)


def test_a_segment_that_the_store_has_lost_is_an_error(rules: Pronunciations, store: Store) -> None:
    first, _ = plan(BOOK, OPTIONS, rules)
    track = first.track([Mark(0, 150, 0, 0, 4, seed=1, key=key_of("never"))], 24_000, store)
    assert track.cues[0].fault == LOST
    with pytest.raises(StoreError, match="lost 1 segment of chapter 1"):
        check_whole(track)
