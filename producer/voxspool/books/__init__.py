"""Read books: turn a file into chapters, and chapters into the text to speak. No module here uses Redis or audio."""

from voxspool.books.book import Block, Book, Chapter, Cover, Place
from voxspool.books.readers import read_book

__all__ = ["Block", "Book", "Chapter", "Cover", "Place", "read_book"]
