"""Read whole numbers from untrusted text, such as values in Redis and the ids of entries.

Python raises an error of its own for numbers of thousands of digits, so both functions limit the number of digits.
"""

from __future__ import annotations

from typing import Final

MOST_DIGITS: Final = 20
"""The largest number of digits: Redis stores counts and the parts of an id in 64 bits, at most 20 digits."""


def parse_count(text: str) -> int:
    """Return a whole number of at least 0. Raises ValueError for anything but 1 to MOST_DIGITS of the digits 0 to 9."""
    if not (len(text) <= MOST_DIGITS and text.isascii() and text.isdigit()):
        raise ValueError(f"{text[:40]!r} is not a whole number of at most {MOST_DIGITS} digits")
    return int(text)


def count_or_zero(value: str | bytes | None) -> int:
    """Return a whole number, or 0 if the text is not one. A longer number is cut after MOST_DIGITS digits."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return int(text[:MOST_DIGITS]) if text.isascii() and text.isdigit() else 0
