"""Extract the readable text of an XHTML tree: headings and paragraphs in order, with the position of each text.

Page breaks, footnotes and their references, navigation, hidden elements, pictures and scripts are left out. All other
text is in exactly one run. This module does not use files, chapters or style sheets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from lxml import etree

from voxspool.books.book import Block, Place
from voxspool.books.languages import same_language, tag
from voxspool.books.xml import LANGUAGE, TYPE, local, whole_text

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Literal

    from lxml.etree import _Element as Element

_HEADINGS: Final = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_MINOR: Final = 7
"""The level of a heading whose level the markup does not state."""
_BLOCKS: Final = frozenset(
    str.split(
        "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption"
        " figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre search section"
        " summary table tbody td tfoot th thead tr ul"
    )
)
_SILENT: Final = frozenset(
    str.split(
        "annotation annotation-xml audio canvas datalist embed head iframe img input map nav noscript object rp rt rtc"
        " script select style svg template textarea video"
    )
)
_LEFT_OUT: Final = frozenset(
    str.split(
        "footnote footnotes endnote endnotes rearnote rearnotes backlink landmarks page-list doc-footnote doc-endnote"
        " doc-endnotes doc-backlink doc-pagelist doc-toc"
    )
)
"""Values of `epub:type` and `role` whose elements are left out."""
_TITLES: Final = frozenset({"title", "subtitle", "heading", "doc-subtitle"})
_HIDDEN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LONGEST_PAGE_CHARS: Final = 20
"""The longest page number, in characters. A page break element with more text was put around prose by mistake."""
_DROPPED: Final = re.compile("[\u00ad\ufeff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")
"""Soft hyphens, byte order marks, and control characters other than white space."""
_BETWEEN_CELLS: Final = ", "
_LONGEST_MARK_CHARS: Final = 40
"""More than the longest text that MARK matches, in characters."""
_MOST_SPACES: Final = 20_000
"""Most characters of white space in a short text, where the markup is indented."""
MARK: Final = re.compile(
    r"[\[(]?\s*(?:note\s+)?([0-9]{1,4}|[⁰¹²³⁴-⁹]{1,4}|[ivxlc]{1,6}|[a-z]|\*{1,4}|[†‡§¶#]{1,3})\s*[\])]?\.?",
    re.IGNORECASE,
)
"""The text of a footnote reference. A link with other words is part of its sentence."""


class Slot(NamedTuple):
    """A text node of the tree: an element's `text` (before its first child) or its `tail` (after its end tag)."""

    owner: Element
    tail: bool


class HtmlPiece(NamedTuple):
    """The unchanged text of one slot, or a separator inserted between two lines or table cells."""

    text: str
    slot: Slot | None
    """None for an inserted separator."""
    language: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A heading or a paragraph, with its position in the tree."""

    element: Element
    """The innermost block element that contains the whole run."""
    path: tuple[int, ...]
    """The element's position: the index of each child element from the root down."""
    level: int
    """1 to 6 for h1 to h6, 7 for other headings, 0 for a paragraph."""
    text: str
    """The text as a reader sees it: see `settle`."""
    pieces: tuple[HtmlPiece, ...]
    language: str | None

    def origins(self) -> list[tuple[Slot, int] | None]:
        """Return the position in the tree of each character of the text: (slot, index). None for inserted separators.

        A space that replaces several characters of white space has the position of the first of them.
        """
        found: list[tuple[Slot, int] | None] = []
        space: list[tuple[Slot, int] | None] = []
        for piece in self.pieces:
            for index, one in enumerate(piece.text):
                origin = None if piece.slot is None else (piece.slot, index)
                if one.isspace():
                    space.append(origin)
                elif not _DROPPED.match(one):
                    found += space[:1] if found else []
                    found.append(origin)
                    space.clear()
        return found

    def block(self, document: str | None, language: str | None) -> Block:
        """Return the run as a block of a book in this language.

        `document` is the path in an EPUB's archive; None: the book is not an EPUB, and the block has no position.
        """
        own = None if same_language(self.language, language) else self.language
        kind: Literal["heading", "paragraph"] = "heading" if self.level else "paragraph"
        return Block(self.text, kind, own, None if document is None else Place(document, self.path))


