"""Read HTML pages with all of their text. Do not guess which part is the article: that would lose sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxspool.books.book import Book
from voxspool.books.chapters import bounded, by_headings
from voxspool.books.html_text import prose, settle, visible
from voxspool.books.languages import tag
from voxspool.books.notes import notes
from voxspool.books.xml import LANGUAGE, decode, named, parse_document, parse_html
from voxspool.errors import BookError

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_XHTML_STARTS = (b"<?xml", b"\xef\xbb\xbf<?xml")


def read_html(data: bytes, name: str) -> Book:
    """Read a page. Raises BookError; the message does not contain the file's name."""
    if "\0" in decode(data):
        raise BookError("it is not text; convert it to EPUB")
    root = parse_document(data).root if data.startswith(_XHTML_STARTS) else parse_html(data)
    return book_of(root, next((visible(one) for one in named(root, "title")), "") or name)


def book_of(root: Element, title: str, **about: str) -> Book:
    """Return the book in a parsed page. The metadata in `about` takes precedence over the page's head."""
    language = tag(about.get("language")) or tag(root.get(LANGUAGE) or root.get("lang")) or tag(_said(root, "language"))
    runs = prose(root, notes({"": root})).runs
    if not runs:
        raise BookError("there is no text in it")
    blocks = [run.block(None, language) for run in runs]
    author = about.get("author") or _said(root, "author")
    return Book(
        title=title,
        chapters=bounded(by_headings(blocks, [run.level for run in runs], title)),
        authors=(author,) if author else (),
        language=language,
        publisher=about.get("publisher", ""),
        date=about.get("date", ""),
        description=about.get("description") or _said(root, "description"),
    )


def _said(root: Element, name: str) -> str:
    """Return the content of the page's `<meta>` element with this name, or an empty string."""
    found = (one.get("content", "") for one in named(root, "meta") if one.get("name", "").casefold() == name)
    return settle(next(found, ""))
