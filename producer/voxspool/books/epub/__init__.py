"""Read EPUB files: the package with its metadata, and the reader that makes a book from it."""
