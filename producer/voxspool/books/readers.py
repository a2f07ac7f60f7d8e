"""Any file -> a Book: its name decides which reader it takes, or its content if the name says nothing.

A reader and its library are imported when a book of their kind is read; those of PDF and DOCX are extras.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from voxspool.errors import BookError, MissingExtraError
from voxspool.hints import missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from voxspool.books.book import Book

    Reader = Callable[..., Book]

MAX_FILE_BYTES: Final = 256 * 2**20
"""What is read into memory as a whole: everything but EPUB, whose archive is read entry by entry."""

_SUFFIXES: Final = {
    ".epub": "epub",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "plain",
    ".text": "plain",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
_MODULES: Final = {"plain": "text", "epub": "epub.reader"}
"""Kind -> the module of its reader, where the module does not have the name of the kind."""
_EXTRAS: Final = {"pdf": "pypdf", "docx": "python-docx"}
"""Kind -> the library that its reader needs; the extra is called as the kind is."""
_FORMATS: Final = "EPUB, Markdown, plain text, HTML, PDF, DOCX and folders of them"
_HTML: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!doctype\s+html|<html|<!--)", re.IGNORECASE)
_SNIFFED_BYTES: Final = 1_024


def read_book(path: Path, *, name: str | None = None) -> Book:
    """Read a book from a file or from a folder of files. `name` is its title where it has none; the file's name.

    Raises BookError: no such file, a kind that is not read, damaged, locked, without text; MissingExtraError.
    """
    if path.is_dir():
        from voxspool.books.folder import read_folder

        return _named(path, lambda: read_folder(path, read_book))
    kind = _kind(path.suffix, _head(path), str(path), path)
    source = path if kind == "epub" else _content(path)
    return _named(path, lambda: _read(kind, source, name or path.stem))


def _named(path: Path | str, read: Callable[[], Book]) -> Book:
    """Read, and put the file's name before what goes wrong."""
    try:
        return read()
    except BookError as error:
        raise BookError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(kind: str, source: Path | bytes, name: str) -> Book:
    """Call the reader of a kind. Those of text take text."""
    if kind in {"plain", "markdown"}:
        from voxspool.books.text import decode_text

        return _reader(kind)(decode_text(cast("bytes", source)), name)
    return _reader(kind)(source, name)


def _reader(kind: str) -> Reader:
    """Import a reader. Raises MissingExtraError."""
    try:
        return cast("Reader", getattr(import_module(f"voxspool.books.{_MODULES.get(kind, kind)}"), f"read_{kind}"))
    except ImportError as error:
        if kind not in _EXTRAS:
            raise
        raise MissingExtraError(missing(f"reading {kind.upper()}", _EXTRAS[kind], "voxspool", kind)) from error


def _kind(suffix: str, head: bytes, name: str, source: Path) -> str:
    """Return the kind of a file. Raises BookError if no reader takes it."""
    known = _SUFFIXES.get(suffix.lower())
    if known:
        return known
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(source)
    if b"%PDF-" in head:
        return "pdf"
    if _HTML.match(head):
        return "html"
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BookError(f"{name} is no book that is read here: there are {_FORMATS}; convert it to EPUB")
    return "plain"


def _kind_of_archive(source: Path) -> str:
    """Return `docx` or `epub`. A damaged archive counts as an EPUB: its reader reports the damage."""
    from voxspool.books.archive import Archive

    try:
        with Archive(source) as archive:
            return "docx" if archive.find("word/document.xml") else "epub"
    except BookError:
        return "epub"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}", wrong_value=True) from error


def _content(path: Path) -> bytes:
    """Return a file's bytes. Raises BookError."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BookError(f"{path} has {size >> 20} MiB; {MAX_FILE_BYTES >> 20} are read at most: cut it into files")
        return path.read_bytes()
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}") from error
