"""Read EPUB 2 and 3: take the documents in spine order and cut them into chapters by the table of contents.

Documents that cannot be read are listed in `Book.unread`, and the others are read. The export of media overlays uses
`read_contents` too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NoReturn

from voxspool.books.archive import Archive
from voxspool.books.book import Block, Book, Chapter, Cover
from voxspool.books.chapters import bounded, shortened
from voxspool.books.epub.package import Entry, Package, contents, cover, open_package
from voxspool.books.html_text import Prose, is_block, is_left_out, prose, visible
from voxspool.books.languages import tag
from voxspool.books.notes import notes, resolve
from voxspool.books.xml import count_elements, named, parse_document, whole_text
from voxspool.errors import BookError

if TYPE_CHECKING:
    from pathlib import Path

    from lxml.etree import _Element as Element

    from voxspool.books.html_text import Run

_MAX_ELEMENTS: Final = 2_000_000
"""Limit for the elements of all documents of a book. A book with an element for each of its words has 500,000."""
_LEAST_LINKS: Final = 3
"""A document with only links is a table of contents if it has at least this many."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The parsed documents of an EPUB."""

    trees: dict[str, Element]
    """The trees by path in the archive, in reading order."""
    proses: dict[str, Prose]
    """The readable text by path in the archive, in reading order; without tables of contents."""
    unread: tuple[str, ...]
    """One line for each item that could not be read."""


def read_epub(source: Path | bytes, name: str) -> Book:
    """Read an EPUB. Raises BookError; the message does not contain the file's name."""
    with Archive(source) as archive:
        package = open_package(archive)
        read = read_contents(archive, package)
        entries = contents(archive, package)
        front, faults = _cover(archive, package)
    language = _language(package, read)
    title = next(iter(package.metadata("title")), name)
    chapters = _Cutter(title, language, entries).chapters(read)
    if not chapters:
        why = f": {read.unread[0]}" if read.unread else ""
        raise BookError(f"there is no text in it{why}")
    return Book(
        title=title,
        chapters=bounded(chapters),
        authors=tuple(dict.fromkeys(package.metadata("creator"))),
        language=language,
        cover=front,
        publisher=next(iter(package.metadata("publisher")), ""),
        date=package.date,
        description=_plain(next(iter(package.metadata("description")), "")),
        unread=read.unread + faults,
    )


def read_contents(archive: Archive, package: Package) -> Contents:
    """Read every readable document of the spine, without footnotes and without tables of contents."""
    trees: dict[str, Element] = {}
    room = _MAX_ELEMENTS
    unread = [f"{one}: the spine names it, but the package does not list it" for one in package.dangling]
    for item in package.spine:
        if not item.is_document:
            if not item.media_type.startswith("image/"):
                unread.append(f"{item.path}: it is not XHTML; its media type is {item.media_type or 'not stated'}")
            continue
        try:
            data = archive.read(item.path)
            room -= count_elements(data)
            trees[item.path], unknown = parse_document(data if room >= 0 else _refuse())
        except BookError as error:
            unread.append(f"{item.path}: {error}")
            continue
        unread += [f"{item.path}: the entity &{one}; is not defined and is left out" for one in unknown]
    omitted = notes(trees)
    proses = {path: prose(tree, omitted) for path, tree in trees.items()}
    listed = package.guided_contents | ({package.nav.path} if package.nav else set())
    left_out = {
        path for path, said in proses.items() if _is_apparatus(path, said, trees[path], omitted, listed=path in listed)
    }
    proses = {path: said for path, said in proses.items() if path not in left_out}
    return Contents(trees, proses, tuple(unread))


def _refuse() -> NoReturn:
    """Refuse a document where the others have so many elements that there is no room for it."""
    raise BookError(f"the documents up to it have more than the limit of {_MAX_ELEMENTS:,} elements; split the book")


def _is_apparatus(path: str, said: Prose, tree: Element, omitted: set[Element], *, listed: bool) -> bool:
    """Return whether a document is a table of contents, or has only the heading of footnotes that are left out."""
    paragraphs = [run for run in said.runs if not run.level]
    if not paragraphs:
        return listed or any(is_left_out(one) or (one in omitted and is_block(one)) for one in tree.iter("{*}*"))
    links = [link for link in named(tree, "a") if link not in omitted and _leads_out(path, link)]
    if len(links) < _LEAST_LINKS:
        return False
    said_chars = sum(len(run.text.replace(" ", "")) for run in paragraphs)
    linked_chars = accumulate(len(whole_text(link).replace(" ", "")) for link in links)
    return any(count >= said_chars for count in linked_chars)


