"""Read a book from any supported file. The suffix of the name decides the format; without one, the content decides.

A reader and its library are imported when a book of that format is read. The libraries for PDF and DOCX are extras.
"""

from __future__ import annotations

import re
import stat
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
"""Limit for files that are read into memory as a whole, in bytes: all but EPUB, which is read entry by entry."""

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
"""Format -> the module of its reader, if the module's name differs from the format's."""
_EXTRAS: Final = {"pdf": "pypdf", "docx": "python-docx"}
"""Format -> the library that its reader needs. The extra has the format's name."""
_FORMATS: Final = "EPUB, Markdown, plain text, HTML, PDF, DOCX and folders of them"
_HTML: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!doctype\s+html|<html|<!--)", re.IGNORECASE)
_SNIFFED_BYTES: Final = 1_024


def read_book(path: Path, *, name: str | None = None) -> Book:
    """Read a book from a file or from a folder of files.

    `name` is the title of a book that states none; the default is the file's name without its suffix.
    Raises BookError if the file does not exist, is damaged or locked, has no text or is of an unknown format, and
    MissingExtraError if the library for its format is not installed.
    """
    if path.is_dir():
        from voxspool.books.folder import read_folder

        return _named(path, lambda: read_folder(path, read_book))
    kind = _kind(path.suffix, _head(path), str(path), path)
    source = path if kind == "epub" else _content(path)
    return _named(path, lambda: _read(kind, source, name or path.stem))


def _named(path: Path | str, read: Callable[[], Book]) -> Book:
    """Call `read`, and put the file's name at the start of the message of an error."""
    try:
        return read()
    except BookError as error:
        raise BookError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(kind: str, source: Path | bytes, name: str) -> Book:
    """Call the reader of a format. Readers of text formats get a str, the others bytes or a path."""
    if kind in {"plain", "markdown"}:
        from voxspool.books.text import decode_text

        return _reader(kind)(decode_text(cast("bytes", source)), name)
    return _reader(kind)(source, name)


def _reader(kind: str) -> Reader:
    """Import and return the reader of a format. Raises MissingExtraError if its library is not installed."""
    try:
        return cast("Reader", getattr(import_module(f"voxspool.books.{_MODULES.get(kind, kind)}"), f"read_{kind}"))
    except ImportError as error:
        if kind not in _EXTRAS:
            raise
        raise MissingExtraError(missing(f"reading {kind.upper()}", _EXTRAS[kind], "voxspool", kind)) from error


def _kind(suffix: str, head: bytes, name: str, source: Path) -> str:
    """Return the format of a file, as named in `_SUFFIXES`. Raises BookError if the format is not supported."""
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
        raise BookError(f"{name} is not in a supported format ({_FORMATS}); convert it to EPUB")
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
    """Return the first bytes of a file. Raises BookError, also for a pipe or a device, which could keep the reader."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BookError(
                f"{path} is not a regular file; to read a pipe, write - instead of its name", wrong_value=True
            )
        with path.open("rb") as file:
            return file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}", wrong_value=True) from error


def _content(path: Path) -> bytes:
    """Return a file's bytes. Raises BookError."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BookError(
                f"{path} has {size >> 20} MiB and the limit is {MAX_FILE_BYTES >> 20} MiB; split it into several files"
            )
        return path.read_bytes()
    except OSError as error:
        raise BookError(f"{path} cannot be read: {error.strerror or error}") from error
