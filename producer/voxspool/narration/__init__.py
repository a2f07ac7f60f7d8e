"""The narration of a book: the jobs of its chapters, its audio, and the files that are made from it."""
