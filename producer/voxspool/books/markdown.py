"""Read Markdown (CommonMark with tables): render it to HTML, then read the HTML."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from markdown_it import MarkdownIt

from voxspool.books.html import book_of
from voxspool.books.html_text import visible
from voxspool.books.xml import named, parse_html
from voxspool.errors import BookError

if TYPE_CHECKING:
    from voxspool.books.book import Book

_FRONT: Final = re.compile(r"\A---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD: Final = re.compile(r"^(\w+)[ \t]*:[ \t]*(.*)$", re.MULTILINE)
_NOTE: Final = re.compile(
    r"^ {0,3}\[\^([^\[\]\s]+)\]:.*\n?(?:(?:[ \t]*\n)*(?:[ ]{2,}|\t).*\n?|(?!\s*\[\^|\s*\n|#).+\n?)*", re.MULTILINE
)
"""The definition of a footnote with its wrapped lines and the indented paragraphs below it."""
_MAX_LINES: Final = 300_000
"""Limit for a text, in lines: markdown-it needs some 20 microseconds and 1 kB for each. A long novel has 20,000."""
_NAMES: Final = {"lang": "language", "summary": "description", "authors": "author"}


def read_markdown(text: str, name: str) -> Book:
    """Read Markdown. Raises BookError; the message does not contain the file's name."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.count("\n")
    if lines > _MAX_LINES:
        raise BookError(f"it has {lines:,} lines; the limit is {_MAX_LINES:,}; split it into several files")
    about, body = _front(text)
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    root = parse_html(f"<html><body>{renderer.render(_without_notes(body))}</body></html>".encode())
    first = next((visible(one) for one in named(root, "h1")), "")
    return book_of(root, about.pop("title", "") or first or name, **about)


def _front(text: str) -> tuple[dict[str, str], str]:
    """Return the simple fields of the front matter, and the text without the front matter."""
    found = _FRONT.match(text)
    if not found:
        return {}, text
    fields = {_NAMES.get(key.lower(), key.lower()): value for key, value in _FIELD.findall(found[1] or "")}
    wanted = ("title", "author", "language", "date", "description", "publisher")
    about = {key: _unquoted(fields[key]) for key in wanted if fields.get(key)}
    return about, text[found.end() :]


def _unquoted(value: str) -> str:
    """Return a YAML scalar without quotes, or the content of a list in brackets without the brackets."""
    plain = value.strip().strip("[]").strip()
    return plain[1:-1] if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "\"'" else plain


def _without_notes(text: str) -> str:
    """Return the text without footnotes (`[^1]: …`) and without the references to them (`[^1]`)."""
    defined = {found[1] for found in _NOTE.finditer(text)}
    if not defined:
        return text
    return re.sub(r"\[\^([^\[\]\s]+)\]", lambda one: "" if one[1] in defined else one[0], _NOTE.sub("\n", text))
