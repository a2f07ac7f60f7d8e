"""The output check: plausible durations, faults at the end of the audio, and the order of attempts."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from voxspool_worker.engines.xtts import output_check

if TYPE_CHECKING:
    import numpy.typing as npt

RATE = 24_000
SENTENCE = "The keeper counted every lamp before the night began, as he had done for thirty years."


def tone(seconds: float, level: float = 0.2) -> npt.NDArray[np.float32]:
    """Return a signal like voiced speech: a pitch and its overtones."""
    at = np.arange(round(seconds * RATE)) / RATE
    return (level * sum(np.sin(2 * np.pi * 120 * n * at) / n for n in range(1, 20)) / 3).astype(np.float32)


def noise(seconds: float, level: float = 0.1) -> npt.NDArray[np.float32]:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def silence(seconds: float) -> npt.NDArray[np.float32]:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.mark.parametrize(("text", "max_chars", "spoken_s"), [
    (SENTENCE, 250, 5.0),
    (SENTENCE, 250, 8.0),
    ("No.", 250, 0.6),
    ("Yes, of course.", 250, 1.2),
    ("In 1984 there were 1,250,000 of them.", 250, 5.5),
    ("北京的秋天很美。", 82, 2.0),
    ("東京は今日も雨です。", 71, 2.0),
])  # fmt: skip
def test_usual_durations_of_a_text_are_plausible(text: str, max_chars: int, spoken_s: float) -> None:
    plausible = output_check.plausible_duration(text, max_chars)
    assert plausible.min_s <= spoken_s <= plausible.max_s


@pytest.mark.parametrize(
    ("text", "spoken_s"), [(SENTENCE, 1.0), (SENTENCE, 16.0), ("No.", 4.0), ("Yes, of course.", 6.0)]
)
def test_far_too_short_and_far_too_long_durations_are_not_plausible(text: str, spoken_s: float) -> None:
    plausible = output_check.plausible_duration(text, 250)
    assert not plausible.min_s <= spoken_s <= plausible.max_s


def test_the_longest_text_is_expected_to_fit_the_models_maximum_output() -> None:
    assert output_check.plausible_duration("x" * 250, 250).expected_s < 602 * 1024 / 22050


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (tone(3), ""),
        (np.concatenate((tone(2), silence(0.6))), ""),
        (np.concatenate((tone(2), silence(1.3))), "silence"),
        (np.concatenate((tone(2), noise(1.3))), "noise"),
        (np.concatenate((tone(2), noise(0.6))), ""),
        (np.concatenate((tone(2), noise(1.3, level=0.0005))), "silence"),
        (np.concatenate((noise(2), tone(1.1))), ""),
        (silence(0.3), ""),
        (np.zeros(0, np.float32), ""),
    ],
    ids=["voice", "pause", "silence", "noise", "hiss", "breath", "noise before", "short", "empty"],
)
def test_a_second_of_silence_or_noise_at_the_end_is_a_fault(samples: npt.NDArray[np.float32], fault: str) -> None:
    assert output_check.end_fault(samples, RATE) == fault


@pytest.mark.voice
def test_real_speech_with_many_sibilants_is_not_a_fault() -> None:
    if importlib.util.find_spec("piper") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("piper is not installed")
    from voxspool_worker.engines import load
    from voxspool_worker.settings import Settings

    engine = load("piper", Settings())
    from voxspool_worker.engines.base import SpeechSegment

    voice = next(iter(engine.voices.values()))
    engine.admit(
        SpeechSegment("a", 0, "She sells sea shells; six thick thistle sticks, sisters.", 0, 1, 0, voice, "en", 1.0, 0)
    )
    samples = engine.step()[0].pcm / 32768
    for end in range(engine.sample_rate, len(samples), engine.sample_rate // 10):
        assert output_check.end_fault(samples[:end].astype(np.float32), engine.sample_rate) == ""


def test_attempts_are_ordered_by_fault_then_by_distance_to_the_expected_duration() -> None:
    plausible = output_check.plausible_duration(SENTENCE, 250)
    attempts = [
        ("cap", 28.0),
        ("rate", 14.0),
        ("noise", 5.0),
        ("silence", 9.0),
        ("silence", 6.0),
        ("", 11.0),
        ("", 6.0),
    ]
    ranked = sorted(attempts, key=lambda one: output_check.badness(*one, plausible), reverse=True)
    assert ranked == attempts
