"""Shared by the commands that read a book: find its path, and warn about parts that could not be read."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from voxspool.display import echo
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voxspool.books.book import Book


@contextlib.contextmanager
def as_path(source: str) -> Iterator[Path]:
    """Yield a book's path; for `-`, that of a temporary file with the data of stdin. Raises BookError."""
    if source != "-":
        yield Path(source)
        return
    if sys.stdin is None:
        raise BookError("stdin is closed; name a file instead of -")
    data = sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory(prefix="voxspool-") as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(data)
        yield path


def warn(book: Book) -> None:
    """Print a warning on stderr for each part of a book that could not be read."""
    for line in book.unread:
        echo(f"voxspool: not read: {line}", err=True)
