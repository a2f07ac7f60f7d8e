"""Find footnotes, and the links that refer to them, in books whose markup does not mark them as footnotes.

In EPUB 2 a footnote reference is a link, raised or in brackets, to a paragraph that begins with the same mark or links
back. The reference and the note are left out. A link that could be part of a sentence is kept.
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
    """Return the elements to leave out: references to footnotes, and the footnotes. `documents` is by path."""
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


def _references(root: Element) -> Iterator[Element]:
    """Yield the links that refer to footnotes."""
    for link in named(root, "a"):
        text = visible(link)
        if "#" not in link.get("href", "") or not MARK.fullmatch(text):
            continue
        if kinds(link) & {"noteref", "doc-noteref"} or _is_raised(link, text):
            yield link


def _is_raised(link: Element, text: str) -> bool:
    """Return whether a link looks like a footnote reference: it is superscript, or its attributes name a note."""
    around = link.getparent()
    if visible(_block(link)) == text:
        return False  # alone on its line: an index entry, or a link from the note back to the text
    if (around is not None and local(around) == "sup") or any(local(one) == "sup" for one in link):
        return True
    said = " ".join(link.get(name, "") for name in ("class", "id", "href"))
    return bool(_NAMED.search(said)) and not _leads(link)


def _leads(link: Element) -> bool:
    """Return whether a link is the first text in its block: then it links from the note back to the text."""
    block = _block(link)
    before = whole_text(block).partition(whole_text(link))[0]
    return not before.strip()


def _note(link: Element, target: Element) -> list[Element]:
    """Return the elements of the footnote that a reference links to; none if the target may be ordinary text."""
    block = _block(target)
    text = visible(block)
    if local(block) in _NEVER or len(text) > _LONGEST_NOTE_CHARS or link in set(block.iter("{*}a")):
        return []
    if not (_begins_with(text, visible(link)) or _links_back(block, link)):
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
    plain = mark.translate(_RAISED).strip("[]() .")
    return bool(re.match(rf"[\[(]?\s*{re.escape(plain)}(?!\w)", text.translate(_RAISED), re.IGNORECASE))


def _links_back(block: Element, link: Element) -> bool:
    near = [link, *link.iterancestors()][:3] + list(link.iter(etree.Element))
    back = {one.get("id") or one.get("name") for one in near} - {None}
    return any(unquote(one.get("href", "").partition("#")[2]) in back for one in named(block, "a"))


def _block(element: Element) -> Element:
    """Return the innermost block that contains the element; this may be the element itself."""
    around = (one for one in (element, *element.iterancestors()) if is_block(one))
    return next(around, element)
