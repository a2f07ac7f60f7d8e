"""The engine tone: lengths, pitches, and the pace of the live voice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.engines import FULL_SCALE, SENTENCE, segment_for, speak, steps_to_end
from voxspool_worker.engines import tone
from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.engines.tone import CHAR_S, FAST, LIVE, STEP_S, ToneEngine, sine

if TYPE_CHECKING:
    from voxspool_worker.voices.catalog import Voice


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("chars", [1, 7, 53, 200])
def test_the_length_of_a_tone_follows_from_characters_and_speed(chars: int, speed: float) -> None:
    engine = ToneEngine()
    one = segment_for(engine, "x" * chars, speed=speed)
    engine.admit(one)
    chunks = steps_to_end(engine)
    assert sum(len(chunk.pcm) for chunk in chunks) == round(chars * CHAR_S / speed * engine.sample_rate)
    step_samples = round(STEP_S * engine.sample_rate)
    assert {len(chunk.pcm) for chunk in chunks[:-1]} <= {step_samples}
    assert 0 < len(chunks[-1].pcm) <= step_samples


def test_the_chunks_of_a_tone_concatenate_to_the_sine() -> None:
    engine = ToneEngine()
    one = segment_for(engine, seed=11)
    assert np.array_equal(speak(engine, one), sine(one, engine.sample_rate))


def test_the_pitch_of_a_tone_depends_only_on_the_seed() -> None:
    engine = ToneEngine()
    low, other, high = (
        sine(segment_for(engine, text, seed=seed), 24_000) for text, seed in [("xx", 0), ("yy", 0), ("xx", 12)]
    )
    assert np.array_equal(low, other)
    assert not np.array_equal(low, high)
    crossings = [np.count_nonzero(np.diff(np.signbit(samples))) for samples in (low, high)]
    assert crossings[1] == pytest.approx(2 * crossings[0], abs=2)  # an octave
    assert np.abs(low).max() < FULL_SCALE / 2


def test_the_number_of_rows_is_the_constructors_argument() -> None:
    engine = ToneEngine(rows=3)
    assert (engine.rows, engine.free) == (3, 3)


class Clock:
    """Replaces the module `time`. Its time advances by `sleep`, or when the test changes `now_s`."""

    def __init__(self) -> None:
        self.now_s = 5000.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tone, "time", clock)
    return clock


def spoken_by(voice: Voice, *, job: str = "a", text: str = SENTENCE) -> SpeechSegment:
    return SpeechSegment(job, 0, text, 0, len(text), 0.0, voice, "en", 1.0, 7)


def test_the_live_voice_takes_as_long_as_its_audio_lasts(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(LIVE))
    samples = sum(len(chunk.pcm) for chunk in steps_to_end(engine))
    elapsed_s = clock.now_s - 5000.0
    assert elapsed_s == pytest.approx(samples / engine.sample_rate, abs=STEP_S)


def test_the_live_voice_subtracts_the_time_its_caller_used_between_steps(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(LIVE))
    engine.step()
    clock.now_s += 0.6 * STEP_S
    engine.step()
    assert clock.slept_s[-1] == pytest.approx(0.4 * STEP_S)
    clock.now_s += 3 * STEP_S
    engine.step()
    assert clock.slept_s[-1] == 0.0


def test_the_fast_voice_does_not_wait_unless_a_live_segment_runs_beside_it(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(FAST))
    steps_to_end(engine)
    assert clock.slept_s == []
    engine.admit(spoken_by(FAST))
    engine.admit(spoken_by(LIVE, job="b"))
    for _ in range(3):
        engine.step()
    assert sum(clock.slept_s) == pytest.approx(3 * STEP_S, abs=STEP_S)


def test_the_live_and_the_fast_voice_give_the_same_samples(clock: Clock) -> None:
    del clock
    engine = ToneEngine()
    assert np.array_equal(speak(engine, spoken_by(FAST)), speak(engine, spoken_by(LIVE)))
