"""Narrate chapters of a book: plan their segments, share them between workers, speak, check and store them."""
