from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.books.book import Block, Chapter
from voxspool.books.pronunciation import Pronunciations
from voxspool.books.speech_markup import MarkupPart, Pauses, spoken_parts
from voxspool.errors import BookError

if TYPE_CHECKING:
    from pathlib import Path

NONE = Pronunciations()


def chapter(*texts: str | Block) -> Chapter:
    return Chapter("A title", tuple(one if isinstance(one, Block) else Block(one) for one in texts))


def heading(text: str) -> Block:
    return Block(text, "heading")


def parts(*texts: str | Block, voice: str | None = None) -> list[tuple[str, float, str | None]]:
    return [(one.spoken, one.pause_s, one.voice) for one in spoken_parts(chapter(*texts), NONE, voice=voice)]


def written(of: Chapter, part: MarkupPart) -> str:
    start, end = part.origin(0, len(part.spoken))
    return of.blocks[part.block].text[start:end]


def test_paragraphs_headings_and_the_end_of_a_chapter_have_default_pauses() -> None:
    assert parts(heading("One"), "First.", "Second.", heading("Two!"), "Third.") == [
        ("One.", 1.0, None), ("First.", 0.6, None), ("Second.", 1.2, None), ("Two!", 1.0, None), ("Third.", 2.0, None),
    ]  # fmt: skip


def test_pauses_can_be_chosen() -> None:
    chosen = Pauses(paragraph_s=0.1, before_heading_s=0.2, after_heading_s=0.3, chapter_s=0)
    found = spoken_parts(chapter("a", "b", heading("c"), "d"), NONE, pauses=chosen)
    assert [one.pause_s for one in found] == [0.1, 0.2, 0.3, 0.1]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Chapter 1", "Chapter 1."),
        ("Who goes there?", "Who goes there?"),
        ("The “Beast”", "The “Beast”."),
        ("“Why?”", "“Why?”"),
        ("第一章", "第一章。"),
        ("To be continued…", "To be continued…"),
        ("* * *", "* * *"),
    ],
)
def test_a_heading_without_punctuation_at_its_end_gets_a_full_stop(text: str, spoken: str) -> None:
    of = chapter(heading(text))
    (part,) = spoken_parts(of, NONE)
    assert part.spoken == spoken
    assert written(of, part) == text, "the added full stop is not part of the written text"


def test_a_pause_splits_a_paragraph_and_keeps_all_text() -> None:
    of = chapter("Wait [pause:1.5s] for it. [pause:500ms][pause: 1 S] Now.")
    found = spoken_parts(of, NONE)
    assert [(one.spoken, one.pause_s) for one in found] == [("Wait", 1.5), ("for it.", 1.5), ("Now.", 2.0)]
    assert [written(of, one) for one in found] == ["Wait", "for it.", "Now."]
    assert found[1].origin(4, 7) == (22, 25)


def test_a_pause_belongs_to_the_part_before_it_and_the_longer_of_two_pauses_is_kept() -> None:
    assert parts("a", "[pause:3s] b", "c [pause:100ms]", "[pause:1s]", "[pause:2s]", "d") == [
        ("a", 3.0, None), ("b", 0.6, None), ("c", 3.1, None), ("d", 2.0, None),
    ]  # fmt: skip


def test_a_chapter_may_begin_with_a_pause_or_contain_only_a_pause() -> None:
    assert parts("[pause:2s] [pause:1s] a") == [("", 3.0, None), ("a", 2.0, None)]
    assert parts("[pause:5s]") == [("", 5.0, None)]
    assert parts() == parts("", "  ") == []


def test_a_voice_marker_applies_to_the_end_of_its_paragraph() -> None:
    assert parts("a [voice:ann] b [voice: bob ] c [voice:] d [VOICE:ann] e", "f", voice="own") == [
        ("a", 0, "own"), ("b", 0, "ann"), ("c", 0, "bob"), ("d", 0, "own"), ("e", 0.6, "ann"), ("f", 2.0, "own"),
    ]  # fmt: skip


def test_a_paragraph_of_markers_alone_sets_the_voice_until_the_next_such_paragraph() -> None:
    assert parts("a", "[voice:ann]", "b [voice:bob] c [voice:] d", heading("e"), "[voice:] [pause:9s]", "f") == [
        ("a", 0.6, None), ("b", 0, "ann"), ("c", 0, "bob"), ("d", 1.2, "ann"), ("e.", 9.0, "ann"), ("f", 2.0, None),
    ]  # fmt: skip


def test_other_brackets_are_text() -> None:
    text = "[voice over] [pause] [sic] [[pause:1s]] [[voice:bob]] [pausel: 1] a[1]"
    assert parts(text) == [(text, 2.0, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a [pause: soon] b", r"chapter 'A title' has a malformed marker, '\[pause: soon\]'; write \[pause:1\.5s\]"),
        ("a [pause:61s]", r"up to 60 s, or write \[\["),
        ("a [pause:-1s]", "pause:-1s"),
        ("a [pause:1.5]", "pause:1.5"),
        ("a [pause:1s and so on", r"'\[pause:1s and so on'"),
        ("a [voice:bob and", r"write \[voice:NAME\]"),
        ("[pause:40s] [pause:30s]", "several pauses in a row, 70 s in total; the limit is 60 s"),
    ],
)
def test_the_error_for_a_malformed_marker_shows_it(text: str, message: str) -> None:
    with pytest.raises(BookError, match=message):
        parts(text)


def test_pronunciations_are_applied_and_map_back_to_the_written_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("dr => Doctor\nwho => hoo", encoding="utf-8")
    of = chapter("So: [pause:1s] Dr Smith, who", Block("Ende", "heading", language="de"))
    found = spoken_parts(of, Pronunciations.read(tmp_path / "book.txt"))
    assert [one.spoken for one in found] == ["So:", "Doctor Smith, hoo", "Ende."]
    assert found[1].origin(0, 6) == (15, 17)
    assert written(of, found[1]) == "Dr Smith, who"
    assert [one.language for one in found] == [None, None, "de"]


PIECES = st.sampled_from(["a", " ", "word.", "[pause:1s]", "[voice:x]", "[voice:]", "[sic]", "é", "[pause:0ms]"])


@given(texts=st.lists(st.lists(PIECES, max_size=8).map("".join), max_size=5))
def test_every_letter_is_spoken_exactly_once_in_order(texts: list[str]) -> None:
    of = chapter(*texts)
    found = spoken_parts(of, NONE)
    left = re.sub(r"\[(pause|voice):[^]]*\]|\s", "", "".join(texts))
    assert re.sub(r"\s", "", "".join(one.spoken for one in found)) == left
    assert all(written(of, one) == one.spoken for one in found)
