"""Bytes, read as the book that they are in a file: what tests of readers make in memory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from voxspool.books import Book, read_book
from voxspool.errors import BookError


def read_bytes(data: bytes, name: str = "stdin") -> Book:
    """Read a file of this name; what is wrong with it is said as from its own folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            return read_book(path)
        except BookError as error:
            raise BookError(str(error).replace(f"{folder}/", "")) from error
