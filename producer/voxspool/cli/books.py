"""What all commands that read a book need: its path, and a warning about what could not be read."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voxspool.books.book import Book


@contextlib.contextmanager
def as_path(source: str) -> Iterator[Path]:
    """Yield a book's path; that of stdin (`-`), for as long as it is needed. Raises BookError."""
    if source != "-":
        yield Path(source)
        return
    if sys.stdin is None:
        raise BookError("stdin is closed; name a file")
    data = sys.stdin.buffer.read()
    with tempfile.TemporaryDirectory(prefix="voxspool-") as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(data)
        yield path


def warn(book: Book) -> None:
    """Print on stderr what could not be read of a book."""
    for line in book.unread:
        click.echo(f"voxspool: could not be read: {line}", err=True)
