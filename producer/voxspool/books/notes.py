"""Find the links of a book that lead to notes, and the elements that are these notes, where the markup does not say it.

In EPUB 2 a note is a link, raised or in brackets, to a paragraph that begins with the same mark or links back. Both
are left out. A link that could be prose stays. It uses trees and the links between them.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from lxml import etree

from voxspool.books.html_text import MARK, is_block, kinds, visible
from voxspool.books.xml import local, named, whole_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lxml.etree import _Element as Element

_NAMED: Final = re.compile(r"note|fn\d|ftn|_edn|foot|rearn", re.IGNORECASE)
_LONGEST_NOTE_CHARS: Final = 5_000
_NEVER: Final = frozenset({"html", "body", "section", "article", "main", "h1", "h2", "h3", "h4", "h5", "h6"})
_RAISED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def notes(documents: Mapping[str, Element]) -> set[Element]:
    """Return what is left out of documents, by path: references to notes, and the notes."""
    found: set[Element] = set()
    ids = {path: _ids(root) for path, root in documents.items()}
    for path, root in documents.items():
        for link in _references(root):
            found.add(link)
            document, fragment = resolve(path, link.get("href", ""))
            target = ids.get(document, {}).get(fragment)
            if target is not None:
                found.update(_note(link, target))
    return found


def resolve(base: str, href: str) -> tuple[str, str]:
    """Return the document, as its path in the archive, and the fragment that a link in another document means."""
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


def _references(root: Element) -> Iterator[Element]:
    """Yield the links that are marks of notes."""
    for link in named(root, "a"):
        text = visible(link)
        if "#" not in link.get("href", "") or not MARK.fullmatch(text):
            continue
        if kinds(link) & {"noteref", "doc-noteref"} or _is_raised(link, text):
            yield link


def _is_raised(link: Element, text: str) -> bool:
    """Whether a link with a mark for its text is set as a note's: above the line, or called one."""
    around = link.getparent()
    if visible(_block(link)) == text:
        return False  # alone on its line: an index, or a way back
    if (around is not None and local(around) == "sup") or any(local(one) == "sup" for one in link):
        return True
    said = " ".join(link.get(name, "") for name in ("class", "id", "href"))
    return bool(_NAMED.search(said)) and not _leads(link)


def _leads(link: Element) -> bool:
    """Whether a link is the first thing in its block: there it leads from the note back to the text."""
    block = _block(link)
    before = whole_text(block).partition(whole_text(link))[0]
    return not before.strip()


def _note(link: Element, target: Element) -> list[Element]:
    """Return the note that a reference leads to; nothing where what is there is not surely one."""
    block = _block(target)
    text = visible(block)
    if local(block) in _NEVER or len(text) > _LONGEST_NOTE_CHARS or link in set(block.iter("{*}a")):
        return []
    if not (_begins_with(text, visible(link)) or _links_back(block, link)):
        return []
    rest = block.itersiblings() if local(block) == "dt" else iter(())
    return [block, *_until_next(rest)]


def _until_next(siblings: Iterator[Element]) -> Iterator[Element]:
    """Yield what is said of a term."""
    for one in siblings:
        if local(one) != "dd":
            return
        yield one


def _begins_with(text: str, mark: str) -> bool:
    plain = mark.translate(_RAISED).strip("[]() .")
    return bool(re.match(rf"[\[(]?\s*{re.escape(plain)}(?!\w)", text.translate(_RAISED), re.IGNORECASE))


def _links_back(block: Element, link: Element) -> bool:
    near = [link, *link.iterancestors()][:3] + list(link.iter(etree.Element))
    back = {one.get("id") or one.get("name") for one in near} - {None}
    return any(unquote(one.get("href", "").partition("#")[2]) in back for one in named(block, "a"))


def _block(element: Element) -> Element:
    """Return the block that an element is or stands in."""
    around = (one for one in (element, *element.iterancestors()) if is_block(one))
    return next(around, element)
