"""Read DOCX files: take the paragraphs in order and start chapters at heading styles.

Footnotes, comments and the table of contents are left out. This module reads the document's XML itself, because
python-docx leaves out text inserted under change tracking and text in content controls.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final

import docx
from lxml import etree

from voxspool.books.archive import Archive
from voxspool.books.book import Block, Book
from voxspool.books.chapters import bounded, by_headings
from voxspool.books.html_text import settle
from voxspool.books.languages import tag
from voxspool.books.xml import count_elements
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docx.document import Document
    from lxml.etree import _Element as Element

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SPACES: Final = frozenset({f"{_W}tab", f"{_W}br", f"{_W}cr"})
_WRITTEN: Final = _SPACES | {f"{_W}t", f"{_W}noBreakHyphen"}
_MOST_BYTES: Final = 256 * 2**20
"""Limit for an unpacked document with its pictures, in bytes: python-docx loads everything into memory."""
_MAX_ELEMENTS: Final = 2_000_000
"""Limit for the elements of a document. Word makes some 500,000 of a long novel."""
_BEFORE_XML: Final = b" \t\r\n\xef\xbb\xbf\xff\xfe\0"
"""White space and byte order marks."""
_TITLE_LEVEL: Final = 1
_MINOR_LEVEL: Final = 7
_MAX_BASES: Final = 100
"""Most styles that are looked at, each based on the next. Word allows 10."""
_BETWEEN_CELLS: Final = ", "


def read_docx(data: bytes, name: str) -> Book:
    """Read a Word document. Raises BookError; the message does not contain the file's name."""
    with Archive(data) as archive:
        archive.check(_MOST_BYTES)
        _check_elements(archive)
    try:
        document = docx.Document(BytesIO(data))
        read = _DocxReader(document)
        found = list(read.blocks())
        core = document.core_properties
        title, author, language = settle(core.title or ""), settle(core.author or ""), tag(core.language)
    except MemoryError:
        raise
    except Exception as error:
        raise BookError(f"it is a damaged document ({error}); save it again as DOCX") from error
    if not found:
        raise BookError("there is no text in it")
    chapters = by_headings([block for block, _ in found], [level for _, level in found], title or name)
    return Book(title or name, bounded(chapters), (author,) if author and author != "python-docx" else (), language)


def _check_elements(archive: Archive) -> None:
    """Check that the document has no more elements than a book may have: python-docx parses all. Raises BookError."""
    count = 0
    for info in archive.infos:
        chunks = archive.chunks(info.filename, _MOST_BYTES)
        first = next(chunks, b"")
        if first.lstrip(_BEFORE_XML).startswith(b"<"):  # any part may be XML, whatever its name is
            count += count_elements(first) + sum(map(count_elements, chunks))
    if count > _MAX_ELEMENTS:
        raise BookError(f"it has {count:,} elements; the limit is {_MAX_ELEMENTS:,}; split it into several files")


class _DocxReader:
    """Yields the text of one document's body, with heading levels."""

    def __init__(self, document: Document) -> None:
        self._body = document.element.body
        self._names = {style.style_id: (style.name or "").casefold() for style in document.styles}
        self._bases = {style.style_id: _base(style.element) for style in document.styles}
        self._levels: dict[str | None, int | None] = {}

    def blocks(self) -> Iterator[tuple[Block, int]]:
        """Yield each paragraph and each table row as one block, with its heading level (0 for a paragraph)."""
        for one in self._body.iter(f"{_W}p", f"{_W}tr"):
            if _inside(one, f"{_W}tr", _FALLBACK):
                continue
            level = 0 if one.tag == f"{_W}tr" else self._level(one)
            text = _row(one) if one.tag == f"{_W}tr" else _text(one)
            if text and level is not None:
                yield Block(text, "heading" if level else "paragraph"), level

    def _level(self, paragraph: Element) -> int | None:
        """Return the heading level of a paragraph from its style or the styles that this style is based on.

        Return 0 for ordinary text and None for a line of the table of contents.
        """
        style = paragraph.find(f"{_W}pPr/{_W}pStyle")
        ident = None if style is None else style.get(f"{_W}val")
        if ident not in self._levels:
            self._levels[ident] = self._level_of(ident)
        return self._levels[ident]

    def _level_of(self, ident: str | None) -> int | None:
        """Return the heading level of a style. Styles that are based on each other in a circle have none."""
        for _ in range(min(len(self._names), _MAX_BASES)):
            name = self._names.get(ident or "", "")
            if name.startswith("toc "):
                return None
            if name.startswith("heading ") and name[8:].isdigit():
                return min(int(name[8:]), _MINOR_LEVEL)
            if name in {"title", "subtitle"}:
                return _TITLE_LEVEL if name == "title" else _MINOR_LEVEL
            ident = self._bases.get(ident or "")
        return 0


def _base(style: Element) -> str | None:
    based = style.find(f"{_W}basedOn")
    return None if based is None else based.get(f"{_W}val")


def _inside(element: Element, *tags: str) -> bool:
    return next(element.iterancestors(*tags), None) is not None


def _text(paragraph: Element) -> str:
    """Return a paragraph's text without its text boxes, whose paragraphs are read separately."""
    parts = []
    hidden: dict[Element | None, bool] = {}
    walk = etree.iterwalk(paragraph, events=("start",))
    for _, one in walk:
        if one is not paragraph and one.tag in {f"{_W}p", _FALLBACK}:
            walk.skip_subtree()
        elif one.tag in _WRITTEN:
            run = one.getparent()
            if run not in hidden:
                hidden[run] = _is_hidden(run)
            if not hidden[run] and (one.tag not in _SPACES or _is_run(run)):
                parts.append(one.text or "" if one.tag == f"{_W}t" else "-" if one.tag == f"{_W}noBreakHyphen" else " ")
    return settle("".join(parts))


def _is_hidden(run: Element | None) -> bool:
    """Return whether a run has Word's "hidden" attribute."""
    hidden = None if run is None else run.find(f"{_W}rPr/{_W}vanish")
    return hidden is not None and hidden.get(f"{_W}val", "true") not in {"0", "false", "off"}


def _is_run(element: Element | None) -> bool:
    """Return whether an element is a text run. Tab elements also occur in paragraph properties."""
    return element is not None and element.tag == f"{_W}r"


def _row(row: Element) -> str:
    """Return the cells of a table row as one line, including nested tables."""
    cells = [
        " ".join(filter(None, (_text(one) for one in cell.iter(f"{_W}p") if not _inside(one, _FALLBACK))))
        for cell in row.findall(f".//{_W}tc")
        if next(cell.iterancestors(f"{_W}tr", f"{_W}tc")) is row
    ]
    said = [cell for cell in cells if cell]
    return "".join(cell + ("" if cell is said[-1] else _BETWEEN_CELLS if cell[-1].isalnum() else " ") for cell in said)
