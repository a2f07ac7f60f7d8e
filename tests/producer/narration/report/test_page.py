"""The report's page: what it shows, that texts stay text, and its size for a long book."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser

from tests.support.cpu_time import growth
from tests.support.reported import BOOK, EVIL, FIRST, HEARD, HZ, SECOND, cue, stored
from voxspool.books.book import Book
from voxspool.narration.report.data import encoded, report
from voxspool.narration.report.page import page
from voxspool.narration.report.verify import Transcription
from voxspool.narration.track import Cue, Track


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


def test_the_page_starts_with_the_faults() -> None:
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


def test_one_segment_is_written_in_the_singular() -> None:
    found = report(BOOK, [Track(1, "", HZ, (cue("Lost.", 0, None, fault="engine"),))])
    for shown in ("1 of 1 segment was not spoken", "in 1 chapter", "1 failed"):
        assert shown in Seen(page(found)).text
    assert "1 segments" not in page(found)


def test_a_segment_is_named_in_the_timeline_and_a_worker_in_its_colour() -> None:
    found = report(BOOK, [FIRST, SECOND])
    html = page(found)
    assert html.count('class="w w0"') > 1, "the legend, the table of workers and the timeline"
    assert "1.1 noise: Again and again." in Seen(html).text
    many = [Track(1, "", HZ, tuple(cue(f"{n}.", n, stored(n, f"worker-{n}")) for n in range(1, 12)))]
    assert {f"w{number}" for number in range(8)} == set(re.findall(r'class="w (w\d+)"', page(report(BOOK, many))))


def test_a_page_without_faults_says_so() -> None:
    html = page(report(Book("A book", ()), [Track(1, "", HZ, FIRST.cues[:1])]))
    assert "1 segment passed the checks" in html
    assert "What failed" not in html
    assert "Nothing was spoken" in page(report(Book("", ()), []))
    assert "Nothing was spoken" in page(report(Book("", ()), [Track(1, "Silent", HZ, ())]))


def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
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


def test_the_page_of_ten_thousand_segments_is_small_enough_to_use() -> None:
    def made(tracks: list[Track]) -> tuple[str, str]:
        found = report(BOOK, tracks)
        return page(found), encoded(found)

    short, long = a_long_book(10), a_long_book(40)
    html, data = made(long)
    assert growth(lambda: made(short), lambda: made(long)) < 8, "4 times the book"
    assert len(html.encode()) < 10e6
    assert len(data.encode()) < 10e6
    assert Seen(html).tags.count("details") == 41
