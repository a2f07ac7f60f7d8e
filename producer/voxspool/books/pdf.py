"""PDF -> a Book: pages of lines, without headers, footers and page numbers, become paragraphs and chapters.

A PDF has no paragraphs: how lines end shows where they end. Its outline names the chapters; without one, headings do.
"""

from __future__ import annotations

import re
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pypdf import PdfReader

from voxspool.books.book import Block, Book, Chapter
from voxspool.books.chapters import at_starts, bounded, shortened
from voxspool.books.html_text import settle
from voxspool.books.languages import tag
from voxspool.books.text import plain_chapters
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EDGE_LINES: Final = 2
"""How many lines from the top and the bottom of a page may be a header or a footer."""
_MOST_PAGES: Final = 0.5
_LEAST_PAGES: Final = 3
"""A line at the edge of more than half of the pages, and of so many at least, is none of the text."""
_NUMBER: Final = re.compile(
    r"(?:page\s+)?[-\u2013\u2014\[(]?\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[-\u2013\u2014\])]?(?:\s*(?:of|/)\s*\d{1,4})?",
    re.IGNORECASE,
)
_HYPHENATED: Final = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]\n(?=[a-zà-ÿ])")
_ENDS: Final = (".", "!", "?", "…", ":", '"', "”", "\u2019", "»", ")")
_SHORT_OF_WIDTH: Final = 0.85


