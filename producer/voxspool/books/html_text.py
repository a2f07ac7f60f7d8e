"""A tree of XHTML -> the text that a reader reads, in order: headings and paragraphs, with the place of each text.

It leaves out what is not prose: page breaks, references to notes, notes, navigation, hidden elements, pictures and
scripts. All other text is in exactly one run. It does not use files, chapters or style sheets.
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
"""The level of a heading that the markup ranks nowhere."""
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
"""Of epub:type and role."""
_TITLES: Final = frozenset({"title", "subtitle", "heading", "doc-subtitle"})
_HIDDEN: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LONGEST_PAGE_CHARS: Final = 20
"""A page break with more in it than its number was put around text by mistake."""
_DROPPED: Final = re.compile("[\u00ad\ufeff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]+")
"""Soft hyphens, marks of byte order and control characters that are no white space."""
_BETWEEN_CELLS: Final = ", "
MARK: Final = re.compile(
    r"[\[(]?\s*(?:note\s+)?([0-9]{1,4}|[⁰¹²³⁴-⁹]{1,4}|[ivxlc]{1,6}|[a-z]|\*{1,4}|[†‡§¶#]{1,3})\s*[\])]?\.?",
    re.IGNORECASE,
)
"""What a reference to a note looks like; one with words is part of its sentence."""


class Slot(NamedTuple):
    """A text of the tree: an element's own, before its first child, or the one behind an element."""

    owner: Element
    tail: bool


class Piece(NamedTuple):
    """A text of the tree as it stands there, or what is put between two lines or cells."""

    text: str
    slot: Slot | None
    language: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A heading or a paragraph in its tree."""

    element: Element
    """The innermost block that all of it stands in."""
    path: tuple[int, ...]
    """The element's place: the index of each child element from the root down."""
    level: int
    """1 to 6 as h1 to h6, 7 for other headings, 0 for a paragraph."""
    pieces: tuple[Piece, ...]
    language: str | None

    @property
    def text(self) -> str:
        """Its text as a reader sees it."""
        return settle("".join(piece.text for piece in self.pieces))

    def origins(self) -> list[tuple[Slot, int] | None]:
        """Return for each character of the text where it stands in the tree; None for what was put there.

        White space that became one space stands where its first character does.
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
        """Return it as a block of a book in that language; `document` is its path in the archive."""
        own = None if same_language(self.language, language) else self.language
        kind: Literal["heading", "paragraph"] = "heading" if self.level else "paragraph"
        return Block(self.text, kind, own, None if document is None else Place(document, self.path))


class Prose(NamedTuple):
    """What a document says."""

    runs: tuple[Run, ...]
    anchors: dict[str, int]
    """For each id: the first run that stands at or behind it."""


@dataclass(slots=True)
class _Frame:
    """An element that the walk is in."""

    element: Element
    path: tuple[int, ...]
    level: int
    language: str | None
    block: bool
    row: bool
    children: int = 0


def settle(text: str) -> str:
    """Return text as a reader sees it: runs of white space are one space, soft hyphens are not there."""
    return " ".join(_DROPPED.sub("", text).split())


def prose(root: Element, omitted: Collection[Element] = ()) -> Prose:
    """Read a document, without the elements that are to be left out."""
    walk = _Walk(omitted)
    walk.over(root)
    return Prose(tuple(walk.runs), walk.anchors)


def kinds(element: Element) -> set[str]:
    """Return the words of an element's epub:type and role."""
    return set(f"{element.get(TYPE, '')} {element.get('role', '')}".casefold().split())


def is_left_out(element: Element) -> bool:
    """Whether an element says itself that it is a note or navigation."""
    return local(element) == "nav" or bool(kinds(element) & _LEFT_OUT)


def is_block(element: Element) -> bool:
    """Whether the element stands on lines of its own."""
    return local(element) in _BLOCKS


def visible(element: Element) -> str:
    """Return an element's whole text, settled."""
    return settle(whole_text(element))


