"""Chapters of a book: their segments are planned, shared between workers, spoken, checked and stored."""
