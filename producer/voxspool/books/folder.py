"""Read a folder of files as one book: each file has one or more chapters, and files are sorted by natural order."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from voxspool.books.book import Block, Book, Chapter
from voxspool.books.languages import same_language
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def read_folder(folder: Path, read: Callable[[Path], Book]) -> Book:
    """Read every file in a folder with `read`, and list the files that cannot be read in `Book.unread`.

    Raises BookError if no file can be read.
    """
    books: list[Book] = []
    unread: list[str] = []
    for path in sorted(folder.iterdir(), key=_natural):
        if path.name.startswith(".") or _is_media(path):
            continue
        try:
            book = read(path) if path.is_file() and not path.is_symlink() else _refuse(path)
        except BookError as error:
            unread.append(str(error))
            continue
        books.append(book)
        unread += [f"{path.name}: {one}" for one in book.unread]
    if not books:
        raise BookError("there is no book in it" + (f": {unread[0]}" if unread else ""))
    language = next((book.language for book in books if book.language), None)
    chapters = tuple(chapter for book in books for chapter in _chapters(book, language))
    return Book(title=folder.resolve().name, chapters=chapters, language=language, unread=tuple(unread))


def _refuse(path: Path) -> Book:
    if path.is_symlink():
        raise BookError(f"{path} is a link, which is not followed; put the file itself into the folder of the book")
    raise BookError(f"{path} is not a file; move the files in it into the folder of the book")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts "2 …" before "10 …"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name.casefold())]


def _is_media(path: Path) -> bool:
    """Return whether a file has no text to read: a picture, a sound, a video, a font, a style sheet or a script."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return kind.partition("/")[0] in {"image", "audio", "video", "font"} or kind in {"text/css", "text/javascript"}


def _chapters(book: Book, language: str | None) -> Iterator[Chapter]:
    """Yield a file's chapters. If the file's language differs from the book's, set it on each block."""
    own = None if same_language(book.language, language) else book.language
    for chapter in book.chapters:
        yield Chapter(chapter.title, tuple(_said_in(block, own) for block in chapter.blocks))


def _said_in(block: Block, language: str | None) -> Block:
    return replace(block, language=block.language or language, place=None)
