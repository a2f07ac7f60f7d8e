from __future__ import annotations

import pytest

from tests.support.books import read_bytes
from tests.support.documents import COLOURS, PAGES, pdf_document
from voxspool.errors import BookError


def test_headers_footers_and_page_numbers_of_a_pdf_are_left_out() -> None:
    text = " ".join(
        block.text for chapter in read_bytes(pdf_document(PAGES), "x.pdf").chapters for block in chapter.blocks
    )
    assert "Running" not in text
    assert "Page" not in text
    for colour in COLOURS:
        assert f"in the middle of a word. Short {colour} end." in text


def test_a_paragraph_of_a_pdf_may_continue_on_the_next_page() -> None:
    blocks = [block.text for block in read_bytes(pdf_document(PAGES), "x.pdf").chapters[0].blocks]
    assert len(blocks) == len(PAGES) + 1
    assert blocks[1].startswith("Another red paragraph began and went on to the very end of its It was a green line")


def test_the_outline_of_a_pdf_gives_its_chapters() -> None:
    pages = [["Front."], ["One", "Text of one."], ["more of one."], ["Two", "Text of two."]]
    book = read_bytes(pdf_document(pages, {1: "One", 3: "Two"}), "x.pdf")
    assert [chapter.title for chapter in book.chapters] == ["x", "One", "Two"]
    assert book.chapters[1].blocks[0].text == "One"
    assert book.chapters[2].blocks[-1].text == "Text of two."


def test_the_error_for_a_pdf_without_text_recommends_ocr() -> None:
    with pytest.raises(BookError, match="OCR"):
        read_bytes(pdf_document([[]]), "x.pdf")
