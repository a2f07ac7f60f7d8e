"""Books: a file becomes chapters, and chapters become the text that is spoken. No Redis, no audio."""

from voxspool.books.book import Block, Book, Chapter, Cover, Place
from voxspool.books.readers import read_book

__all__ = ["Block", "Book", "Chapter", "Cover", "Place", "read_book"]
