"""Captions: their times, how texts are cut into lines, and escaping."""

from __future__ import annotations

import io
import unicodedata
from itertools import pairwise

import pytest
import srt as subrip
import webvtt as vtt
from hypothesis import given
from hypothesis import strategies as st

from voxspool.narration.exports.captions import LINE_COLUMNS, captions, srt, webvtt
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

HZ = 1000
"""A sample is a millisecond."""
LONG = (
    "It was the best of captions, it was the worst of captions; it was the age of two lines, it was the epoch of "
    "forty-two columns, and nobody who read it ever knew where a line would end until it had."
)


def stored(samples: int) -> StoredSegment:
    return StoredSegment("0" * 40, HZ, samples, "", "tone", "tone", "a", "en", 0, 1, "", 0.1, -20.0, -3.0, 0.0, "w")


def cue(text: str, pos: int, said: int, pause: int = 0, *, block: int = 0, start: int = 0) -> Cue:
    return Cue(block, start, start + len(text), text, text, pos, pos + said + pause, stored(said) if said else None)


def track(*texts: str, said: int = 1000, pause: int = 500) -> Track:
    cues = [cue(text, number * (said + pause), said, pause, block=number) for number, text in enumerate(texts)]
    return Track(1, "A title", HZ, tuple(cues))


def read_srt(text: str) -> list[tuple[float, float, str]]:
    return [(one.start.total_seconds(), one.end.total_seconds(), one.content) for one in subrip.parse(text)]


def read_vtt(text: str) -> list[tuple[float, float, str]]:
    found = vtt.from_buffer(io.StringIO(text))
    return [(one.start_in_seconds, one.end_in_seconds, one.text) for one in found]


def test_a_caption_ends_with_its_words_before_the_pause() -> None:
    of = [track("One.", "Two."), track("Three.")]
    expected = [(0, 1, "One."), (1.5, 2.5, "Two."), (3, 4, "Three.")]
    assert read_srt(srt(of)) == expected
    assert [(one.start_in_seconds, one.text) for one in vtt.from_buffer(io.StringIO(webvtt(of)))] == [
        (int(start), text) for start, _, text in expected
    ], "webvtt-py gives whole seconds"
    assert "00:00:01.500 --> 00:00:02.500\nTwo.\n" in webvtt(of)


def test_a_long_segment_is_cut_at_clauses_and_its_time_is_divided() -> None:
    found = list(captions([track(LONG, said=20_000)]))
    assert " ".join(line for one in found for line in one.lines) == LONG
    assert [one.lines[-1][-1] for one in found] == [";", ",", "."]
    for one in found:
        assert len(one.lines) <= 2
        assert max(map(len, one.lines)) <= LINE_COLUMNS
        assert (one.end_s - one.start_s) / len(" ".join(one.lines)) == pytest.approx(20 / len(LONG), rel=0.05)
    assert all(before.end_s == after.start_s for before, after in pairwise(found))


def test_two_lines_are_about_equally_long() -> None:
    (one,) = captions([track("A caption of more than forty-two columns is cut.")])
    assert one.lines == ("A caption of more than", "forty-two columns is cut.")


def test_a_word_whose_pronunciation_was_cut_in_two_is_shown_once() -> None:
    of = Track(1, "", HZ, (cue("NASA", 0, 500), cue("NASA flies.", 500, 500), cue("NASA", 1000, 500, block=1)))
    again = Track(1, "", HZ, (cue("See NASA", 0, 500), cue("NASA", 500, 500, start=4), cue(" fly", 1000, 9, start=8)))
    assert read_srt(srt([of])) == [(0, 0.5, "NASA"), (0.5, 1, "flies."), (1, 1.5, "NASA")]
    assert read_srt(srt([again])) == [(0, 1, "See NASA"), (1, 1.009, "fly")]


def test_a_segment_without_text_or_audio_has_no_caption() -> None:
    of = Track(1, "", HZ, (cue("Lost.", 0, 0, 100), cue("  \n ", 100, 50, block=1), cue("Here.", 150, 50, block=2)))
    assert read_srt(srt([of])) == [(0.15, 0.2, "Here.")]
    assert srt([]) == ""
    assert webvtt([]) == "WEBVTT\n"


def test_captions_shorter_than_a_millisecond_do_not_overlap() -> None:
    cues = tuple(cue("Ah!", 3 * number, 3, block=number) for number in range(50))
    found = read_srt(srt([Track(1, "", 22_050, cues)]))
    assert len(found) == 50
    assert all(before[1] <= after[0] < after[1] for before, after in pairwise(found))


def test_markup_in_a_text_is_escaped() -> None:
    text = "1 --> 2 & <b>3</b>\n\n4 \x00\ud800 &amp; 00:01"
    assert read_srt(srt([track(text)]))[0][2] == "1 → 2 & <b>3</b> 4 &amp; 00:01"
    written = webvtt([track(text)])
    assert "1 --&gt; 2 &amp; &lt;b&gt;3&lt;/b&gt; 4 &amp;amp; 00:01" in written
    assert len(vtt.from_buffer(io.StringIO(written))) == 1
    written.encode()


def test_a_book_may_last_longer_than_ninety_nine_hours() -> None:
    of = Track(1, "", HZ, (cue("Late.", 100 * 3600 * HZ, 1000),))
    assert srt([of]).startswith("1\n100:00:00,000 --> 100:00:01,000\n")
    assert read_srt(srt([of])) == [(360_000, 360_001, "Late.")]


@pytest.mark.parametrize("text", ["日本語の文章です、これは長い。" * 12, "x" * 500, "é" * 300, "a " + "b" * 83 + " c"])
def test_text_without_spaces_is_cut_too(text: str) -> None:
    found = list(captions([track(text)]))
    assert "".join(line for one in found for line in one.lines).replace(" ", "") == text.replace(" ", "")
    for line in (line for one in found for line in one.lines):
        assert sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) <= LINE_COLUMNS
        assert line[0] not in "、。"


WORDS = st.sampled_from(["a", "word.", "clause,", "x" * 42, "y" * 43, "日本語", "。", "“Yes!”", "e\u0301", "-->"])


@given(
    texts=st.lists(st.tuples(st.lists(WORDS, max_size=40).map(" ".join), st.integers(0, 3000), st.integers(0, 50))),
)
def test_captions_are_in_order_fit_their_lines_and_contain_every_word(texts: list[tuple[str, int, int]]) -> None:
    cues, pos = [], 0
    for number, (text, said, pause) in enumerate(texts):
        cues.append(cue(text, pos, said, pause, block=number))
        pos = cues[-1].end_pos
    of = Track(1, "", HZ, tuple(cues))
    spoken = "".join(one.text for one in cues if one.stored).replace(" ", "").replace("-->", "→")
    assert "".join(text for _, _, text in read_srt(srt([of]))).replace("\n", "").replace(" ", "") == spoken
    for before, after in pairwise([(0.0, 0.0, ""), *read_srt(srt([of]))]):
        assert before[1] <= after[0] < after[1]
        assert after[2].count("\n") < 2
    assert len(read_vtt(webvtt([of]))) == len(read_srt(srt([of])))
    assert all(
        sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in line)
        <= LINE_COLUMNS
        for one in captions([of])
        for line in one.lines
    )
