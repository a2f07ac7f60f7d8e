"""The segment store: where it is, and what is in it."""