def read_pdf(data: bytes, name: str) -> Book:
    """Read a PDF. Raises BookError, without the file's name: damaged, locked, or of pictures alone."""
    try:
        reader = PdfReader(BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")
        count = len(reader.pages)
    except Exception as error:
        raise BookError(f"it is a damaged PDF ({error}); print it to a new one") from error
    if locked:
        raise BookError("it is locked with a password; narrate a copy without it")
    pages, unread = _pages(reader, count)
    paragraphs = _paragraphs(_without_edges(pages))
    if not paragraphs:
        raise BookError("there is no text in it: its pages may be pictures; run text recognition (OCR) over it first")
    title, authors = _about(reader)
    chapters = _outlined(_outline(reader), paragraphs, title or name)
    if not chapters:
        chapters = plain_chapters([text for _, text in paragraphs], title or name)
    return Book(title or name, bounded(chapters), authors, _language(reader), unread=unread)


def _pages(reader: PdfReader, count: int) -> tuple[list[list[str]], tuple[str, ...]]:
    """Return the lines of each page, and name the pages that cannot be read."""
    pages: list[list[str]] = []
    unread = []
    for index in range(count):
        try:
            text = reader.pages[index].extract_text()
        except Exception as error:  # noqa: BLE001 - pypdf raises whatever damage leads it to
            text = ""
            unread.append(f"page {index + 1} is damaged ({error})")
        pages.append([line.rstrip() for line in text.split("\n") if line.strip()])
    return pages, tuple(unread)


def _without_edges(pages: list[list[str]]) -> list[list[str]]:
    """Leave out page numbers, and lines that most pages have at their edge."""
    seen = Counter(line for page in pages for line in {_pattern(page[index]) for index in _edges(page)})
    least = max(_LEAST_PAGES, _MOST_PAGES * sum(1 for page in pages if page))
    repeated = {line for line, times in seen.items() if times >= least}
    return [_trimmed(page, repeated) for page in pages]


def _edges(page: list[str]) -> set[int]:
    here = range(len(page))
    return {*here[:_EDGE_LINES], *here[-_EDGE_LINES:]}


def _trimmed(page: list[str], repeated: set[str]) -> list[str]:
    """Take edges away from outside inwards: a number inside the text stays."""
    lines = list(page)
    for at in (0, -1):
        for _ in range(_EDGE_LINES):
            if lines and (_pattern(lines[at]) in repeated or _NUMBER.fullmatch(lines[at].strip())):
                lines.pop(at)
    return lines


def _pattern(line: str) -> str:
    """Return a line without its numbers: headers count pages."""
    return re.sub(r"\d+", "#", settle(line)).casefold()


def _paragraphs(pages: list[list[str]]) -> list[tuple[int, str]]:
    """Return the paragraphs, each with the page (from 0) that it begins on; one may go over a page."""
    width = max((len(line) for page in pages for line in page), default=0)
    found: list[tuple[int, list[str]]] = []
    for number, page in enumerate(pages):
        for index, line in enumerate(page):
            if not found or _ended(found[-1][1][-1], line, width, new_page=index == 0):
                found.append((number, []))
            found[-1][1].append(line)
    return [(number, text) for number, lines in found if (text := _joined(lines))]


def _ended(before: str, line: str, width: int, *, new_page: bool) -> bool:
    """Whether a paragraph ends between two lines."""
    if line[:2].isspace():
        return True
    if before.endswith(_ENDS):
        return len(before) < _SHORT_OF_WIDTH * width
    return not new_page and len(before) < _SHORT_OF_WIDTH / 2 * width and not line[:1].islower()


def _joined(lines: list[str]) -> str:
    return settle(_HYPHENATED.sub("", "\n".join(line.strip() for line in lines)))


def _outline(reader: PdfReader) -> list[tuple[int, str]]:
    """Return the page (from 0) and the title of each chapter; empty where the file has no outline that can be read."""
    try:
        top = [(reader.get_destination_page_number(one), settle(one.title or "")) for one in _top(reader.outline)]
    except Exception:  # noqa: BLE001 - pypdf raises whatever damage leads it to; headings make the chapters then
        return []
    return [(page, title) for page, title in top if page is not None and page >= 0 and title]


def _top(outline: list[Any]) -> Iterator[Any]:
    """Yield the entries of the outermost level that has several."""
    own = [one for one in outline if not isinstance(one, list)]
    below = [one for one in outline if isinstance(one, list)]
    yield from _top(below[0]) if len(own) == 1 and below else iter(own)


def _outlined(outline: list[tuple[int, str]], paragraphs: list[tuple[int, str]], title: str) -> list[Chapter]:
    """Cut at the outline's entries: where a page says the title, else where the page begins."""
    starts: dict[int, str] = {}
    for page, name in outline:
        here = [index for index, (number, _) in enumerate(paragraphs) if number == page]
        later = next((index for index, (number, _) in enumerate(paragraphs) if number >= page), None)
        said = next((index for index in here if paragraphs[index][1].casefold().startswith(name.casefold())), later)
        if said is not None:
            starts.setdefault(said, name)
    if not starts:
        return []
    exact = {index for index, name in starts.items() if paragraphs[index][1].casefold() == name.casefold()}
    blocks = [Block(text, "heading" if index in exact else "paragraph") for index, (_, text) in enumerate(paragraphs)]
    chapters = at_starts(blocks, sorted(starts), title)
    names = [starts[index] for index in sorted(starts)]
    front = [chapters[0].title] if len(chapters) > len(names) else []
    return [Chapter(shortened(name), chapter.blocks) for name, chapter in zip(front + names, chapters, strict=True)]


def _about(reader: PdfReader) -> tuple[str, tuple[str, ...]]:
    """Return the title and the authors, as far as the file says them."""
    try:
        info = reader.metadata
        title, author = settle((info and info.title) or ""), settle((info and info.author) or "")
    except Exception:  # noqa: BLE001 - pypdf raises whatever damage leads it to
        return "", ()
    known = title.casefold() not in {"untitled", "(anonymous)", "anonymous"}
    return title if known else "", (author,) if author and author.casefold() not in {"(anonymous)", "anonymous"} else ()


def _language(reader: PdfReader) -> str | None:
    try:
        return tag(str(reader.root_object.get("/Lang") or ""))
    except Exception:  # noqa: BLE001 - pypdf raises whatever damage leads it to
        return None
