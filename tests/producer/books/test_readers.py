from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import make_epub
from tests.support.books import read_bytes
from tests.support.documents import PAGES, pdf_document, word_document
from voxspool.books import read_book
from voxspool.errors import BookError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (make_epub.packed(make_epub.epub(1).entries), "The Warm Lamp"),
        (b"<!DOCTYPE html><title>Page</title><p>x", "Page"),
        (b"Chapter 1\n\nx", "stdin"),
        (word_document(), "A report"),
        (pdf_document([["Text."]]), "stdin"),
    ],
)
def test_the_format_of_a_file_without_a_suffix_is_recognised_from_its_content(
    data: bytes, title: str, tmp_path: Path
) -> None:
    assert read_bytes(data).title == title
    path = tmp_path / "stdin"
    path.write_bytes(data)
    assert read_book(path).title == title
    assert read_book(path, name="Named").title in {title, "Named"}


@pytest.mark.parametrize("name", ["x.epub", "x.docx", "x.pdf", "x.txt", "x.md", "x.html", "x", "x.mobi"])
@pytest.mark.parametrize("data", [b"", b"\0\1\2\xff" * 50, b"PK\x03\x04\0\0", b"%PDF-1.4\n%%EOF"])
def test_the_error_for_a_file_that_is_not_a_book_is_one_line_and_names_the_file(name: str, data: bytes) -> None:
    try:
        read_bytes(data, name)
    except BookError as error:
        said = str(error)
    else:
        assert data.startswith(b"%PDF")  # these bytes are valid text, and the suffix says text
        return
    assert said.startswith(name)
    assert "\n" not in said


def test_a_missing_file_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="No such file"):
        read_book(tmp_path / "no.epub")
    with pytest.raises(BookError, match="no book in it"):
        read_book(tmp_path)


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_documents_are_read_or_refused(data: st.DataObject) -> None:
    kind, whole = data.draw(st.sampled_from(SAMPLES))
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=20)):
        damaged[at] = value
    try:
        assert read_bytes(bytes(damaged), f"x.{kind}").chapters
    except BookError as error:
        said = str(error)
    else:
        return
    assert said.startswith("x.")


SAMPLES = [
    ("docx", word_document()),
    ("pdf", pdf_document(PAGES[:2], {0: "One"})),
    ("html", b"<h1>a</h1><p>b &amp; c</p>" * 5),
    ("md", b"# a\n\nb[^1]\n\n[^1]: c" * 5),
]


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("voxspool.books.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtraError, match=r"reading PDF needs pypdf; .* pip install .*\[pdf\]'$"):
        read_bytes(b"%PDF-1.4", "x.pdf")


def test_importing_the_package_does_not_import_the_readers_libraries() -> None:
    code = (
        "import sys, voxspool.books; print([m for m in ('lxml', 'markdown_it', 'pypdf', 'docx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
