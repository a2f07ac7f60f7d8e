"""The entries of an EPUB 3 with media overlays: package, navigation document, SMIL, documents without a DTD.

This module knows the formats and where new files are placed. The same input gives the same bytes.
"""

from __future__ import annotations

import posixpath
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

from lxml import etree

from voxspool.books.epub.package import EVENT, OPF, Entry, contents
from voxspool.books.xml import OPS, XHTML, local, named, parse_document
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lxml.etree import _Element as Element

    from voxspool.books.archive import Archive
    from voxspool.books.epub.package import Package
    from voxspool.narration.exports.overlay_clips import DocumentOverlay

_SMIL: Final = "http://www.w3.org/ns/SMIL"
_SMIL_NAMESPACES: Final = cast("dict[str, str]", {None: _SMIL, "epub": OPS})
_NAV_NAMESPACES: Final = cast("dict[str, str]", {None: XHTML, "epub": OPS})
_FOLDER: Final = "voxspool"
"""The folder of all new files, beside the package."""
_MEDIA_TYPES: Final = {".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".mp4": "audio/mp4"}
ACTIVE: Final = "voxspool-active"
"""The CSS class that a reading system sets on the element that is heard."""
CSS: Final = f".{ACTIVE} {{ background-color: #ffe08a; color: #000; }}\n"
EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The date of new entries: the earliest one in ZIP, so that equal books give equal files."""


class Layout:
    """Paths and ids of what is new in the archive. The source has none of them."""

    def __init__(self, archive: Archive, package: Package, audio: Mapping[int, Path]) -> None:
        base = posixpath.dirname(package.path)
        there = {info.filename.partition("/")[0] for info in archive.infos if not base}
        there |= {info.filename[len(base) + 1 :].partition("/")[0] for info in archive.infos if base}
        folder = next(name for name in _numbered(_FOLDER) if name not in there)
        self._ids = {one.get("id") for one in package.root.iter(etree.Element)}
        self._base = base
        self.folder = posixpath.join(base, folder)
        self.css = f"{self.folder}/overlay.css"
        self.nav = f"{self.folder}/nav.xhtml"
        self.audio = {
            number: f"{self.folder}/chapter-{number:03}{path.suffix.lower()}" for number, path in audio.items()
        }

    def smil(self, number: int) -> str:
        """Return the path of the overlay of document number `number`."""
        return f"{self.folder}/overlay-{number:03}.smil"

    def id(self, wish: str) -> str:
        """Return an id that the package does not have yet: the wish, or the wish with a number."""
        found = next(name for name in _numbered(wish) if name not in self._ids)
        self._ids.add(found)
        return found

    def href(self, path: str) -> str:
        """Return a path relative to the package, as a URL."""
        return href(path, self._base)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def href(path: str, folder: str) -> str:
    """Return a path relative to a folder, as a URL."""
    return quote(posixpath.relpath(path, folder or "."))


def smil(overlay: DocumentOverlay, path: str, layout: Layout) -> bytes:
    """Return the overlay of one document as SMIL, for a file at `path`."""
    folder = posixpath.dirname(path)
    document = href(overlay.item.path, folder)
    root = etree.Element(f"{{{_SMIL}}}smil", {"version": "3.0"}, nsmap=_SMIL_NAMESPACES)
    seq = etree.SubElement(etree.SubElement(root, f"{{{_SMIL}}}body"), f"{{{_SMIL}}}seq", {"id": "seq"})
    seq.set(f"{{{OPS}}}textref", document)
    for number, clip in enumerate(overlay.clips, 1):
        par = etree.SubElement(seq, f"{{{_SMIL}}}par", {"id": f"par{number}"})
        etree.SubElement(par, f"{{{_SMIL}}}text", {"src": f"{document}#{quote(clip.target)}"})
        source = href(layout.audio[clip.audio], folder)
        times = {"clipBegin": _clock(clip.begin_ms), "clipEnd": _clock(clip.end_ms)}
        etree.SubElement(par, f"{{{_SMIL}}}audio", {"src": source, **times})
    return xml(root)


def _clock(ms: int) -> str:
    """Return a time as SMIL writes it: h:mm:ss.fff."""
    return f"{ms // 3_600_000}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def link_css(tree: Element, href: str) -> None:
    """Link the style sheet for the highlighted text in a document."""
    head = next((one for one in tree if local(one) == "head"), None)
    if head is None:
        head = tree.makeelement(f"{{{XHTML}}}head", {})
        title = etree.SubElement(head, f"{{{XHTML}}}title")
        title.text = "\u00a0"  # a head has a title
        tree.insert(0, head)
    etree.SubElement(head, f"{{{XHTML}}}link", {"rel": "stylesheet", "type": "text/css", "href": href})


def serialised(tree: Element) -> bytes:
    """Return a document as EPUB 3 requires it: XML in UTF-8 with the document type of HTML."""
    return etree.tostring(tree.getroottree(), encoding="utf-8", xml_declaration=True, doctype="<!DOCTYPE html>")


def xml(root: Element) -> bytes:
    """Return indented XML, for files in which spaces have no meaning."""
    etree.indent(root)
    return etree.tostring(root.getroottree(), encoding="utf-8", xml_declaration=True) + b"\n"


def is_old(package: Package) -> bool:
    """Return whether a package is of EPUB 2 or older."""
    return not package.root.get("version", "").startswith("3")


def modern(archive: Archive, package: Package) -> dict[str, bytes]:
    """Return the documents of an EPUB 2 without the DTD. Characters replace the names that it defined."""
    found = {}
    for item in package.items:
        if item.is_document:
            with suppress(BookError):  # then it is copied unchanged; the book lists it as unread
                found[item.path] = serialised(parse_document(archive.read(item.path)).root)
    return found


def nav_document(archive: Archive, package: Package, layout: Layout) -> bytes:
    """Return the navigation document that EPUB 3 requires, made from the NCX, or else from the spine."""
    known = {item.path for item in package.items}
    lines = [one for one in contents(archive, package) if one.document in known]
    lines = lines or [Entry(item.href, item.path, "") for item in package.spine]
    root = etree.Element(f"{{{XHTML}}}html", nsmap=_NAV_NAMESPACES)
    title = etree.SubElement(etree.SubElement(root, f"{{{XHTML}}}head"), f"{{{XHTML}}}title")
    title.text = next(iter(package.metadata("title")), "") or "\u00a0"
    nav = etree.SubElement(etree.SubElement(root, f"{{{XHTML}}}body"), f"{{{XHTML}}}nav", {f"{{{OPS}}}type": "toc"})
    list_ = etree.SubElement(nav, f"{{{XHTML}}}ol")
    for line in lines:
        target = href(line.document, layout.folder) + (f"#{quote(line.fragment)}" if line.fragment else "")
        link = etree.SubElement(etree.SubElement(list_, f"{{{XHTML}}}li"), f"{{{XHTML}}}a", {"href": target})
        link.text = line.title or line.document
    return serialised(root)


def old_overlays(package: Package) -> set[str]:
    """Return the overlays of the source, which are replaced."""
    return {item.path for item in package.items if item.media_type == "application/smil+xml"}


def newest(archive: Archive) -> str:
    """Return the date of the newest entry: the modification date must not depend on the day of the narration."""
    year, month, day, hour, minute, second = max((info.date_time for info in archive.infos), default=EPOCH)
    return f"{year:04}-{max(month, 1):02}-{max(day, 1):02}T{hour % 24:02}:{minute % 60:02}:{second % 60:02}Z"


class Packager:
    """Changes the package: lists the new files, and converts it to EPUB 3."""

    def __init__(self, package: Package, layout: Layout, kept: set[str]) -> None:
        """`kept` are the entries of the source that are in the new archive too."""
        self._package = package
        self._layout = layout
        self._kept = kept
        self._metadata = _section(package.root, "metadata")
        self._manifest = _section(package.root, "manifest")

    def update(self, overlays: list[DocumentOverlay], narrator: str, modified: str) -> None:
        """Make all changes. `modified` is the date if the package states none."""
        if is_old(self._package):
            self._convert()
        self._remove_old()
        if self._package.nav is None:
            self._add_item("nav", self._layout.nav, "application/xhtml+xml", {"properties": "nav"})
        self._add_item("overlay-css", self._layout.css, "text/css", {})
        for number, path in self._layout.audio.items():
            self._add_item(f"audio-{number}", path, _MEDIA_TYPES[posixpath.splitext(path)[1]], {})
        for number, overlay in enumerate(overlays, 1):
            self._add_overlay(number, overlay)
        self._add_meta("media:duration", _clock(sum(overlay.duration_ms for overlay in overlays)))
        self._add_meta("media:narrator", narrator)
        self._add_meta("media:active-class", ACTIVE)
        if not any(one.get("property") == "dcterms:modified" for one in named(self._metadata, "meta")):
            self._add_meta("dcterms:modified", modified)

    def _add_overlay(self, number: int, overlay: DocumentOverlay) -> None:
        name = self._add_item(f"overlay-{number}", self._layout.smil(number), "application/smil+xml", {})
        for one in named(self._manifest, "item"):
            if one.get("id") == overlay.item.id:
                one.set("media-overlay", name)
        self._add_meta("media:duration", _clock(overlay.duration_ms), refines=f"#{name}")

    def _add_item(self, wish: str, path: str, media_type: str, more: dict[str, str]) -> str:
        name = self._layout.id(f"voxspool-{wish}")
        about = {"id": name, "href": self._layout.href(path), "media-type": media_type, **more}
        etree.SubElement(self._manifest, f"{{{OPF}}}item", about)
        return name

    def _add_meta(self, term: str, value: str, **more: str) -> None:
        meta = etree.SubElement(self._metadata, f"{{{OPF}}}meta", {"property": term, **more})
        meta.text = value

    def _remove_old(self) -> None:
        """Remove the source's own overlays from the package, and files that are not in the archive."""
        for one in named(self._metadata, "meta"):
            if one.get("property", "").startswith("media:"):
                _remove(one)
        there = {item.id for item in self._package.items if item.path in self._kept or "://" in item.href}
        for one in [*named(self._manifest, "item"), *named(self._package.root, "itemref")]:
            one.attrib.pop("media-overlay", "")
            if one.get("idref", one.get("id")) not in there:
                _remove(one)

    def _convert(self) -> None:
        """Convert the package to EPUB 3, which allows one date, and no OPF attributes on Dublin Core terms."""
        self._package.root.set("version", "3.0")
        for one in named(self._manifest, "item"):
            if one.get("media-type") in {"text/html", "text/x-oeb1-document"}:
                one.set("media-type", "application/xhtml+xml")
        dates = named(self._metadata, "date")
        kept = next((one for one in dates if one.get(EVENT) in {"publication", None}), None)
        for one in dates:
            if one is not (kept if kept is not None else dates[0]):
                _remove(one)
        for one in self._metadata.iter(etree.Element):
            for name in [str(name) for name in one.attrib if str(name).startswith(f"{{{OPF}}}")]:
                del one.attrib[name]


def _section(root: Element, name: str) -> Element:
    """Return a section of a package. It is created if a damaged package lacks it."""
    found = next(iter(named(root, name)), None)
    return etree.SubElement(root, f"{{{OPF}}}{name}") if found is None else found


def _remove(element: Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)
