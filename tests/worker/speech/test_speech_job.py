"""The segments of a speech, and the order of its chunks. No test uses Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool.errors import InvalidJobError, UnknownEngineError, UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.jobs import MAX_SEED, JobSpec
from voxspool_worker.engines.base import AudioChunk, SpeechSegment
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.speech.speech_job import in_order, plan_speech, segment_seed
from voxspool_worker.text import Limits, split
from voxspool_worker.voices.catalog import Voice, find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


TEXT = (
    "The keeper of the lighthouse counted every lamp before the night began. Then he went down to the boats.\n\n"
    "Nobody came that evening, and nobody was expected; the sea was too high for it, and the road too long."
)


class Bilingual:
    """An engine with three voices that cannot speak: enough for a plan."""

    name = "piper"
    model = "none"
    device = "cpu"
    sample_rate = 16_000
    rows = 1
    free = 1

    @property
    def voices(self) -> Mapping[str, Voice]:
        found = (Voice("amelie", ("fr-fr",)), Voice("joe", ("en-us", "en-gb")), Voice("jane#1", ("en-gb",)))
        return {voice.name: voice for voice in found}

    def limits(self, language: str) -> Limits:
        return Limits(max_chars=40, first_max_chars=20) if language == "fr-fr" else Limits(200, 80)

    def admit(self, segment: SpeechSegment) -> None:
        raise NotImplementedError

    def step(self) -> list[AudioChunk]:
        return []

    def drop(self, job: str) -> None:
        raise NotImplementedError


# Planning


@pytest.mark.parametrize("asked", ["auto", "tone"])
def test_a_plan_covers_the_whole_text_with_pieces_within_the_limits(asked: str) -> None:
    engine = ToneEngine()
    segments = plan_speech(JobSpec(TEXT, engine=asked, seed=5, speed=1.5), "a-run", engine)
    pieces = split(TEXT, "en", engine.limits("en"))
    assert len(segments) == len(pieces) > 2
    assert [(s.text, s.start, s.end, s.pause_s) for s in segments] == [
        (piece.text, piece.start, piece.end, piece.pause_s) for piece in pieces
    ]
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert [segment.seed for segment in segments] == [segment_seed(5, index) for index in range(len(segments))]
    assert {(s.job, s.speed, s.voice.name, s.language) for s in segments} == {("a-run", 1.5, "sine", "en")}


@pytest.mark.parametrize("text", ["", " \n\t ", "***", "— … —", "🎉"])
def test_the_plan_of_a_text_without_words_is_empty(text: str) -> None:
    assert plan_speech(JobSpec(text), "a-run", ToneEngine()) == []


def test_the_plan_of_a_job_is_the_same_in_every_run() -> None:
    spec = JobSpec(TEXT, id="a", seed=3)
    first, second = (plan_speech(spec, "a-run", ToneEngine()) for _ in range(2))
    assert first == second


def test_the_limits_are_those_of_the_requested_language() -> None:
    french = plan_speech(JobSpec(TEXT, language="fr"), "a-run", Bilingual())
    assert {(segment.voice.name, segment.language) for segment in french} == {("amelie", "fr-fr")}
    assert max(len(segment.text) for segment in french) <= 40
    english = plan_speech(JobSpec(TEXT, voice="joe"), "a-run", Bilingual())
    assert {(segment.voice.name, segment.language) for segment in english} == {("joe", "en-us")}
    assert max(len(segment.text) for segment in english) > 40


def test_a_job_for_another_engine_is_refused() -> None:
    with pytest.raises(UnknownEngineError, match=r"speaks with tone, not piper"):
        plan_speech(JobSpec("x", engine="piper"), "a-run", ToneEngine())


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("amelia", "did you mean amelie"), ("jane", "jane#1"), ("zzzzz", "there is: amelie, jane#1, joe")],
)
def test_an_unknown_voice_is_refused_with_similar_names(wanted: str, hint: str) -> None:
    with pytest.raises(UnknownVoiceError, match=rf"engine piper has no voice '{wanted}'.*{hint}") as refused:
        plan_speech(JobSpec("x", voice=wanted), "a-run", Bilingual())
    assert isinstance(refused.value, InvalidJobError)
    assert refused.value.code == "unknown-voice"


def test_an_unknown_language_is_refused_with_similar_tags() -> None:
    with pytest.raises(UnknownLanguageError, match=r"voice joe does not speak de .*en-gb, en-us.*another voice"):
        plan_speech(JobSpec("x", voice="joe", language="de"), "a-run", Bilingual())


# Voices


@pytest.mark.parametrize(
    ("languages", "wanted", "spoken"),
    [
        (("en-us",), None, "en-us"),
        (("pt-br", "pt-pt"), None, "pt-br"),
        (("en-us",), "en", "en-us"),
        (("en-us",), "en-us", "en-us"),
        (("en-us",), "en_US", "en-us"),
        (("pt-br", "pt-pt"), "pt-pt", "pt-pt"),
        (("pt-br", "pt-pt"), "pt", "pt-br"),
        (("fr", "pt-pt"), "pt", "pt-pt"),
        (("en",), "en-gb", "en"),
        ((), None, "en"),
        ((), "de", "de"),
    ],
)
def test_the_tag_of_a_voice_that_fits_the_wanted_language_is_spoken(
    languages: tuple[str, ...], wanted: str | None, spoken: str
) -> None:
    assert Voice("v", languages).language(wanted) == spoken


@pytest.mark.parametrize(
    ("languages", "wanted"), [(("en-us",), "de"), (("en-us",), "en-gb"), (("es",), "e"), (("en-us",), "us")]
)
def test_a_voice_without_the_wanted_language_is_refused(languages: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(UnknownLanguageError, match=rf"voice v does not speak {wanted}"):
        Voice("v", languages).language(wanted)


def test_without_a_name_the_first_voice_is_used() -> None:
    assert find(None, Bilingual().voices, "piper").name == "amelie"


@pytest.mark.parametrize(
    ("language", "name"), [("en", "joe"), ("en-gb", "joe"), ("fr", "amelie"), ("de", "amelie"), (None, "amelie")]
)
def test_without_a_name_the_first_voice_of_the_language_is_preferred(language: str | None, name: str) -> None:
    assert find(None, Bilingual().voices, "piper", language).name == name


# Seeds


@pytest.mark.parametrize(
    ("seed", "index", "derived"),
    [(0, 0, 3529370323), (0, 1, 1228612563), (1, 0, 3175587914), (7, 3, 1550427951), (MAX_SEED, 999, 4135297126)],
)
def test_a_segments_seed_never_changes(seed: int, index: int, derived: int) -> None:
    # One version of the worker may continue a job that another version has begun.
    assert segment_seed(seed, index) == derived


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = [segment_seed(seed, index) for seed in range(20) for index in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


# The order of the text


def chunk(index: int, number: int, *, last: bool) -> AudioChunk:
    return AudioChunk("a-run", index, np.array([index, number], np.int16), last)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[int], list[AudioChunk]]:
    """Draw consecutive segments of a job, and an order in which an engine may return their chunks."""
    first = draw(st.integers(0, 5))
    counts = draw(st.lists(st.integers(1, 5), max_size=8))
    order = list(range(first, first + len(counts)))
    turns = draw(st.permutations([index for index, count in zip(order, counts, strict=True) for _ in range(count)]))
    given_so_far = dict.fromkeys(order, 0)
    chunks = []
    for index in turns:
        given_so_far[index] += 1
        number = given_so_far[index]
        chunks.append(chunk(index, number, last=number == counts[index - first]))
    return order, chunks


def no_more_than(chunks: list[AudioChunk]) -> Iterator[AudioChunk]:
    """Yield chunks; fail the test if more are requested, for which a lane would wait for ever."""
    yield from chunks
    pytest.fail("a chunk after the last one was requested")


@settings(max_examples=200, derandomize=True)
@given(interleaved())
def test_chunks_are_yielded_in_the_order_of_the_text_and_none_is_lost(
    drawn: tuple[list[int], list[AudioChunk]],
) -> None:
    order, chunks = drawn
    came = [tuple(one.pcm) for one in in_order(no_more_than(chunks), order)]
    assert came == sorted(tuple(one.pcm) for one in chunks)


@settings(max_examples=100, derandomize=True)
@given(interleaved())
def test_a_chunk_is_yielded_as_soon_as_its_turn_comes(drawn: tuple[list[int], list[AudioChunk]]) -> None:
    order, chunks = drawn
    taken = 0

    def counted() -> Iterator[AudioChunk]:
        nonlocal taken
        for one in chunks:
            taken += 1
            yield one

    places = {id(one): place for place, one in enumerate(chunks)}
    latest = -1
    for came in in_order(counted(), order):
        latest = max(latest, places[id(came)])
        assert taken == latest + 1, "more chunks were read than needed"


def test_no_segments_need_no_chunks() -> None:
    assert list(in_order(no_more_than([]), [])) == []
