from __future__ import annotations

from voxspool.books.book import Block, Book, Chapter, Place


def test_a_chapter_counts_the_characters_of_its_blocks() -> None:
    assert Chapter("One", (Block("One", "heading"), Block("Zoë."))).characters == 7
    assert Chapter("One", ()).characters == 0


def test_a_book_has_places_if_any_of_its_blocks_has_one() -> None:
    plain = Chapter("One", (Block("a"),))
    placed = Chapter("Two", (Block("b"), Block("c", place=Place("c.xhtml", (1, 0)))))
    assert not Book("x", (plain,)).has_places
    assert Book("x", (plain, placed)).has_places
