"""A chapter read as a speech: audio before each mark, from the store, with pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf

from voxspool.audio.recorder import Recorder
from voxspool.errors import StoreError, StreamGapError
from voxspool.narration.listening import CHUNK_SAMPLES, voiced
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Entry, EntryId, Mark
from voxspool.reading.reader import Received
from voxspool.speech import Listener
from voxspool.store.segments import Store, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

RATE_HZ = 24_000
ABOUT: dict[str, Any] = {
    "sample_rate": RATE_HZ, "engine": "tone", "model": "tone", "voice": "a", "language": "en", "seed": 7, "tries": 1,
    "fault": "", "elapsed_s": 0.5, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.1, "worker": "w1",
}  # fmt: skip
FIRST, SECOND = key_of("first"), key_of("second")
SAID = {FIRST: np.arange(1, 30_001).astype(np.int16), SECOND: np.arange(-500, 0).astype(np.int16)}
BEGIN = Begin(0, RATE_HZ, "tone", "tone", "a", "en", 7)
CHAPTER: list[Entry] = [
    BEGIN,
    Mark(0, 36_000, 0, 0, 10, 7, key=FIRST),
    Mark(36_000, 36_500, 1, 10, 20, 7, key=SECOND, reused=True),
    Mark(36_500, 40_000, 2, 20, 30, 7, fault="cap"),  # could not be spoken: its pause alone
    Mark(40_000, 40_000, 3, 30, 31, 7, fault="cap"),
    Mark(40_000, 40_600, 4, 31, 40, 7, key=SECOND),
    End(40_600, 1.7, 5, None, None),
]
HEARD = np.concatenate([
    SAID[FIRST], np.zeros(6_000, np.int16), SAID[SECOND], np.zeros(3_500, np.int16), SAID[SECOND],
    np.zeros(100, np.int16),
])  # fmt: skip
SPEECH: list[Entry] = [
    BEGIN,
    Audio(0, SAID[SECOND].tobytes()),
    Mark(0, 500, 0, 0, 10, 7, fault="rate"),
    Audio(500, b"\1\0"),
    Audio(501, b"\2\0"),
    Begin(500, RATE_HZ, "tone", "tone", "a", "en", 7),
    Audio(500, b"\1\0\2\0"),
    Mark(500, 502, 1, 10, 12, 7),
    End(502, 0.02, 2, None, None),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "segments")
    for key, pcm in SAID.items():
        store.write(pcm, key=key, **ABOUT)
    return store


def received(entries: Iterable[Entry]) -> list[Received]:
    return [Received(EntryId(1, seq), entry) for seq, entry in enumerate(entries, 1)]


def with_audio(entries: Iterable[Entry], store: Store) -> Iterator[Entry]:
    each = (Received(EntryId(1, seq), entry) for seq, entry in enumerate(entries, 1))
    return (one.entry for one in voiced(each, str(store)))


def samples(entries: Iterable[Entry]) -> np.ndarray:
    return np.frombuffer(b"".join(entry.pcm for entry in entries if isinstance(entry, Audio)), "<i2")


def test_a_chapter_is_heard_as_it_was_spoken_with_its_pauses(store: Store) -> None:
    heard = list(with_audio(CHAPTER, store))
    np.testing.assert_array_equal(samples(heard), HEARD)
    assert [entry for entry in heard if not isinstance(entry, Audio)] == CHAPTER
    assert all(0 < len(entry.pcm) <= CHUNK_SAMPLES * 2 for entry in heard if isinstance(entry, Audio))


def test_a_chapter_is_recorded_as_a_speech_is(store: Store, tmp_path: Path) -> None:
    with Recorder(tmp_path / "chapter.flac") as recorder:
        for entry in with_audio(CHAPTER, store):
            recorder.add(entry)
    np.testing.assert_array_equal(sf.read(tmp_path / "chapter.flac", dtype="int16")[0], HEARD)


def test_a_listener_who_resumes_after_any_entry_hears_the_rest(store: Store, tmp_path: Path) -> None:
    place, all_of_it = str(tmp_path / "segments"), received(CHAPTER)
    assert store.id == Store(place).id
    for had, given in enumerate([0, 36_000, 36_500, 40_000, 40_000, 40_600], 1):
        listener = Listener(given, RATE_HZ)
        chunks = [listener.hear(one) for one in voiced(all_of_it[had:], place, listener.heard_samples)]
        pcm = b"".join(chunk.pcm for chunk in chunks if chunk)
        np.testing.assert_array_equal(np.frombuffer(pcm, "<i2"), HEARD[given:])
        assert listener.heard_samples == len(HEARD)


def test_the_audio_entries_of_a_mark_have_its_id(store: Store, tmp_path: Path) -> None:
    assert store.id
    heard = list(voiced(received(CHAPTER), str(tmp_path / "segments")))
    assert {one.id for one in heard if one.entry.pos < 36_000 and isinstance(one.entry, Audio)} == {EntryId(1, 2)}
    assert heard[-1].id == EntryId(1, 7)


def test_a_second_attempt_continues_where_the_first_ended(store: Store) -> None:
    again = [*CHAPTER[:3], Begin(36_500, RATE_HZ, "tone", "tone", "a", "en", 7), *CHAPTER[3:]]
    np.testing.assert_array_equal(samples(with_audio(again, store)), HEARD)


def test_the_audio_of_a_mark_is_yielded_as_soon_as_the_mark_arrives(store: Store) -> None:
    entries = iter(CHAPTER)
    heard = with_audio(entries, store)
    while not isinstance(next(heard), Mark):
        pass
    assert next(entries) == CHAPTER[2]


@pytest.mark.parametrize("entries", [SPEECH, [Cancelled(0, "me")], []])
def test_the_entries_of_a_speech_are_unchanged_and_need_no_store(entries: list[Entry], tmp_path: Path) -> None:
    place = tmp_path / "never"
    assert list(voiced(received(entries), str(place))) == received(entries)
    assert list(voiced(received(entries)[2:], str(place), 500)) == received(entries)[2:]
    assert not place.exists()


def test_missing_audio_of_a_speech_is_not_replaced_by_silence(tmp_path: Path) -> None:
    lost = [BEGIN, Mark(0, 500, 0, 0, 10, 7), End(500, 0.02, 1, None, None)]
    heard = [one.entry for one in voiced(received(lost), str(tmp_path / "never"))]
    assert heard == lost
    with Recorder(tmp_path / "lost.wav") as recorder:
        recorder.add(heard[0])
        with pytest.raises(StreamGapError):
            recorder.add(heard[1])


def test_a_segment_that_is_missing_from_the_store_is_an_error(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "segments").rglob(f"{SECOND}.json"):
        path.unlink()
    heard = with_audio(CHAPTER, store)
    with pytest.raises(StoreError, match=f"segment {SECOND} is missing"):
        list(heard)


@pytest.mark.parametrize("end_pos", [29_999, 2**63])
def test_a_mark_shorter_than_its_audio_or_far_too_long_is_an_error(store: Store, end_pos: int) -> None:
    with pytest.raises(StoreError, match=f"has 30000 samples in the store, but {end_pos} in the chapter"):
        list(with_audio([BEGIN, Mark(0, end_pos, 0, 0, 10, 7, key=FIRST)], store))


@pytest.mark.parametrize("key", ["../../etc/passwd", "x"])
def test_an_invalid_key_is_an_error(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="not the key of a segment"):
        list(with_audio([BEGIN, Mark(0, 10, 0, 0, 1, 7, key=key)], store))
