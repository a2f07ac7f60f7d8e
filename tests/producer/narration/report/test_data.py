from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser

import pytest

from tests.support.cpu_time import growth
from voxspool.books.book import Book
from voxspool.narration.report.data import encoded, report
from voxspool.narration.report.page import page
from voxspool.narration.report.verify import Transcription
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

HZ = 1000
EVIL = "<script>alert('1')</script> & \"quoted\" \x00\ud800 $title"


def stored(
    samples: int, worker: str = "one", *, tries: int = 1, level: float = -22.0, voice: str = "ann"
) -> StoredSegment:
    return StoredSegment(
        f"{samples:040x}", HZ, samples, "", "tone", "tone 1", voice, "en", 7, tries, "", samples / 4000, level, -3.0,
        0.125, worker,
    )  # fmt: skip


def cue(
    text: str, pos: int, said: StoredSegment | None, pause: int = 0, *, fault: str = "", reused: bool = False
) -> Cue:
    samples = said.samples if said else 0
    return Cue(0, 3, 3 + len(text), text, text.upper(), pos, pos + samples + pause, said, fault, reused)


BOOK = Book("A book", (), ("the authors of voxspool",), "en", unread=("page 3 is damaged",))
FIRST = Track(
    1, "First", HZ,
    (
        cue("It begins.", 0, stored(2000, "one"), 500),
        cue("Again and again.", 2500, stored(4000, "two", tries=3, level=-28.0), 500, fault="noise"),
    ),
)  # fmt: skip
SECOND = Track(
    2, "Second", HZ,
    (cue("Kept.", 0, stored(1000, "one", level=-20.0), 0, reused=True), cue("Lost.", 1000, None, 600, fault="engine")),
)  # fmt: skip
HEARD = {(1, 0): Transcription("other words", 1.0, 5), (2, 0): Transcription("KEPT", 0.0, 1)}


def test_a_row_says_all_that_is_known_of_a_segment() -> None:
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


def test_what_was_heard_is_in_its_row_and_other_words_are_a_fault() -> None:
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


class Seen(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._texts: list[str] = []
        self.feed(html)
        self.text = "".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self._texts.append(data)


def test_the_page_begins_with_what_failed() -> None:
    html = page(report(BOOK, [FIRST, SECOND], HEARD))
    seen = Seen(html)
    for shown in ("3 of 4 segments were not spoken", "Not read: page 3 is damaged", "noise at its end", "heard: other"):
        assert shown in seen.text
    failed = html.index("What failed")
    assert failed < html.index("Who spoke what") < html.index("Level</h2>") < html.index("Chapters</h2>")
    assert html.index("Again and again.") > failed
    assert {value for name, value in seen.attributes if name == "href" and str(value).startswith("#s")} <= {
        f"#{value}" for name, value in seen.attributes if name == "id"
    }
    assert seen.tags.count("details") == 3
    assert html.count('<path class="fault"') == 3


def test_a_page_without_faults_says_so() -> None:
    html = page(report(Book("A book", ()), [Track(1, "", HZ, FIRST.cues[:1])]))
    assert "All 1 segments passed" in html
    assert "What failed" not in html
    assert "Nothing was spoken" in page(report(Book("", ()), []))
    assert "Nothing was spoken" in page(report(Book("", ()), [Track(1, "Silent", HZ, ())]))


def test_texts_are_text_and_nothing_is_fetched() -> None:
    said = stored(1000, EVIL, voice=EVIL)
    track = Track(1, EVIL, HZ, (cue(EVIL, 0, said, fault=EVIL), cue(EVIL, 1000, said)))
    html = page(report(Book(EVIL, (), (EVIL,), unread=(EVIL,)), [track], {(1, 1): Transcription(EVIL, 0.5, 4)}))
    seen = Seen(html)
    assert "script" not in seen.tags
    assert "<script>alert('1')</script> & \"quoted\" \ufffd\ufffd $title" in seen.text
    assert not [name for name, _ in seen.attributes if name == "src" or name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", html)
    assert set(seen.tags) <= {
        *[
            "html",
            "meta",
            "title",
            "style",
            "body",
            "h1",
            "h2",
            "p",
            "dl",
            "div",
            "dt",
            "dd",
            "small",
            "details",
            "summary",
            "span",
            "table",
            "tr",
            "th",
            "td",
            "a",
            "i",
            "svg",
        ],
        *["path", "text"],
    }
    html.encode()


def a_long_book(chapters: int) -> list[Track]:
    draw = random.Random(1)
    tracks = []
    for number in range(1, chapters + 1):
        cues: list[Cue] = []
        pos = 0
        for index in range(250):
            said = stored(draw.randrange(1500, 9000), f"worker-{draw.randrange(3)}", level=draw.gauss(-23, 1.2))
            words = "The harbour lay quiet under a grey morning, and nobody had noticed that the ferry was late. " * 2
            fault = "noise" if draw.random() < 0.003 else ""
            cues.append(cue(words, pos, said, 300, fault=fault, reused=index < 60))
            pos = cues[-1].end_pos
        tracks.append(Track(number, f"Chapter {number}", HZ, tuple(cues)))
    return tracks


def test_ten_thousand_segments_are_a_page_that_can_be_used() -> None:
    def made(tracks: list[Track]) -> tuple[str, str]:
        found = report(BOOK, tracks)
        return page(found), encoded(found)

    short, long = a_long_book(10), a_long_book(40)
    html, data = made(long)
    assert growth(lambda: made(short), lambda: made(long)) < 8, "4 times the book"
    assert len(html.encode()) < 10e6
    assert len(data.encode()) < 10e6
    assert Seen(html).tags.count("details") == 41