class Prose(NamedTuple):
    """The readable text of a document."""

    runs: tuple[Run, ...]
    anchors: dict[str, int]
    """For each id: the index of the first run at or after it."""


@dataclass(slots=True)
class _Frame:
    """An element that the walk has entered and not left yet."""

    element: Element
    path: tuple[int, ...]
    level: int
    language: str | None
    block: bool
    row: bool
    children: int = 0


def settle(text: str) -> str:
    """Return text as a reader sees it: each run of white space becomes one space, soft hyphens are removed."""
    return " ".join(_DROPPED.sub("", text).split())


def prose(root: Element, omitted: Collection[Element] = ()) -> Prose:
    """Return the readable text of a document without the `omitted` elements."""
    walk = _Walk(omitted)
    walk.over(root)
    return Prose(tuple(walk.runs), walk.anchors)


def kinds(element: Element) -> set[str]:
    """Return the words of an element's `epub:type` and `role` attributes, in lower case."""
    return set(f"{element.get(TYPE, '')} {element.get('role', '')}".casefold().split())


def is_left_out(element: Element) -> bool:
    """Return whether an element is marked as a footnote or as navigation."""
    return local(element) == "nav" or bool(kinds(element) & _LEFT_OUT)


def is_block(element: Element) -> bool:
    """Return whether an element is a block: a browser shows it on its own lines."""
    return local(element) in _BLOCKS


def visible(element: Element) -> str:
    """Return all text in an element, with white space as in `settle`."""
    return settle(whole_text(element))


def short_text(element: Element, most_chars: int) -> str | None:
    """Return all text in an element as `visible` does, or None if it is longer than `most_chars`.

    It reads little more than so many characters, so it may be called for each of many elements inside each other.
    """
    text, whole = _start(element, most_chars + 1)
    return text if whole and len(text) <= most_chars else None


def first_text(element: Element, most_chars: int) -> str:
    """Return the text of an element as `visible` does, or its first `most_chars` characters or more."""
    return _start(element, most_chars)[0]


def _start(element: Element, most_chars: int) -> tuple[str, bool]:
    """Return at least `most_chars` of an element's text as `visible` does, and whether that is all of it.

    It reads _MOST_SPACES of white space at most.
    """
    pieces: list[str] = []
    spaces, letters = _MOST_SPACES, most_chars
    for piece in map(str, element.itertext()):
        cut = piece[: spaces + letters + 1]
        read = sum(map(len, settle(cut).split()))
        pieces.append(cut)
        letters -= read
        spaces -= len(cut) - read
        if letters <= 0 or spaces < 0:
            return settle("".join(pieces)), False
    return settle("".join(pieces)), True


def is_mark(element: Element) -> bool:
    """Return whether the text of an element is that of a footnote reference."""
    text = short_text(element, _LONGEST_MARK_CHARS)
    return text is not None and bool(MARK.fullmatch(text))


