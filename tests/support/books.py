"""Read and compare the books that tests make in memory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from voxspool.books import Book, read_book
from voxspool.errors import BookError


def read_bytes(data: bytes, name: str = "stdin") -> Book:
    """Write a file of this name into a temporary folder and read it. Error messages do not contain the folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            return read_book(path)
        except BookError as error:
            raise BookError(str(error).replace(f"{folder}/", "")) from error


def outline(book: Book) -> list[tuple[str, list[str]]]:
    """Return the title of each chapter, and the texts of its blocks."""
    return [(chapter.title, [block.text for block in chapter.blocks]) for chapter in book.chapters]


def block_kinds(book: Book) -> list[list[str]]:
    """Return the kinds of the blocks of each chapter."""
    return [[block.kind for block in chapter.blocks] for chapter in book.chapters]
