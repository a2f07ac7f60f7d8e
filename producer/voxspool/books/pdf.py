"""Read PDF files: drop headers, footers and page numbers, join lines into paragraphs, and find the chapters.

A PDF stores lines, not paragraphs, so the length and the last character of a line decide where a paragraph ends. The
chapters come from the outline; if there is none, from headings in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pypdf import PdfReader

from voxspool.books.book import Block, Book, Chapter
from voxspool.books.chapters import at_starts, bounded, shortened
from voxspool.books.html_text import settle
from voxspool.books.languages import tag
from voxspool.books.text import plain_chapters
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pypdf import PageObject

_MAX_PAGES: Final = 20_000
_MAX_CONTENT_BYTES: Final = 128 * 2**20
"""Limit for the unpacked instructions of all pages, in bytes. pypdf reads 6 MB a second; a page of text has 5 kB."""
_EDGE_LINES: Final = 2
"""The number of lines at the top and at the bottom of a page that may be a header or a footer."""
_MOST_PAGES: Final = 0.5
_LEAST_PAGES: Final = 3
"""A line is a header or a footer if it is at the edge of at least this share and at least this number of pages."""
_NUMBER: Final = re.compile(
    r"(?:page\s+)?[-\u2013\u2014\[(]?\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[-\u2013\u2014\])]?(?:\s*(?:of|/)\s*\d{1,4})?",
    re.IGNORECASE,
)
_HYPHENATED: Final = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]\n(?=[a-zà-ÿ])")
_ENDS: Final = (".", "!", "?", "…", ":", '"', "”", "\u2019", "»", ")")
_MAX_OUTLINE: Final = 5_000
"""Most entries of an outline that are looked at."""
_SHORT_OF_WIDTH: Final = 0.85
"""A line below this share of the longest line's length may end a paragraph."""


