from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.books import outline
from voxspool.books import read_book

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_is_read_in_natural_order_and_unreadable_files_are_listed(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"{number} part.txt").write_text(f"Text {number}.")
    (tmp_path / "3 es.html").write_text("<html lang=es><h1>Tres</h1><p>Hola.</p></html>")
    (tmp_path / "0.md").write_text("---\nlang: en\n---\n# Zero\n\nText 0.\n")
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\0")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "broken.epub").write_bytes(b"no")
    (tmp_path / "below").mkdir()
    book = read_book(tmp_path)
    assert outline(book) == [
        ("Zero", ["Zero", "Text 0."]),
        ("1 part", ["Text 1."]),
        ("2 part", ["Text 2."]),
        ("Tres", ["Tres", "Hola."]),
        ("10 part", ["Text 10."]),
    ]
    assert book.language == "en"
    assert [block.language for block in book.chapters[3].blocks] == ["es", "es"]
    assert book.title == tmp_path.name
    assert len(book.unread) == 2
    assert "below" in book.unread[0]
    assert "broken.epub" in book.unread[1]
