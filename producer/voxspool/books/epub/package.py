"""Read the package of an EPUB: the paths of its documents, their order, the table of contents and the metadata.

This module reads container.xml, the OPF file, and the nav document or the NCX file. It does not read the text.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.books.book import Cover
from voxspool.books.html_text import first_text, settle
from voxspool.books.notes import resolve
from voxspool.books.xml import TYPE, local, named, parse_document, parse_xml
from voxspool.errors import BookError

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

    from voxspool.books.archive import Archive

CONTAINER: Final = "META-INF/container.xml"
OPF: Final = "http://www.idpf.org/2007/opf"
EVENT: Final = f"{{{OPF}}}event"
_ENCRYPTION: Final = "META-INF/encryption.xml"
_XHTML_TYPES: Final = frozenset({"application/xhtml+xml", "text/html", "application/xml", "text/x-oeb1-document"})
_LONGEST_VALUE_CHARS: Final = 100_000
_PICTURES: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


@dataclass(frozen=True, slots=True)
class Item:
    """A file that the package lists."""

    id: str
    href: str
    path: str
    """The file's path in the archive; if the archive has no such file, the path that the package states."""
    media_type: str
    properties: frozenset[str]

    @property
    def is_document(self) -> bool:
        """True if the file has text to read, by its media type or by its suffix."""
        return self.media_type in _XHTML_TYPES or self.path.lower().endswith((".xhtml", ".html", ".htm"))


class Entry(NamedTuple):
    """An entry of the table of contents."""

    title: str
    document: str
    fragment: str


@dataclass(frozen=True, slots=True)
class Package:
    """The parsed package of an EPUB."""

    path: str
    root: Element
    items: tuple[Item, ...]
    spine: tuple[Item, ...]
    """The files in reading order, each once."""
    dangling: tuple[str, ...]
    """Ids in the spine that the package does not list."""

    @property
    def nav(self) -> Item | None:
        """The nav document of EPUB 3."""
        return next((item for item in self.items if "nav" in item.properties), None)

    @property
    def ncx(self) -> Item | None:
        """The table of contents of EPUB 2."""
        spine = next(iter(named(self.root, "spine")), None)
        named_so = None if spine is None else spine.get("toc")
        found = [item for item in self.items if item.id == named_so]
        return next((item for item in found + list(self.items) if "ncx" in item.media_type or item in found), None)

    @property
    def guided_contents(self) -> frozenset[str]:
        """Paths of the documents that the guide of an EPUB 2 marks as the table of contents."""
        said = (one for one in named(self.root, "reference") if one.get("type", "").casefold() == "toc")
        return frozenset(resolve(self.path, one.get("href", ""))[0] for one in said)

    @property
    def date(self) -> str:
        """The publication date; empty if there is none. An EPUB 2 may also state when the file was changed."""
        dates = named(self.root, "date")
        dates.sort(key=lambda one: one.get(EVENT, "publication") != "publication")
        return next((text for text in map(_value, dates) if text), "")

    def metadata(self, name: str) -> list[str]:
        """Return the values of a Dublin Core element such as `creator`, in order."""
        found = [_value(one) for one in named(self.root, name) if "metadata" in map(local, one.iterancestors())]
        return [text for text in found if text]


def open_package(archive: Archive) -> Package:
    """Parse the package of an EPUB. Raises BookError if there is none or if the book is locked by DRM."""
    path = _package_path(archive)
    try:
        root = parse_xml(archive.read(path))
    except BookError as error:
        raise BookError(f"its package {path} cannot be read: {error}") from error
    items = {one.get("id", ""): _item(archive, path, one) for one in named(root, "item") if one.get("href")}
    wanted = [
        one.get("idref", "") for one in named(root, "itemref") if one.get("linear", "yes").strip().lower() != "no"
    ]
    wanted = list(dict.fromkeys(wanted))
    spine = tuple(items[one] for one in wanted if one in items)
    _refuse_locked(archive, spine)
    return Package(path, root, tuple(items.values()), spine, tuple(one for one in wanted if one not in items))


def contents(archive: Archive, package: Package) -> list[Entry]:
    """Return the table of contents in its order, with nested entries; empty if there is no readable one."""
    for item, reader in ((package.nav, _nav_entries), (package.ncx, _ncx_entries)):
        if item is None:
            continue
        try:
            found = reader(archive.read(item.path), item.path)
        except BookError:
            continue  # the headings give the titles then
        if found:
            return [Entry(title, archive.find(path) or path, fragment) for title, path, fragment in found]
    return []


def cover(archive: Archive, package: Package) -> Cover | None:
    """Return the cover picture if it is a JPEG or a PNG. Raises BookError if it cannot be read."""
    called = next((one.get("content") for one in named(package.root, "meta") if one.get("name") == "cover"), None)
    items = [item for item in package.items if "cover-image" in item.properties]
    items += [item for item in package.items if called and called in {item.id, item.href}]
    if not items:
        return None
    data = archive.read(items[0].path)
    return next((Cover(data, kind) for magic, kind in _PICTURES if data.startswith(magic)), None)


def _package_path(archive: Archive) -> str:
    """Return the path of the OPF file: the one that the container names, else the first one in the archive."""
    try:
        said = [one.get("full-path", "") for one in named(parse_xml(archive.read(CONTAINER)), "rootfile")]
    except BookError:
        said = []
    there = [info.filename for info in archive.infos if info.filename.lower().endswith(".opf")]
    found = next((path for path in map(archive.find, said) if path), there[0] if there else None)
    if found is None:
        raise BookError(
            f"it is not an EPUB: {CONTAINER} names no package in the archive; convert the file to EPUB again"
        )
    return found


def _item(archive: Archive, package_path: str, element: Element) -> Item:
    href = element.get("href", "").strip()
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), href.partition("#")[0]))
    properties = frozenset(element.get("properties", "").split())
    kind = element.get("media-type", "").strip().lower()
    return Item(element.get("id", ""), href, archive.find(joined) or joined, kind, properties)


def _refuse_locked(archive: Archive, spine: tuple[Item, ...]) -> None:
    """Raise BookError if documents are encrypted, which means DRM. Encrypted fonts are allowed: they are not read."""
    try:
        root = parse_xml(archive.read(_ENCRYPTION))
    except BookError:
        return
    locked = {archive.find(one.get("URI", "")) for one in named(root, "CipherReference")}
    if any(item.path in locked for item in spine):
        raise BookError("it is locked by DRM: its text is encrypted; narrate a copy without DRM")


def _nav_entries(data: bytes, path: str) -> list[Entry]:
    root = parse_document(data).root
    navs = named(root, "nav")
    chosen = [nav for nav in navs if "toc" in nav.get(TYPE, "").split() or nav.get("role") == "doc-toc"] or navs
    return [
        Entry(_value(link), *resolve(path, link.get("href", "")))
        for nav in chosen[:1]
        for link in named(nav, "a")
        if link.get("href")
    ]


def _ncx_entries(data: bytes, path: str) -> list[Entry]:
    return [
        Entry(_label(point), *resolve(path, content.get("src", "")))
        for point in named(parse_xml(data), "navPoint")
        for content in list(point)
        if local(content) == "content" and content.get("src")
    ]


def _label(point: Element) -> str:
    """Return the title of a navigation point, without the titles of the points nested in it."""
    return settle(" ".join(_value(one) for one in point if local(one) == "navLabel"))


def _value(element: Element) -> str:
    """Return the text of an element of metadata or of a table of contents, at most its first _LONGEST_VALUE_CHARS."""
    return first_text(element, _LONGEST_VALUE_CHARS)
