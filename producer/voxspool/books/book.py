"""What every book is, whatever its file: chapters of blocks, with the places in the source that they come from.

Values only: the readers beside this module make them, `speech_markup` turns them into what is spoken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["heading", "paragraph"]


class Place(NamedTuple):
    """Where a block stands in an EPUB, for the media overlay."""

    document: str
    """The document's path inside the archive."""
    path: tuple[int, ...]
    """From the document's root element down: the index of each child element."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading or a paragraph, as a reader sees it: no markup, runs of white space are one space."""

    text: str
    kind: Kind = "paragraph"
    language: str | None = None
    """Where it is another than the book's."""
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter, in the order in which it is read. Its title is one of its blocks where the book shows it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def characters(self) -> int:
        """How long its text is."""
        return sum(len(block.text) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Cover:
    """The picture on the front."""

    data: bytes
    media_type: str
    """image/jpeg or image/png: what M4B takes."""


@dataclass(frozen=True, slots=True)
class Book:
    """A book that was read."""

    title: str
    chapters: tuple[Chapter, ...]
    authors: tuple[str, ...] = ()
    language: str | None = None
    """A tag such as en or pt-br; None where the book does not say."""
    cover: Cover | None = None
    publisher: str = ""
    date: str = ""
    description: str = ""
    unread: tuple[str, ...] = ()
    """What could not be read, a line each: it is missing from the chapters."""

    @property
    def has_places(self) -> bool:
        """Whether its blocks say where they stand in an EPUB."""
        return any(block.place for chapter in self.chapters for block in chapter.blocks)
