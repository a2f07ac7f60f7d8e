"""Books: a file becomes chapters, chapters become what is spoken of them. Reads files; knows no Redis and no audio."""

from voxspool.books.book import Block, Book, Chapter, Cover, Place
from voxspool.books.readers import read_book

__all__ = ["Block", "Book", "Chapter", "Cover", "Place", "read_book"]
