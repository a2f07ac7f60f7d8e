"""The files that people keep: audio of chapters, captions, M4B, EPUB with media overlays."""
