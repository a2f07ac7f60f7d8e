"""The files for people: audio of chapters, captions, M4B, EPUB with media overlays."""
