"""Which faults the checks find in the audio of a segment, and that good speech passes."""

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
    """Return a sine that is as loud as speech."""
    phase = np.arange(round(seconds * RATE)) * (2 * np.pi * 220 / RATE)
    return np.rint(np.clip(np.sin(phase) * amplitude, -1, 1) * audio_checks.FULL_SCALE).astype(np.int16)


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * RATE), np.int16)


def faults(pcm: Pcm, text: str = TEXT, speed: float = 1.0) -> list[str]:
    return audio_checks.faults(audio_checks.measure(pcm, RATE), text, speed)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=200), st.sampled_from([0.5, 1.0, 2.0]))
def test_tone_passes_the_checks_with_any_text_and_speed(text: str, speed: float) -> None:
    assert faults(sine(SpeechSegment("", 0, text, 0, len(text), 0, FAST, "en", speed, 7), RATE), text, speed) == []


@pytest.mark.parametrize(
    ("pcm", "expected"),
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
def test_each_fault_is_named_and_the_worst_comes_first(pcm: Pcm, expected: list[str]) -> None:
    assert faults(pcm) == expected


def test_a_short_word_may_have_more_silence_around_it_than_sound() -> None:
    assert faults(np.concatenate([silence(0.4), speech(0.2), silence(0.4)]), "No.") == [], "80 % of a second"
    assert faults(np.concatenate([silence(0.5), speech(0.2), silence(0.4)]), "No.") == ["silence"], "more than a second"


def test_digits_capitals_and_chinese_may_take_longer_than_their_number_of_characters() -> None:
    for text in ("1,234,567,890", "BBC, NATO", "你好你好你好你好"):
        assert faults(speech(5.5), text) == [], text
    assert faults(speech(5.5), "Good morning.") == ["rate"]


def test_a_text_that_is_spoken_slowly_may_take_longer() -> None:
    assert faults(speech(18), speed=0.5) == []
    assert faults(speech(18), speed=1.0) == ["rate"]


def test_single_samples_at_full_scale_are_not_clipping() -> None:
    pcm = speech()
    pcm[::1000] = audio_checks.FULL_SCALE
    assert faults(pcm) == []


def clipped(share: float, run: int) -> Pcm:
    """Return speech with runs of samples at negative full scale, which make up a share of all samples."""
    pcm = speech()
    for start in np.linspace(0, len(pcm) - run, round(share * len(pcm) / run)).astype(int):
        pcm[start : start + run] = -audio_checks.FULL_SCALE - 1
    return pcm


@pytest.mark.parametrize(
    ("share", "run", "expected"),
    [(0.0008, 4, []), (0.0012, 4, ["clipping"]), (0.0012, 3, []), (0.0012, 80, ["clipping"])],
)
def test_clipping_counts_samples_in_runs_at_full_scale(share: float, run: int, expected: list[str]) -> None:
    assert faults(clipped(share, run)) == expected


@pytest.mark.parametrize(("level_dbfs", "expected"), [(-42.5, ["level"]), (-41.5, []), (-6.5, []), (-5.5, ["level"])])
def test_the_level_has_a_minimum_and_a_maximum(level_dbfs: float, expected: list[str]) -> None:
    amplitude = 10 ** (level_dbfs / 20) * np.sqrt(2)
    assert faults(speech(amplitude=amplitude)) == expected


def test_levels_are_relative_to_full_scale_and_silent_frames_do_not_lower_them() -> None:
    measured = audio_checks.measure(np.concatenate([speech(1, 0.5), silence(1)]), RATE)
    assert measured.level_dbfs == pytest.approx(-9.03, abs=0.05)
    assert measured.peak_dbfs == pytest.approx(-6.02, abs=0.05)
    assert measured.silent_share == pytest.approx(0.5, abs=0.01)
    assert measured.duration_s == 2


def test_no_samples_have_the_lowest_level_and_are_all_silent() -> None:
    assert audio_checks.measure(silence(0), RATE) == audio_checks.AudioMeasurements(
        0, audio_checks.NOTHING_DBFS, audio_checks.NOTHING_DBFS, 1.0, 0.0
    )


@given(st.binary(max_size=4000))
def test_any_samples_can_be_measured(data: bytes) -> None:
    pcm = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    measured = audio_checks.measure(pcm, RATE)
    assert audio_checks.NOTHING_DBFS <= measured.level_dbfs <= 0.01
    assert 0 <= measured.silent_share <= 1
    assert 0 <= measured.clipped_share <= 1
