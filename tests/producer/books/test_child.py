"""Reading a book in a process of its own: the same book and errors, and an end at the limits of time and memory."""

from __future__ import annotations

import json
import os
import signal
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support import make_epub
from tests.support.documents import pdf_document, word_document
from voxspool.books import child, read_book, readers
from voxspool.books.book import Cover
from voxspool.books.child import read_within_limits
from voxspool.errors import BookError

if TYPE_CHECKING:
    from pathlib import Path

LONG = b"\\*" * 1_000_000
"""Markdown that takes seconds and hundreds of MiB: a token for each character."""


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.epub", make_epub.packed(make_epub.epub(3).entries)),
        ("a.md", "# Eins\n\nText \u202e *und* mehr.\n\n# Zwei\n\nEnde \ud83d\ude00.\n".encode(errors="surrogatepass")),
        ("a.txt", b"caf\xe9\n"),
        ("a.html", b"<html lang=de><p>Text<p lang=en>text"),
        ("a.docx", word_document()),
        ("a.pdf", pdf_document([["These are words."]])),
    ],
)
def test_the_book_is_the_same(tmp_path: Path, name: str, data: bytes) -> None:
    path = written(tmp_path, name, data)
    assert read_within_limits(path) == read_book(path)


def test_a_cover_and_a_folder_of_files_are_the_same(tmp_path: Path) -> None:
    book = replace(read_book(written(tmp_path, "a.txt", b"Text.")), cover=Cover(b"\xff\xd8\xff\0", "image/jpeg"))
    assert child._received({"book": json.loads(json.dumps(child._sent(book)))}) == book
    assert read_within_limits(tmp_path) == read_book(tmp_path)


@pytest.mark.parametrize("name", ["missing.txt", "empty.txt", "damaged.epub", "damaged.docx"])
def test_an_error_is_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name != "missing.txt":
        path.write_bytes(b"")
    errors = []
    for read in (read_book, read_within_limits):
        with pytest.raises(BookError) as raised:
            read(path)
        errors.append((str(raised.value), raised.value.wrong_value))
    assert errors[0] == errors[1]


def test_a_book_that_takes_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LIMIT_S", 0.0)
    monkeypatch.setattr(child, "LIMIT_S_PER_MIB", 0.2)
    with pytest.raises(BookError, match=r"long\.md cannot be read within the limit of 0 s; convert it"):
        read_within_limits(written(tmp_path, "long.md", LONG))


def test_a_book_that_needs_too_much_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_MEMORY_BYTES", 200 * 2**20)
    with pytest.raises(BookError, match="needs more than 200 MiB of memory; convert it"):
        read_within_limits(written(tmp_path, "long.md", LONG))


def test_a_reader_that_is_killed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})"
    monkeypatch.setattr(child, "_PROGRAM", killed)
    with pytest.raises(BookError, match="its reader ended with SIGSEGV"):
        read_within_limits(written(tmp_path, "a.txt", b"Text."))


def test_python_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "lxml", "click", "sitecustomize"):
        written(tmp_path, f"{name}.py", b"import os; os.mkdir('imported')")
    monkeypatch.chdir(tmp_path)
    assert read_within_limits(written(tmp_path, "a.html", b"<p>Text.")).chapters
    assert not (tmp_path / "imported").exists()


def test_a_pipe_and_a_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    assert stat.S_ISFIFO((tmp_path / "pipe.txt").stat().st_mode)
    for path in (tmp_path / "pipe.txt", tmp_path / os.devnull, tmp_path / "/dev/zero"):
        with pytest.raises(BookError, match="not a regular file"):
            readers.read_book(path)
