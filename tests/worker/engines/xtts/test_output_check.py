"""What the guard takes for plausible speech, and what it calls a fault."""

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
    """A voice of a kind: a pitch and its overtones."""
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
def test_what_people_take_for_a_text_is_plausible(text: str, max_chars: int, spoken_s: float) -> None:
    band = output_check.band(text, max_chars)
    assert band.shortest_s <= spoken_s <= band.longest_s


@pytest.mark.parametrize(
    ("text", "spoken_s"), [(SENTENCE, 1.0), (SENTENCE, 16.0), ("No.", 4.0), ("Yes, of course.", 6.0)]
)
def test_what_nobody_takes_is_not(text: str, spoken_s: float) -> None:
    band = output_check.band(text, 250)
    assert not band.shortest_s <= spoken_s <= band.longest_s


def test_a_long_text_never_needs_more_than_the_model_may_say() -> None:
    assert output_check.band("x" * 250, 250).usual_s < 602 * 1024 / 22050


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
def test_the_end_is_listened_to(samples: npt.NDArray[np.float32], fault: str) -> None:
    assert output_check.end_fault(samples, RATE) == fault


@pytest.mark.voice
def test_a_real_voice_is_never_called_noise() -> None:
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


def test_of_two_tries_the_better_fault_wins_and_then_the_usual_length() -> None:
    band = output_check.band(SENTENCE, 250)
    tries = [("cap", 28.0), ("rate", 14.0), ("noise", 5.0), ("silence", 9.0), ("silence", 6.0), ("", 11.0), ("", 6.0)]
    ranked = sorted(tries, key=lambda one: output_check.worse(*one, band), reverse=True)
    assert ranked == tries
