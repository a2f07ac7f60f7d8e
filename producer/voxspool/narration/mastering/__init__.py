"""Loudness, levels and limits of a book's audio, and the rules of ACX."""
