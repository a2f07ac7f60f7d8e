from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.books import outline, read_bytes

if TYPE_CHECKING:
    from voxspool.books import Book


def html(text: str) -> Book:
    return read_bytes(text.encode(), "book.html")


def test_all_text_of_an_html_page_is_read_and_its_head_becomes_metadata() -> None:
    book = html(
        "<html lang=en-US><head><title>T</title><meta name=description content='D'></head><body><header>a</header>"
        "<nav>no</nav><h1>One</h1><p>b<p>c<footer>d</footer><h1>Two</h1>e</body></html>"
    )
    assert (book.title, book.language, book.description) == ("T", "en-us", "D")
    assert outline(book) == [("T", ["a"]), ("One", ["One", "b", "c", "d"]), ("Two", ["Two", "e"])]


def test_the_declared_encoding_of_an_html_page_is_used() -> None:
    assert outline(read_bytes("<meta charset=latin1><p>é".encode("latin-1"), "a.htm"))[0][1] == ["é"]