def _leads_out(path: str, link: Element) -> bool:
    """Return whether a link points to another document of the book."""
    href = link.get("href", "")
    return bool(href) and "://" not in href and resolve(path, href)[0] != path


class _Cutter:
    """Cuts the documents of a book into chapters."""

    def __init__(self, title: str, language: str | None, entries: list[Entry]) -> None:
        self._title = title
        self._language = language
        self._entries = entries
        self._entries_of: dict[str, list[Entry]] = {}
        for entry in entries:
            self._entries_of.setdefault(entry.document, []).append(entry)
        self._chapters: list[tuple[str, list[Block]]] = []

    def chapters(self, read: Contents) -> list[Chapter]:
        """Return the chapters that have text, in the order of the spine."""
        for path, said in read.proses.items():
            self._add(path, said)
        return [
            Chapter(shortened(title or f"Chapter {number}"), _titled(title, tuple(blocks)))
            for number, (title, blocks) in enumerate(self._chapters, 1)
        ]

    def _add(self, path: str, said: Prose) -> None:
        """Add a document: start a chapter at each entry of the table of contents.

        Text before the first of them continues the chapter before.
        """
        starts = self._starts(path, said)
        first = min(starts, default=len(said.runs))
        if first and not starts and not self._goes_on(said):
            starts[0] = _heading(said.runs) or self._untitled()
            first = 0
        self._continue(path, said.runs[:first])
        bounds = [*sorted(starts), len(said.runs)]
        for start, end in pairwise(bounds):
            self._chapters.append(
                (starts[start] or _heading(said.runs[start:end]), self._blocks(path, said.runs[start:end]))
            )

    def _starts(self, path: str, said: Prose) -> dict[int, str]:
        """Return the index of each run that starts a chapter -> its title. The title in the text takes precedence."""
        starts: dict[int, str] = {}
        for entry in self._entries_of.get(path, ()):
            at = said.anchors.get(entry.fragment, 0) if entry.fragment else 0
            if at < len(said.runs) and (at not in starts or _same(entry.title, said.runs[at].text)):
                starts[at] = entry.title
        return starts

    def _goes_on(self, said: Prose) -> bool:
        """Return whether a document that is not in the table of contents continues the chapter before."""
        return bool(self._entries and self._chapters) and not said.runs[0].level

    def _untitled(self) -> str:
        """Return the title of text without a heading: the book's title if it comes before all listed chapters."""
        return self._title if self._entries and not self._chapters else ""

    def _continue(self, path: str, runs: tuple[Run, ...]) -> None:
        if runs and not self._chapters:
            self._chapters.append((_heading(runs) or self._title, []))
        if runs:
            self._chapters[-1][1].extend(self._blocks(path, runs))

    def _blocks(self, path: str, runs: tuple[Run, ...]) -> list[Block]:
        return [run.block(path, self._language) for run in runs]


def _same(title: str, text: str) -> bool:
    """Return whether two texts are equal without regard to case. `text` may be long, and is then not looked at."""
    folded = title.casefold()
    return len(text) <= len(folded) and folded == text.casefold()


def _heading(runs: tuple[Run, ...]) -> str:
    """Return the text of the first heading; an empty string if there is none."""
    return next((run.text for run in runs if run.level), "")


def _titled(title: str, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Mark the first block as a heading if its text is the chapter's title: EPUB 2 often has a paragraph there."""
    if title and blocks[0].text.casefold() == title.casefold():
        return (replace(blocks[0], kind="heading"), *blocks[1:])
    return blocks


def _language(package: Package, read: Contents) -> str | None:
    """Return the book's language: the one in its metadata, else that of its first text."""
    said = [found for found in map(tag, package.metadata("language")) if found]
    runs = (run.language for one in read.proses.values() for run in one.runs)
    return next(iter(said), None) or next(runs, None)


def _cover(archive: Archive, package: Package) -> tuple[Cover | None, tuple[str, ...]]:
    try:
        return cover(archive, package), ()
    except BookError as error:
        return None, (f"the cover: {error}",)


def _plain(description: str) -> str:
    """Return a description without the escaped HTML markup that some publishers put into it."""
    if not re.search(r"<\w+", description):
        return description
    return visible(parse_document(f"<div>{description}</div>".encode()).root)
