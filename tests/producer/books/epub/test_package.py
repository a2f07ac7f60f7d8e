from __future__ import annotations

import pytest

from tests.support import make_epub
from voxspool.books.archive import Archive
from voxspool.books.epub.package import Entry, Package, contents, cover, open_package
from voxspool.errors import BookError


def opened(entries: dict[str, bytes]) -> Package:
    with Archive(make_epub.packed(entries)) as archive:
        return open_package(archive)


def with_package(opf: str) -> dict[str, bytes]:
    return {"META-INF/container.xml": make_epub.CONTAINER.encode(), "OEBPS/book.opf": opf.encode()}


@pytest.mark.parametrize("version", [2, 3])
def test_the_spine_lists_the_documents_in_reading_order(version: int) -> None:
    package = opened(make_epub.epub(2, version=version).entries)
    assert package.path == "OEBPS/book.opf"
    paths = [item.path for item in package.spine if item != package.nav and "contents" not in item.path]
    assert paths == [f"OEBPS/{name}.xhtml" for name in ("title", "text/c01", "text/c02", "text/notes")]
    assert all(item.is_document for item in package.spine)
    assert package.dangling == ()


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_is_read_and_the_publication_date_is_preferred(version: int) -> None:
    package = opened(make_epub.epub(1, version=version).entries)
    assert package.metadata("creator") == ["the authors of voxspool"]
    assert package.metadata("rights") == []
    assert package.date == "2024-05-06"


@pytest.mark.parametrize("version", [2, 3])
def test_the_table_of_contents_is_read_from_the_nav_document_or_the_ncx(version: int) -> None:
    made = make_epub.epub(2, version=version)
    with Archive(make_epub.packed(made.entries)) as archive:
        entries = contents(archive, open_package(archive))
    assert entries == [
        Entry("The Warm Lamp", "OEBPS/title.xhtml", ""),
        Entry(made.titles[1], "OEBPS/text/c01.xhtml", "top"),
        Entry(made.titles[2], "OEBPS/text/c02.xhtml", "top"),
    ]


def test_a_missing_nav_document_is_replaced_by_the_ncx() -> None:
    entries = dict(make_epub.epub(2).entries)
    del entries["OEBPS/nav.xhtml"]
    with Archive(make_epub.packed(entries)) as archive:
        assert len(contents(archive, open_package(archive))) == 3
    del entries["OEBPS/toc.ncx"]
    with Archive(make_epub.packed(entries)) as archive:
        assert contents(archive, open_package(archive)) == []


def test_a_cover_that_is_not_a_jpeg_or_a_png_is_ignored() -> None:
    entries = dict(make_epub.epub(1).entries)
    with Archive(make_epub.packed(entries)) as archive:
        found = cover(archive, open_package(archive))
    assert found is not None
    assert (found.media_type, found.data) == ("image/png", make_epub.picture())
    entries["OEBPS/cover.png"] = b"GIF89a"
    with Archive(make_epub.packed(entries)) as archive:
        assert cover(archive, open_package(archive)) is None


def test_the_guide_of_an_epub_2_names_its_page_of_contents() -> None:
    opf = '<package><guide><reference type="TOC" href="text/contents.xhtml#top"/></guide></package>'
    assert opened(with_package(opf)).guided_contents == {"OEBPS/text/contents.xhtml"}


def test_linear_spine_entries_are_read_once_and_unknown_ids_are_listed() -> None:
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="text/html"/>' for name in "ac")
    refs = '<itemref idref="a"/><itemref idref="a"/><itemref idref="b"/><itemref idref="c" linear="no"/>'
    opf = f"<package><manifest>{items}</manifest><spine>{refs}</spine></package>"
    package = opened(with_package(opf))
    assert [item.id for item in package.spine] == ["a"]
    assert package.dangling == ("b",)


def test_an_archive_without_a_package_is_not_an_epub() -> None:
    with pytest.raises(BookError, match="it is not an EPUB"):
        opened({"a.txt": b"text"})
