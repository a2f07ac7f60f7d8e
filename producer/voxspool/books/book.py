"""The data of a book, independent of its file format: chapters made of blocks, with their positions in the source.

This module holds values only. The readers in this package create them; `speech_markup` turns them into spoken text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["heading", "paragraph"]


class Place(NamedTuple):
    """The position of a block in an EPUB, for the media overlay."""

    document: str
    """The document's path inside the archive."""
    path: tuple[int, ...]
    """The index of each child element, from the document's root element down."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading or a paragraph as a reader sees it: without markup, with each run of white space as one space."""

    text: str
    kind: Kind = "paragraph"
    language: str | None = None
    """The language of the text if it differs from the book's; None: the book's language."""
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter, with its blocks in reading order. If the text of the book has the title, it is one of the blocks."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def characters(self) -> int:
        """The number of characters in all blocks."""
        return sum(len(block.text) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Cover:
    """The cover picture."""

    data: bytes
    media_type: str
    """image/jpeg or image/png, the two types that M4B allows."""


@dataclass(frozen=True, slots=True)
class Book:
    """The chapters and the metadata of a book."""

    title: str
    chapters: tuple[Chapter, ...]
    authors: tuple[str, ...] = ()
    language: str | None = None
    """A language tag such as en or pt-br; None if the book does not state its language."""
    cover: Cover | None = None
    publisher: str = ""
    date: str = ""
    description: str = ""
    unread: tuple[str, ...] = ()
    """One line for each item that could not be read and is missing from the chapters."""

    @property
    def has_places(self) -> bool:
        """True if any block has a position in an EPUB."""
        return any(block.place for chapter in self.chapters for block in chapter.blocks)
