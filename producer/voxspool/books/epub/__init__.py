"""EPUB files: the package, and the reader that makes a book of it."""
