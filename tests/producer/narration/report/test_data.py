"""The report's data: a row for each segment, and totals that add up."""

from __future__ import annotations

import json

import pytest

from tests.support.reported import BOOK, EVIL, FIRST, HEARD, SECOND
from voxspool.books.book import Book
from voxspool.narration.report.data import encoded, report


def test_a_row_has_everything_that_is_known_about_a_segment() -> None:
    row = report(BOOK, [FIRST, SECOND])["segments"][1]
    assert row == {
        "chapter": 1, "segment": 1, "block": 0, "start": 3, "end": 19,
        "text": "Again and again.", "spoken": "AGAIN AND AGAIN.",
        "start_s": 2.5, "end_s": 6.5, "pause_s": 0.5, "fault": "noise", "reused": False,
        "voice": "ann", "language": "en", "engine": "tone", "model": "tone 1", "seed": 7, "tries": 3,
        "elapsed_s": 1.0, "worker": "two", "key": f"{4000:040x}",
        "level_dbfs": -28.0, "peak_dbfs": -3.0, "silent_share": 0.125, "heard": None, "word_error_rate": None,
    }  # fmt: skip


def test_a_segment_that_was_not_spoken_has_a_row_too() -> None:
    row = report(BOOK, [SECOND])["segments"][1]
    assert (row["text"], row["fault"], row["key"], row["level_dbfs"], row["start_s"], row["end_s"], row["pause_s"]) == (
        "Lost.", "engine", None, None, 1.0, 1.0, 0.6,
    )  # fmt: skip


def test_totals_chapters_and_workers_add_up() -> None:
    found = report(BOOK, [FIRST, SECOND])
    assert found["totals"] == {
        "characters": 36, "segments": 4, "duration_s": 8.6, "faults": 2, "spoken": 2, "reused": 1, "spoken_again": 1,
        "work_s": 1.5, "real_time_factor": 0.25, "level_dbfs": -22.0, "word_error_rate": None,
    }  # fmt: skip
    assert found["chapters"] == [
        {"chapter": 1, "title": "First", "start_s": 0.0, "duration_s": 7.0, "segments": 2, "faults": 1},
        {"chapter": 2, "title": "Second", "start_s": 7.0, "duration_s": 1.6, "segments": 2, "faults": 1},
    ]
    assert [tuple(one.values()) for one in found["workers"]] == [
        ("two", 1, 0, 4.0, 0.571, 1.0, 0.25),
        ("one", 1, 1, 3.0, 0.429, 0.5, 0.25),
    ]
    assert list(found["workers"][0]) == ["worker", "spoken", "reused", "audio_s", "share", "work_s", "real_time_factor"]


def test_a_row_has_the_transcript_and_different_words_are_a_fault() -> None:
    found = report(BOOK, [FIRST, SECOND], HEARD)
    first, second, third, _ = found["segments"]
    assert (first["heard"], first["word_error_rate"], first["fault"]) == ("other words", 1.0, "words")
    assert (second["heard"], second["fault"], third["fault"]) == (None, "noise", "")
    assert found["totals"]["faults"] == 3
    assert found["totals"]["word_error_rate"] == pytest.approx(2 / 3, abs=1e-3), "two words of three"


def test_the_file_is_json_with_a_segment_a_line() -> None:
    found = report(Book(EVIL, ()), [FIRST, SECOND])
    text = encoded(found)
    assert json.loads(text)["segments"] == found["segments"]
    assert json.loads(text)["totals"] == found["totals"]
    assert json.loads(text)["title"] == EVIL.replace("\ud800", "\ufffd")
    assert [json.loads(line.rstrip(","))["text"] for line in text.splitlines() if '"block"' in line] == [
        "It begins.", "Again and again.", "Kept.", "Lost.",
    ]  # fmt: skip
    text.encode()