class _Walk:
    """Collects the runs of one tree. It does not recurse, because documents may be nested very deeply."""

    def __init__(self, omitted: Collection[Element]) -> None:
        self.runs: list[Run] = []
        self.anchors: dict[str, int] = {}
        self._omitted = omitted
        self._frames: list[_Frame] = []
        self._pieces: list[HtmlPiece] = []
        self._said = False  # whether the open run has anything but white space
        self._ids: list[str] = []  # ids before the text of the open run
        self._later_ids: list[str] = []  # ids after its text: they point to the next run

    def over(self, root: Element) -> None:
        """Walk through the tree."""
        walk = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
        for event, node in walk:
            if event == "start" and not self._enter(node):
                walk.skip_subtree()
            elif event == "start":
                self._say(node.text, Slot(node, tail=False))
            else:
                if event == "end":
                    self._leave()
                if node is not root:
                    self._say(node.tail, Slot(node, tail=True))
        self._close()
        self._bind(self._ids + self._later_ids)

    def _enter(self, node: Element) -> bool:
        """Open an element. Return False if its contents are to be skipped."""
        parent = self._frames[-1] if self._frames else None
        frame = _frame(node, parent)
        read = node not in self._omitted and not _silent(node)
        if frame.block:
            self._close()
        self._note_ids(node, below=not read)
        self._frames.append(frame)
        if read and not frame.block and local(node) in {"td", "th"} and self._said:
            self._separate(frame.language)
        if local(node) == "br":
            self._pieces.append(HtmlPiece(" ", None, frame.language))
        return read

    def _leave(self) -> None:
        """Close an element."""
        frame = self._frames[-1]
        if frame.block:
            self._close()
        self._frames.pop()

    def _say(self, text: str | None, slot: Slot) -> None:
        if text and self._frames:
            self._pieces.append(HtmlPiece(text, slot, self._frames[-1].language))
            self._said = self._said or not text.isspace()

    def _separate(self, language: str | None) -> None:
        """Separate two cells of a row: by a comma if the first ends in a letter or a digit, else by a space."""
        while self._pieces[-1].text.isspace():
            self._pieces.pop()
        last = self._pieces[-1]
        self._pieces[-1] = last._replace(text=last.text.rstrip())
        between = _BETWEEN_CELLS if last.text.rstrip()[-1:].isalnum() else " "
        self._pieces.append(HtmlPiece(between, None, language))

    def _close(self) -> None:
        """End the open run; drop it if it has no text."""
        pieces, self._pieces, self._said = tuple(self._pieces), [], False
        frame = next((one for one in reversed(self._frames) if one.block), None)
        text = settle("".join(piece.text for piece in pieces))
        if frame is None or not text:
            return
        self._bind(self._ids)
        self.runs.append(Run(frame.element, frame.path, frame.level, text, pieces, _language(pieces, frame.language)))
        self._ids, self._later_ids = self._later_ids, []

    def _note_ids(self, node: Element, *, below: bool) -> None:
        """Collect the ids at this position; with `below` also those inside the element, whose contents are skipped."""
        behind = self._said and self._frames and not self._frames[-1].level
        ids = self._later_ids if behind else self._ids
        for one in node.iter(etree.Element) if below else (node,):
            ids += [name for name in (one.get("id"), one.get("name")) if name]

    def _bind(self, ids: list[str]) -> None:
        """Make these ids point to the next run."""
        for one in ids:
            self.anchors.setdefault(one, len(self.runs))


def _frame(node: Element, parent: _Frame | None) -> _Frame:
    """Return the frame of an element that the walk enters."""
    said = tag(node.get(LANGUAGE) or node.get("lang"))
    if parent is None:
        return _Frame(node, (), 0, said, block=True, row=False)
    path = (*parent.path, parent.children)
    parent.children += 1
    name = local(node)
    block = name in _BLOCKS and not parent.row
    level = _level(node, name) if block else 0
    return _Frame(
        node,
        path,
        level or parent.level,
        said or parent.language,
        block,
        parent.row or (name == "tr" and _is_row(node)),
    )


def _level(node: Element, name: str) -> int:
    """Return an element's heading level; 0 if it is not a heading."""
    if name in _HEADINGS:
        return _HEADINGS[name]
    if name in {"p", "div"} and kinds(node) & _TITLES:
        stated = node.get("aria-level", "")
        return int(stated) if stated in {"1", "2", "3", "4", "5", "6"} else _MINOR
    return 0


def _is_row(node: Element) -> bool:
    """Return whether a table row is read as one paragraph: no cell has several blocks, as in tables used for layout."""
    return all(sum(1 for one in cell.iter(etree.Element) if one is not cell and is_block(one)) <= 1 for cell in node)


def _silent(node: Element) -> bool:
    """Return whether an element's contents are skipped."""
    if local(node) in _SILENT or _hidden(node):
        return True
    if is_left_out(node):
        return True
    said = kinds(node)
    if said & {"pagebreak", "doc-pagebreak"}:
        return short_text(node, _LONGEST_PAGE_CHARS) is not None
    return bool(said & {"noteref", "doc-noteref"}) and is_mark(node)


def _hidden(node: Element) -> bool:
    return node.get("hidden", "until-found") != "until-found" or bool(_HIDDEN.search(node.get("style", "")))


def _language(pieces: tuple[HtmlPiece, ...], around: str | None) -> str | None:
    """Return the language of a run: the one that all its text shares, else that of the enclosing block."""
    said = {piece.language for piece in pieces if settle(piece.text)}
    return said.pop() if len(said) == 1 else around
