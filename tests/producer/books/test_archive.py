from __future__ import annotations

import io
import zipfile

import pytest

from voxspool.books import archive as module
from voxspool.books.archive import Archive
from voxspool.errors import BookError


def packed(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_files_are_listed_in_archive_order_without_folders() -> None:
    with Archive(packed({"b/": b"", "b/two.xml": b"2", "a.xml": b"1"})) as archive:
        assert [info.filename for info in archive.infos] == ["b/two.xml", "a.xml"]
        assert archive.read("b/two.xml") == b"2"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("Text/My Page.xhtml", "Text/My Page.xhtml"),
        ("Text/My%20Page.xhtml", "Text/My Page.xhtml"),
        ("text/my page.XHTML", "Text/My Page.xhtml"),
        ("100%25.css", "100%25.css"),
        ("Text/other.xhtml", None),
    ],
)
def test_a_reference_matches_an_entry_despite_escapes_and_case(reference: str, found: str | None) -> None:
    with Archive(packed({"Text/My Page.xhtml": b"", "100%25.css": b""})) as archive:
        assert archive.find(reference) == found


def test_a_missing_entry_is_an_error() -> None:
    with Archive(packed({"a": b""})) as archive, pytest.raises(BookError, match="it is missing from the archive"):
        archive.read("b")


def test_an_unusual_compression_method_is_refused() -> None:
    with Archive(packed({"a": b"text"}, zipfile.ZIP_BZIP2)) as archive, pytest.raises(BookError, match="compression"):
        archive.read("a")


def test_an_encrypted_entry_is_refused() -> None:
    data = bytearray(packed({"a": b"text"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    with Archive(bytes(data)) as archive, pytest.raises(BookError, match="locked with a password; remove"):
        archive.read("a")


def test_check_refuses_an_archive_whose_entries_are_too_large_together() -> None:
    data = packed({"a": bytes(600), "b": bytes(600)})
    with Archive(data) as archive:
        archive.check(1_200)
        with pytest.raises(BookError, match="larger than"):
            archive.check(1_199)


def test_read_refuses_more_bytes_than_the_limit_for_one_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_READ_BYTES", 1_000)
    with Archive(packed({"a": bytes(600), "b": bytes(600)})) as archive:
        archive.read("a")
        with pytest.raises(BookError, match="unpacks to more than the limit"):
            archive.read("b")
