"""What the checks hear of a fault, and that they leave good speech alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.engines.tone import FAST, sine
from voxspool_worker.narration import audio_checks

RATE = 24_000
TEXT = "The keeper counted every lamp before the night began."
USUAL_S = 3.3

Pcm = npt.NDArray[np.int16]


def speech(seconds: float = USUAL_S, amplitude: float = 0.25) -> Pcm:
    """Return something that is as loud as speech."""
    phase = np.arange(round(seconds * RATE)) * (2 * np.pi * 220 / RATE)
    return np.rint(np.clip(np.sin(phase) * amplitude, -1, 1) * audio_checks.FULL_SCALE).astype(np.int16)


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * RATE), np.int16)


def faults(pcm: Pcm, text: str = TEXT, speed: float = 1.0) -> list[str]:
    return audio_checks.faults(audio_checks.measure(pcm, RATE), text, speed)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=200), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_sine_passes_whatever_it_says(text: str, speed: float) -> None:
    assert faults(sine(SpeechSegment("", 0, text, 0, len(text), 0, FAST, "en", speed, 7), RATE), text, speed) == []


@pytest.mark.parametrize(
    ("pcm", "said"),
    [
        (silence(0), ["empty"]),
        (silence(USUAL_S), ["empty"]),
        (speech(0.5), ["rate"]),
        (speech(30), ["rate"]),
        (speech(amplitude=0.005), ["level"]),
        (speech(amplitude=5), ["clipping", "level"]),
        (np.concatenate([speech(1), silence(3)]), ["silence"]),
        (np.concatenate([speech(1), silence(20)]), ["rate", "silence"]),
    ],
    ids=["nothing", "silence", "short", "long", "faint", "clipped", "mostly-silent", "silent-and-long"],
)
def test_a_fault_has_its_word(pcm: Pcm, said: list[str]) -> None:
    assert faults(pcm) == said


def test_a_short_word_may_have_its_own_length_of_silence_around_it() -> None:
    assert faults(np.concatenate([silence(0.3), speech(0.25), silence(0.35)]), "No.") == []


def test_digits_and_capitals_and_chinese_may_take_their_time() -> None:
    for text in ("1,234,567,890", "BBC, NATO", "你好你好你好你好"):
        assert faults(speech(5.5), text) == [], text
    assert faults(speech(5.5), "Good morning.") == ["rate"]


def test_a_slow_speech_may_be_longer() -> None:
    assert faults(speech(18), speed=0.5) == []
    assert faults(speech(18), speed=1.0) == ["rate"]


def test_a_peak_that_touches_full_scale_is_not_clipped() -> None:
    pcm = speech()
    pcm[::1000] = audio_checks.FULL_SCALE
    assert faults(pcm) == []


def test_measures_are_against_full_scale() -> None:
    heard = audio_checks.measure(np.concatenate([speech(1, 0.5), silence(1)]), RATE)
    assert heard.level_dbfs == pytest.approx(-9.03, abs=0.05)
    assert heard.peak_dbfs == pytest.approx(-6.02, abs=0.05)
    assert heard.silent_share == pytest.approx(0.5, abs=0.01)
    assert heard.duration_s == 2
    assert audio_checks.measure(silence(0), RATE) == audio_checks.AudioMeasurements(
        0, audio_checks.NOTHING_DBFS, audio_checks.NOTHING_DBFS, 1.0, 0.0
    )


@given(st.binary(max_size=4000))
def test_any_samples_are_measured(data: bytes) -> None:
    pcm = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    heard = audio_checks.measure(pcm, RATE)
    assert audio_checks.NOTHING_DBFS <= heard.level_dbfs <= 0.01
    assert 0 <= heard.silent_share <= 1
    assert 0 <= heard.clipped_share <= 1
