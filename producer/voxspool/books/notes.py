"""Find footnotes, and the links that refer to them, in books whose markup does not mark them as footnotes.

In EPUB 2 a footnote reference is a link, raised or in brackets, to a paragraph that begins with the same mark or links
back. The reference and the note are left out. A link that could be part of a sentence is kept.
"""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from lxml import etree

from voxspool.books.html_text import is_block, is_mark, kinds, short_text, visible
from voxspool.books.xml import local, named, whole_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lxml.etree import _Element as Element

_NAMED: Final = re.compile(r"note|fn\d|ftn|_edn|foot|rearn", re.IGNORECASE)
_LONGEST_NOTE_CHARS: Final = 5_000
_START_CHARS: Final = 200
"""More than the longest text of a reference, with its white space, in characters."""
_AROUND_MARK_CHARS: Final = 4
"""Characters of a note before and after its mark: a bracket, a space, the next letter."""
_REMEMBERED: Final = 1_000
"""Blocks whose text is remembered."""
_NEVER: Final = frozenset({"html", "body", "section", "article", "main", "h1", "h2", "h3", "h4", "h5", "h6"})
_RAISED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def notes(documents: Mapping[str, Element]) -> set[Element]:
    """Return the elements to leave out: references to footnotes, and the footnotes. `documents` is by path."""
    found: set[Element] = set()
    blocks = _Blocks()
    ids = {path: _ids(root) for path, root in documents.items()}
    for path, root in documents.items():
        for link in _references(root, blocks):
            found.add(link)
            document, fragment = resolve(path, link.get("href", ""))
            target = ids.get(document, {}).get(fragment)
            if target is not None and blocks.around(target) not in found:
                found.update(_note(link, target, blocks))
    return found


def resolve(base: str, href: str) -> tuple[str, str]:
    """Return the target of a link: the document's path in the archive, and the fragment.

    `base` is the path of the document that contains the link.
    """
    place, _, fragment = href.partition("#")
    if not place:
        return base, unquote(fragment)
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(place))), unquote(fragment)


def _ids(root: Element) -> dict[str, Element]:
    found: dict[str, Element] = {}
    for one in root.iter(etree.Element):
        for name in (one.get("id"), one.get("name")):
            if name:
                found.setdefault(name, one)
    return found


class _Blocks:
    """Finds the block around each element, and remembers what many links ask of the same block."""

    def __init__(self) -> None:
        self._around: dict[Element, Element] = {}
        self._starts: dict[Element, tuple[str, str]] = {}
        self.text = lru_cache(_REMEMBERED)(lambda block: short_text(block, _LONGEST_NOTE_CHARS))
        """Returns the text of a block; None if it is too long for a footnote."""
        self.fragments = lru_cache(_REMEMBERED)(_fragments)
        """Returns the fragments that the links in a block point to."""

    def around(self, element: Element) -> Element:
        """Return the innermost block that contains the element; this may be the element itself.

        If no block contains it, it is the element itself.
        """
        passed: list[Element] = []
        one: Element | None = element
        while one is not None and one not in self._around and not is_block(one):
            passed.append(one)
            one = one.getparent()
        if one is None:
            return element
        block = self._around.get(one, one)
        self._around.update(dict.fromkeys(passed, block))
        return block

    def starts_with(self, block: Element, text: str) -> bool:
        """Return whether the first text in a block is this text, with the white space at its start."""
        if block not in self._starts:
            self._starts[block] = _start(block)
        spaces, start = self._starts[block]
        visible_text = text.lstrip()
        return start.startswith(visible_text) and spaces.endswith(text[: len(text) - len(visible_text)])


def _start(block: Element) -> tuple[str, str]:
    """Return the end of the white space at the start of a block, and the start of the text behind it."""
    spaces = start = ""
    for piece in map(str, block.itertext()):
        if not start:
            behind = piece.lstrip()
            spaces = (spaces + piece[: len(piece) - len(behind)])[-_START_CHARS:]
            piece = behind  # noqa: PLW2901 - the rest of it
        start += piece[:_START_CHARS]
        if len(start) >= _START_CHARS:
            break
    return spaces, start


def _fragments(block: Element) -> frozenset[str]:
    return frozenset(unquote(one.get("href", "").partition("#")[2]) for one in named(block, "a"))


def _references(root: Element, blocks: _Blocks) -> Iterator[Element]:
    """Yield the links that refer to footnotes."""
    for link in named(root, "a"):
        if "#" not in link.get("href", "") or not is_mark(link):
            continue
        if kinds(link) & {"noteref", "doc-noteref"} or _is_raised(link, visible(link), blocks):
            yield link


def _is_raised(link: Element, text: str, blocks: _Blocks) -> bool:
    """Return whether a link looks like a footnote reference: it is superscript, or its attributes name a note."""
    around = link.getparent()
    block = blocks.around(link)
    if short_text(block, len(text)) == text:
        return False  # alone on its line: an index entry, or a link from the note back to the text
    if (around is not None and local(around) == "sup") or any(local(one) == "sup" for one in link):
        return True
    said = " ".join(link.get(name, "") for name in ("class", "id", "href"))
    # A link that is the first text in its block links from the note back to the text.
    return bool(_NAMED.search(said)) and not blocks.starts_with(block, whole_text(link))


def _note(link: Element, target: Element, blocks: _Blocks) -> list[Element]:
    """Return the elements of the footnote that a reference links to; none if the target may be ordinary text."""
    block = blocks.around(target)
    text = blocks.text(block)
    if local(block) in _NEVER or text is None or block is link or any(one is block for one in link.iterancestors()):
        return []
    if not (_begins_with(text, visible(link)) or _links_back(blocks.fragments(block), link)):
        return []
    rest = block.itersiblings() if local(block) == "dt" else iter(())
    return [block, *_until_next(rest)]


def _until_next(siblings: Iterator[Element]) -> Iterator[Element]:
    """Yield the definitions (`dd`) that follow a term (`dt`)."""
    for one in siblings:
        if local(one) != "dd":
            return
        yield one


def _begins_with(text: str, mark: str) -> bool:
    """Return whether a text begins with a mark, which may be in brackets or superscript, as a whole word."""
    plain = mark.translate(_RAISED).strip("[]() .").lower()
    start = text[: len(plain) + _AROUND_MARK_CHARS].translate(_RAISED)
    start = start.removeprefix("[") if start.startswith("[") else start.removeprefix("(")
    start = start.lstrip()
    follows = start[len(plain) : len(plain) + 1]
    return start[: len(plain)].lower() == plain and not (follows.isalnum() or follows == "_")


def _links_back(fragments: frozenset[str], link: Element) -> bool:
    """Return whether one of these fragments is the id of a link, or of an element around or in it."""
    near = [*islice(chain((link,), link.iterancestors()), 3), *link.iter(etree.Element)]
    return not fragments.isdisjoint({one.get("id") or one.get("name") for one in near} - {None})
