"""Estimates of a narration: durations, times and sizes, and the reasons for them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from voxspool.narration.estimate import estimate
from voxspool.protocol.jobs import queue_name
from voxspool.workers import WorkerCard

STORE = "0" * 32
BOOK = [9_000, 15_000, 24_000]
"""The number of characters in each chapter: 48,000 in all, which take 3,000 s at 16 characters a second."""


def card(name: str = "w1", **said: object) -> WorkerCard:
    about: dict[str, Any] = {
        "engine": "xtts", "model": "m", "device": "cpu", "sample_rate": 24_000, "voices": {}, "jobs": 8, "running": 0,
        "queues": [queue_name("xtts", "interactive"), queue_name("xtts", "batch")],
        "rows": 8, "rows_in_use": 0, "host": "h", "pid": 1,
        "speech_rate": 20.0, "store": STORE,
    }  # fmt: skip
    return WorkerCard(name=name, **(about | said))


def test_the_duration_of_a_book_follows_from_its_characters_speed_and_pauses() -> None:
    made = estimate(BOOK, "en", [card()], "xtts", STORE)
    assert made.audio_s == pytest.approx(3_000)
    assert estimate(BOOK, "en", [], "xtts", STORE, speed=1.5).audio_s == pytest.approx(2_000)
    assert estimate(BOOK, "en", [], "xtts", STORE, pauses_s=60).audio_s == pytest.approx(3_060)
    assert estimate([], "en", [], "xtts", STORE).audio_s == 0


def test_a_tone_is_as_long_as_the_engine_makes_it() -> None:
    tone = pytest.importorskip("voxspool_worker.engines.tone")
    assert estimate([1_000], "ja", [], "tone", STORE).audio_s == pytest.approx(1_000 * tone.CHAR_S)


def test_workers_share_the_work() -> None:
    assert estimate(BOOK, "en", [card()], "xtts", STORE).work_s == pytest.approx(150)
    both = estimate(BOOK, "en", [card(), card("w2", speech_rate=5.0)], "xtts", STORE, pauses_s=600)
    assert both.work_s == pytest.approx(120)  # pauses take no work
    assert both.why == "2 live workers of xtts, together 25x real time"


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ([], "no live worker takes books for xtts"),
        ([card(engine="piper", queues=[queue_name("piper", "batch")])], "no live worker takes books for xtts"),
        ([card(queues=[])], "no live worker takes books for xtts"),
        ([card(queues=[queue_name("xtts", "interactive")])], "no live worker takes books for xtts"),
        ([card(store="1" * 32), card(store="")], "2 live workers of xtts, but none with this segment store"),
        ([card(speech_rate=None)], "1 live worker of xtts, but none with a known speed yet"),
        (
            [card(speech_rate=rate) for rate in (0.0, math.nan, math.inf)],
            "3 live workers of xtts, but none with a known speed",
        ),
    ],
)
def test_a_time_that_is_not_known_is_none_with_a_reason(cards: list[WorkerCard], why: str) -> None:
    made = estimate(BOOK, "en", cards, "xtts", STORE)
    assert made.work_s is None
    assert why in made.why
    assert made.audio_s == pytest.approx(3_000)


def test_a_worker_with_no_known_speed_is_left_out_of_the_time_and_named() -> None:
    made = estimate(BOOK, "en", [card(), card("w2", speech_rate=None)], "xtts", STORE)
    assert made.work_s == pytest.approx(150)
    assert made.why == "1 live worker of xtts, together 20x real time; 1 more with no known speed yet"


def test_the_size_of_the_files_follows_from_their_formats() -> None:
    made = estimate(BOOK, "en", [card(sample_rate=22_050)], "xtts", STORE).files_bytes
    assert made["wav"] == 3_000 * 22_050 * 2
    assert made["opus"] < made["mp3"] < made["m4b"] < made["flac"] < made["wav"]
    assert estimate(BOOK, "en", [], "xtts", STORE).files_bytes["wav"] == 3_000 * 24_000 * 2
    assert set(made) == {"flac", "wav", "mp3", "opus", "m4b"}
