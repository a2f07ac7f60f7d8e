"""Mastering of a book's audio: loudness, levels, limiter, and the rules of ACX."""
