"""The contract of the Engine protocol, checked against tone and Piper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.engines import SENTENCE, loaded, segment_for, speak, steps_to_end
from voxspool.protocol.jobs import ENGINES
from voxspool_worker.engines import load
from voxspool_worker.settings import Settings
from voxspool_worker.text import split

if TYPE_CHECKING:
    from voxspool_worker.engines.base import Engine


@pytest.fixture(params=["tone", pytest.param("piper", marks=pytest.mark.voice)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, with all rows free."""
    engine = loaded(request.param)
    for job in "abcdefgh":
        engine.drop(job)
    assert engine.free == engine.rows
    return engine


def test_an_engine_has_a_name_a_model_a_device_a_sample_rate_and_rows(engine: Engine) -> None:
    assert engine.name in ENGINES
    assert engine.model
    assert engine.device in ("cpu", "cuda", "mps")
    assert 8_000 <= engine.sample_rate <= 48_000
    assert engine.rows >= 1


def test_every_voice_has_a_language_and_limits_that_fit_a_sentence(engine: Engine) -> None:
    assert engine.voices
    assert all(name == voice.name for name, voice in engine.voices.items())
    for voice in engine.voices.values():
        language = voice.language(None)
        assert language
        limits = engine.limits(language)
        assert 20 <= limits.first_max_chars <= limits.max_chars <= 1000
        assert split(SENTENCE, language, limits)


def test_a_step_without_segments_returns_no_chunks(engine: Engine) -> None:
    assert engine.step() == []
    assert engine.free == engine.rows


def test_a_segment_occupies_a_row_until_its_last_chunk(engine: Engine) -> None:
    for index in range(engine.rows):
        assert engine.free == engine.rows - index
        engine.admit(segment_for(engine, job="a", index=index))
    assert engine.free == 0
    ended: list[int] = []
    while len(ended) < engine.rows:
        ended += [chunk.segment for chunk in engine.step() if chunk.last]
        assert engine.free == len(ended)
    assert sorted(ended) == list(range(engine.rows))
    assert engine.step() == []


def test_chunks_are_int16_and_only_the_final_one_is_marked_last(engine: Engine) -> None:
    for index in range(engine.rows):
        engine.admit(segment_for(engine, job="ab"[index % 2], index=index))
    chunks = steps_to_end(engine)
    for chunk in chunks:
        assert chunk.pcm.dtype == np.int16
        assert chunk.pcm.ndim == 1
    for index in range(engine.rows):
        parts = [chunk for chunk in chunks if chunk.segment == index]
        assert {part.job for part in parts} == {"ab"[index % 2]}
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        seconds = sum(len(part.pcm) for part in parts) / engine.sample_rate
        assert 1.0 < seconds < 6.0


@pytest.mark.parametrize("after_steps", [0, 1, 2])
def test_drop_frees_the_jobs_rows_and_no_more_chunks_of_it_are_returned(engine: Engine, after_steps: int) -> None:
    for index in range(engine.rows):
        engine.admit(segment_for(engine, job="gone", index=index))
    for _ in range(after_steps):
        engine.step()
    engine.drop("gone")
    assert engine.free == engine.rows
    assert engine.step() == []
    engine.admit(segment_for(engine, job="next"))
    assert {chunk.job for chunk in steps_to_end(engine)} == {"next"}


def test_drop_of_another_job_does_not_change_the_audio(engine: Engine) -> None:
    alone = speak(engine, segment_for(engine))
    engine.admit(segment_for(engine))
    engine.drop("b")
    engine.drop("nobody")
    assert engine.free == engine.rows - 1
    assert np.array_equal(np.concatenate([chunk.pcm for chunk in steps_to_end(engine)]), alone)


def test_a_segment_gives_the_same_samples_again_after_other_segments(engine: Engine) -> None:
    first = speak(engine, segment_for(engine))
    speak(engine, segment_for(engine, "Something else, in between.", seed=99, speed=1.3))
    engine.admit(segment_for(engine, "This is given up.", job="b"))
    engine.step()
    engine.drop("b")
    again = speak(engine, segment_for(engine, job="c", index=3))
    assert np.array_equal(first, again)


def test_a_segment_gives_the_same_samples_beside_other_segments(engine: Engine) -> None:
    alone = speak(engine, segment_for(engine))
    for neighbour in range(engine.rows - 1):
        engine.admit(segment_for(engine, "x" * (5 + 9 * neighbour), job="b", index=neighbour, seed=neighbour))
    assert np.array_equal(speak(engine, segment_for(engine)), alone)


def test_a_second_instance_of_the_engine_gives_the_same_samples(engine: Engine) -> None:
    other = load(engine.name, Settings(engine=engine.name))
    one = segment_for(engine, "Another worker takes over.")
    assert np.array_equal(speak(engine, one), speak(other, one))


def test_higher_speed_shortens_the_audio_and_lower_speed_lengthens_it(engine: Engine) -> None:
    half, plain, double = (len(speak(engine, segment_for(engine, speed=speed))) for speed in (0.5, 1.0, 2.0))
    assert double < 0.75 * plain
    assert half > 1.4 * plain


@pytest.mark.parametrize("text", ["1", "a", "?!1", "Ⅷ", "字", "ツ", "½", "𝒜", "مرحبا", "x" * 200, "ha " * 60])
def test_a_segment_of_any_text_ends_with_one_last_chunk(engine: Engine, text: str) -> None:
    engine.admit(segment_for(engine, text))
    chunks = steps_to_end(engine)
    assert [chunk.last for chunk in chunks].count(True) == 1
    assert chunks[-1].last
