from __future__ import annotations

import pytest

from tests.support.books import outline, read_bytes
from tests.support.documents import word_document
from voxspool.books import docx as word_reader
from voxspool.errors import BookError


def test_heading_styles_of_a_word_document_start_chapters() -> None:
    book = read_bytes(word_document(), "x.docx")
    assert book.title == "A report"
    assert outline(book) == [
        ("One", ["One", "First bold", "a, b", "Sub", "Second.", "Seen."]),
        ("Two", ["Two", "Line break and tab."]),
    ]
    assert outline(read_bytes(word_document(), "stdin")) == outline(book)


def test_a_word_document_that_unpacks_to_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_reader, "_MOST_BYTES", 10_000)
    with pytest.raises(BookError, match="larger than"):
        read_bytes(word_document(), "x.docx")
