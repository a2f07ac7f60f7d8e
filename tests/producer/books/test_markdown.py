from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.books import block_kinds, outline, read_bytes

if TYPE_CHECKING:
    from voxspool.books import Book


def markdown(text: str) -> Book:
    return read_bytes(text.encode(), "book.md")


def test_each_first_level_heading_of_markdown_starts_a_chapter() -> None:
    book = markdown("# One\n\na *b* `c`\nd\n\n## Sub\n\n- e\n- f\n\n# Two\n\n| g | h |\n|---|---|\n| i | j |\n")
    assert outline(book) == [("One", ["One", "a b c d", "Sub", "e", "f"]), ("Two", ["Two", "g, h", "i, j"])]
    assert block_kinds(book)[0] == ["heading", "paragraph", "heading", "paragraph", "paragraph"]
    assert book.title == "One"


def test_chapters_start_at_second_level_headings_if_there_is_only_one_first_level_heading() -> None:
    book = markdown("# Book\n\n## One\n\na\n\n## Two\n\nb\n")
    assert outline(book) == [("One", ["Book", "One", "a"]), ("Two", ["Two", "b"])]
    book = markdown("# Book\n\nBefore.\n\n## One\n\na\n\n## Two\n\nb\n")
    assert [chapter.title for chapter in book.chapters] == ["Book", "One", "Two"]


def test_front_matter_of_markdown_becomes_metadata_and_is_not_spoken() -> None:
    book = markdown('---\ntitle: "A title"\nlang: pt-BR\ndate: 2024-01-02\ntags: [x]\n---\nText: here\n')
    assert (book.title, book.language, book.date) == ("A title", "pt-br", "2024-01-02")
    assert outline(book) == [("A title", ["Text: here"])]


def test_footnotes_of_markdown_are_left_out_and_other_brackets_are_kept() -> None:
    book = markdown("Said[^1] so[^x] [1].\n\n[^1]: No\n  no.\n\n    no\n\nAfter.\n")
    assert outline(book) == [("book", ["Said so[^x] [1].", "After."])]


def test_html_inside_markdown_is_read_as_html() -> None:
    assert outline(markdown("a<!-- no -->b <b>c</b> ![no](x.png)\n\n<div>d</div>\n"))[0][1] == ["ab c", "d"]
