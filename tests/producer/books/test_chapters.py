from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.books import chapters
from voxspool.books.book import Block, Chapter
from voxspool.books.chapters import MAX_CHAPTER_CHARS, MAX_TITLE_CHARS, at_starts, bounded, by_headings, shortened


def blocks(*texts: str) -> list[Block]:
    """Return a block for each text; texts in capitals are headings."""
    return [Block(text, "heading" if text.isupper() else "paragraph") for text in texts]


def outline(found: list[Chapter]) -> list[tuple[str, list[str]]]:
    return [(one.title, [block.text for block in one.blocks]) for one in found]


def test_chapters_start_at_the_highest_heading_level_that_occurs_more_than_once() -> None:
    text = blocks("TITLE", "A", "a", "SUB", "b", "B", "c")
    assert outline(by_headings(text, [1, 2, 0, 3, 0, 2, 0], "Book")) == [
        ("A", ["TITLE", "A", "a", "SUB", "b"]),
        ("B", ["B", "c"]),
    ]


def test_chapters_start_at_the_highest_level_if_each_level_occurs_once() -> None:
    assert outline(by_headings(blocks("A", "a", "SUB", "b"), [2, 0, 3, 0], "Book")) == [("A", ["A", "a", "SUB", "b"])]


def test_a_text_without_headings_is_one_chapter_with_the_books_title() -> None:
    assert outline(by_headings(blocks("a", "b"), [0, 0], "Book")) == [("Book", ["a", "b"])]
    assert by_headings([], [], "Book") == []


def test_text_before_the_first_chapter_becomes_a_chapter_with_the_books_title() -> None:
    assert outline(at_starts(blocks("a", "B", "b"), [1], "Book")) == [("Book", ["a"]), ("B", ["B", "b"])]
    assert outline(at_starts(blocks("A", "B", "b"), [1], "Book")) == [("B", ["A", "B", "b"])]


def test_a_long_title_is_shortened_with_an_ellipsis() -> None:
    assert shortened("x" * MAX_TITLE_CHARS) == "x" * MAX_TITLE_CHARS
    assert shortened("x" * (MAX_TITLE_CHARS + 1)) == "x" * (MAX_TITLE_CHARS - 1) + "…"


def test_a_long_chapter_is_split_into_numbered_parts() -> None:
    long = Chapter("One", (Block("a" * 50_000), Block("b" * 50_000), Block("c")))
    assert [(part.title, len(part.blocks)) for part in bounded([long, Chapter("Two", ())])] == [
        ("One (1)", 1),
        ("One (2)", 2),
        ("Two", 0),
    ]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two. Three four five six", "One two."),
        ("“One two.” Three four five six", "“One two.”"),
        ("一二三。四五六七八九十一二三四五六", "一二三。"),
        ("one two three four five six", "one two three"),
        ("x" * 40, "x" * 14),
    ],
)
def test_a_paragraph_longer_than_a_chapter_is_cut_at_the_best_place(
    text: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chapters, "MAX_CHAPTER_CHARS", 16)
    assert bounded([Chapter("One", (Block(text),))])[0].blocks[0].text == first


@given(st.lists(st.text(". ab", min_size=1, max_size=3 * MAX_CHAPTER_CHARS // 1000), max_size=9))
def test_splitting_keeps_all_text_and_the_limit(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "MAX_CHAPTER_CHARS", 16)
        parts = bounded([Chapter("One", tuple(Block(text) for text in texts))])
    said = "".join(block.text for part in parts for block in part.blocks)
    assert "".join(said.split()) == "".join("".join(texts).split())
    assert all(part.characters <= 16 for part in parts)