class _Walk:
    """Goes through a tree once, without recursion: documents may be as deep as the parser lets them."""

    def __init__(self, omitted: Collection[Element]) -> None:
        self.runs: list[Run] = []
        self.anchors: dict[str, int] = {}
        self._omitted = omitted
        self._frames: list[_Frame] = []
        self._pieces: list[Piece] = []
        self._said = False  # whether the open run has anything but white space
        self._ids: list[str] = []  # anchors of the open run
        self._later_ids: list[str] = []  # those behind its text: they mean what comes next

    def over(self, root: Element) -> None:
        """Walk."""
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
        """Open an element; False where nothing in it is read."""
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
            self._pieces.append(Piece(" ", None, frame.language))
        return read

    def _leave(self) -> None:
        """Close an element."""
        frame = self._frames[-1]
        if frame.block:
            self._close()
        self._frames.pop()

    def _say(self, text: str | None, slot: Slot) -> None:
        if text and self._frames:
            self._pieces.append(Piece(text, slot, self._frames[-1].language))
            self._said = self._said or not text.isspace()

    def _separate(self, language: str | None) -> None:
        """Begin another cell of a row: a comma stands before it where the last has no end of its own."""
        while self._pieces[-1].text.isspace():
            self._pieces.pop()
        last = self._pieces[-1]
        self._pieces[-1] = last._replace(text=last.text.rstrip())
        between = _BETWEEN_CELLS if last.text.rstrip()[-1:].isalnum() else " "
        self._pieces.append(Piece(between, None, language))

    def _close(self) -> None:
        """End the open run. One without text never was."""
        pieces, self._pieces, self._said = tuple(self._pieces), [], False
        frame = next((one for one in reversed(self._frames) if one.block), None)
        if frame is None or not settle("".join(piece.text for piece in pieces)):
            return
        self._bind(self._ids)
        self.runs.append(Run(frame.element, frame.path, frame.level, pieces, _language(pieces, frame.language)))
        self._ids, self._later_ids = self._later_ids, []

    def _note_ids(self, node: Element, *, below: bool) -> None:
        """Remember which ids stand here, those below an element that is not read too."""
        behind = self._said and self._frames and not self._frames[-1].level
        ids = self._later_ids if behind else self._ids
        for one in node.iter(etree.Element) if below else (node,):
            ids += [name for name in (one.get("id"), one.get("name")) if name]

    def _bind(self, ids: list[str]) -> None:
        """Let ids mean the next run."""
        for one in ids:
            self.anchors.setdefault(one, len(self.runs))


def _frame(node: Element, parent: _Frame | None) -> _Frame:
    """Return what is known of an element when the walk enters it."""
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
    """Rank a heading; 0 for what is none."""
    if name in _HEADINGS:
        return _HEADINGS[name]
    if name in {"p", "div"} and kinds(node) & _TITLES:
        stated = node.get("aria-level", "")
        return int(stated) if stated in {"1", "2", "3", "4", "5", "6"} else _MINOR
    return 0


def _is_row(node: Element) -> bool:
    """Whether a row of a table is one paragraph: no cell in it has several. Tables that lay out pages have such."""
    return all(sum(1 for one in cell.iter(etree.Element) if one is not cell and is_block(one)) <= 1 for cell in node)


def _silent(node: Element) -> bool:
    """Whether nothing of an element is read."""
    if local(node) in _SILENT or _hidden(node):
        return True
    if is_left_out(node):
        return True
    said = kinds(node)
    if said & {"pagebreak", "doc-pagebreak"}:
        return len(visible(node)) <= _LONGEST_PAGE_CHARS
    return bool(said & {"noteref", "doc-noteref"}) and bool(MARK.fullmatch(visible(node)))


def _hidden(node: Element) -> bool:
    return node.get("hidden", "until-found") != "until-found" or bool(_HIDDEN.search(node.get("style", "")))


def _language(pieces: tuple[Piece, ...], around: str | None) -> str | None:
    """Return the language of a run: that which all of its text shares, else that of the block around it."""
    said = {piece.language for piece in pieces if settle(piece.text)}
    return said.pop() if len(said) == 1 else around
