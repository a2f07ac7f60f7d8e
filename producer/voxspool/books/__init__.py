"""Books: a file becomes chapters, chapters become what is spoken of them. Reads files; knows no Redis and no audio."""