def read_pdf(data: bytes, name: str) -> Book:
    """Read a PDF. Raises BookError if it is damaged, locked or has pictures only; the message has no file name."""
    try:
        reader = PdfReader(BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")
        count = len(reader.pages)
    except MemoryError:
        raise
    except Exception as error:
        raise BookError(f"it is a damaged PDF ({error}); print it to a new one") from error
    if locked:
        raise BookError("it is locked with a password; save a copy without the password and narrate that")
    if count > _MAX_PAGES:
        raise BookError(f"it has {count:,} pages; the limit is {_MAX_PAGES:,}; split it into several files")
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
    """Return the lines of each page, and one message for each page that cannot be read."""
    pages: list[list[str]] = []
    unread = []
    room = _MAX_CONTENT_BYTES
    for index in range(count):
        try:
            page = reader.pages[index]
            room -= _content_bytes(page)
            text = page.extract_text() if room >= 0 else _refuse()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - damaged files make pypdf raise any exception
            text = ""
            unread.append(f"page {index + 1} cannot be read ({error})")
        pages.append([line.rstrip() for line in text.split("\n") if line.strip()])
    return pages, tuple(unread)


def _refuse() -> NoReturn:
    """Refuse a page where the others have so many instructions that there is no time for it."""
    raise BookError(f"the pages up to it have more than the limit of {_MAX_CONTENT_BYTES >> 20} MiB of instructions")


def _content_bytes(page: PageObject) -> int:
    """Return the size of a page's instructions, in bytes. Several pages may share the same ones."""
    contents = page.get_contents()
    return 0 if contents is None else len(contents.get_data())


def _without_edges(pages: list[list[str]]) -> list[list[str]]:
    """Return the pages without page numbers, headers and footers."""
    seen = Counter(line for page in pages for line in {_pattern(page[index]) for index in _edges(page)})
    least = max(_LEAST_PAGES, _MOST_PAGES * sum(1 for page in pages if page))
    repeated = {line for line, times in seen.items() if times >= least}
    return [_trimmed(page, repeated) for page in pages]


def _edges(page: list[str]) -> set[int]:
    here = range(len(page))
    return {*here[:_EDGE_LINES], *here[-_EDGE_LINES:]}


def _trimmed(page: list[str], repeated: set[str]) -> list[str]:
    """Remove headers, footers and page numbers from the outer lines inwards; a number inside the text is kept."""
    lines = list(page)
    for at in (0, -1):
        for _ in range(_EDGE_LINES):
            if lines and (_pattern(lines[at]) in repeated or _NUMBER.fullmatch(lines[at].strip())):
                lines.pop(at)
    return lines


def _pattern(line: str) -> str:
    """Return a line with each number replaced by #, so that headers with page numbers are equal."""
    return re.sub(r"\d+", "#", settle(line)).casefold()


def _paragraphs(pages: list[list[str]]) -> list[tuple[int, str]]:
    """Return the page (from 0) on which each paragraph begins, and its text, which may continue on the next page."""
    width = max((len(line) for page in pages for line in page), default=0)
    found: list[tuple[int, list[str]]] = []
    for number, page in enumerate(pages):
        for index, line in enumerate(page):
            if not found or _ended(found[-1][1][-1], line, width, new_page=index == 0):
                found.append((number, []))
            found[-1][1].append(line)
    return [(number, text) for number, lines in found if (text := _joined(lines))]


def _ended(before: str, line: str, width: int, *, new_page: bool) -> bool:
    """Return whether a paragraph ends between the lines `before` and `line`. `width` is the longest line's length."""
    if line[:2].isspace():
        return True
    if before.endswith(_ENDS):
        return len(before) < _SHORT_OF_WIDTH * width
    return not new_page and len(before) < _SHORT_OF_WIDTH / 2 * width and not line[:1].islower()


def _joined(lines: list[str]) -> str:
    return settle(_HYPHENATED.sub("", "\n".join(line.strip() for line in lines)))


def _outline(reader: PdfReader) -> list[tuple[int, str]]:
    """Return the page (from 0) and the title of each outline entry; empty if there is no readable outline."""
    try:
        top = [(reader.get_destination_page_number(one), settle(one.title or "")) for one in _top(reader.outline)]
    except Exception:  # noqa: BLE001 - damaged files make pypdf raise any exception; the headings give the chapters then
        return []
    return [(page, title) for page, title in top if page is not None and page >= 0 and title]


def _top(outline: list[Any]) -> Iterator[Any]:
    """Yield the entries of the highest outline level that has more than one entry."""
    own = [one for one in outline if not isinstance(one, list)]
    below = [one for one in outline if isinstance(one, list)]
    yield from _top(below[0]) if len(own) == 1 and below else iter(own)


def _outlined(outline: list[tuple[int, str]], paragraphs: list[tuple[int, str]], title: str) -> list[Chapter]:
    """Cut the text at the outline's entries: at the paragraph that begins with the title, else at the page's start."""
    starts: dict[int, str] = {}
    numbers = [number for number, _ in paragraphs]
    for page, name in outline[:_MAX_OUTLINE]:
        here = range(bisect_left(numbers, page), bisect_right(numbers, page))
        folded = name.casefold()
        later = here.start if here.start < len(paragraphs) else None
        said = next((index for index in here if _begins(paragraphs[index][1], folded)), later)
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


def _begins(text: str, folded: str) -> bool:
    """Return whether a text begins with a folded title, without regard to case."""
    return text[: len(folded)].casefold().startswith(folded)


def _about(reader: PdfReader) -> tuple[str, tuple[str, ...]]:
    """Return the title and the authors from the file's metadata; empty if it does not state them."""
    try:
        info = reader.metadata
        title, author = settle((info and info.title) or ""), settle((info and info.author) or "")
    except Exception:  # noqa: BLE001 - damaged files make pypdf raise any exception
        return "", ()
    known = title.casefold() not in {"untitled", "(anonymous)", "anonymous"}
    return title if known else "", (author,) if author and author.casefold() not in {"(anonymous)", "anonymous"} else ()


def _language(reader: PdfReader) -> str | None:
    try:
        return tag(str(reader.root_object.get("/Lang") or ""))
    except Exception:  # noqa: BLE001 - damaged files make pypdf raise any exception
        return None
