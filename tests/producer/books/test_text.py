from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.books import block_kinds, outline, read_bytes
from voxspool.books.text import paragraphs
from voxspool.errors import BookError

if TYPE_CHECKING:
    from voxspool.books import Book


def plain(text: str) -> Book:
    return read_bytes(text.encode(), "book.txt")


def test_wrapped_lines_are_joined_and_empty_lines_end_paragraphs() -> None:
    text = "One line\nand its end, well-\nknown.\n\n   Another\n one.\n\n\fThird."
    assert paragraphs(text) == ["One line and its end, well-known.", "Another one.", "Third."]
    assert paragraphs(f"{'long ' * 40}\n{'line ' * 40}\nshort") == [
        ("long " * 40).strip(),
        ("line " * 40).strip(),
        "short",
    ]
    assert paragraphs("  Indented one goes on\nhere and ends.\n  Indented two.") == [
        "Indented one goes on here and ends.",
        "Indented two.",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Chapter 1", "Chapter 2"),
        ("CHAPTER I", "CHAPTER II"),
        ("Chapter One: A Start", "Chapter Two: An End"),
        ("CHAPTER I. The Start", "CHAPTER II. The End"),
        ("Prologue", "Chapter 1"),
        ("I", "II"),
        ("I.", "II."),
        ("THE START", "THE MIDDLE PART"),
        ("Kapitel 1", "Kapitel 2"),
    ],
)
def test_lines_that_are_certainly_headings_start_chapters(first: str, second: str) -> None:
    book = plain(f"{first}\n\nSome text\nof it.\n\n{second}\n\nMore text.\n\nTHE END")
    assert outline(book) == [(first, [first, "Some text of it."]), (second, [second, "More text.", "THE END"])]
    assert block_kinds(book) == [["heading", "paragraph"], ["heading", "paragraph", "paragraph"]]


@pytest.mark.parametrize(
    "text",
    [
        "Chapter 3 was the longest she had read.\n\nShe slept.",
        "STOP!\n\nHe ran.\n\nNO!\n\nShe ran.",
        "I\n\nam alone.",
        "He said\nCHAPTER I\nand left.",
        "V\n\nis a letter.\n\nX\n\nis one too.",
        "Part of the house was dark.\n\nBook lovers came.",
    ],
)
def test_lines_that_may_be_prose_start_no_chapter(text: str) -> None:
    (chapter,) = plain(text).chapters
    assert chapter.title == "book"


def test_text_before_the_first_heading_is_read_with_the_table_of_contents() -> None:
    listed = "My book\n\nChapter 1\n\nChapter 2\n\nChapter 3\n\nFor you.\n\n"
    text = listed + "Chapter 1\n\na\n\nChapter 2\n\nb\n\nChapter 3\n\nc"
    assert [chapter.title for chapter in plain(text).chapters] == ["book", "Chapter 1", "Chapter 2", "Chapter 3"]
    assert plain(text).chapters[0].blocks[1].text == "Chapter 1"
    assert outline(plain("PART ONE\n\nChapter 1\n\na\n\nChapter 2\n\nb"))[0] == (
        "PART ONE",
        ["PART ONE", "Chapter 1", "a"],
    )


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=50), max_size=30))
@settings(max_examples=200)
def test_no_word_of_a_text_is_lost_or_repeated(lines: list[str]) -> None:
    text = "\n".join(lines)
    dropped = str.maketrans("", "", "\u00ad\ufeff")
    expected = "".join(text.translate(dropped).split())
    try:
        read = "".join(block.text for chapter in plain("x" + text).chapters for block in chapter.blocks)
    except BookError:
        raise AssertionError from None
    assert "".join(read.split()) == "x" + expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_each_unicode_encoding_is_recognised(encoding: str) -> None:
    data = ("\ufeff" if encoding == "utf-16-be" else "") + "naïve “text”"
    assert outline(read_bytes(data.encode(encoding), "a.txt"))[0][1] == ["naïve “text”"]


def test_text_that_is_not_utf8_is_read_as_windows_1252_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert outline(read_bytes("naïve “text”".encode("cp1252"), "a.txt"))[0][1] == ["naïve “text”"]
    assert "Windows-1252" in caplog.text
