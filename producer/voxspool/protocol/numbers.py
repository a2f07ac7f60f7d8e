"""Whole numbers in text that anybody may have written: in Redis, in the id of an entry.

Python refuses to read a number of thousands of digits with an error of its own, so both functions limit the digits.
"""

from __future__ import annotations

from typing import Final

MOST_DIGITS: Final = 20
"""Of one number. Redis holds counts and the parts of an id in 64 bits, whose largest value has 20 digits."""


def parse_count(text: str) -> int:
    """Return a whole number from 0 up. Raises ValueError for anything but 1 to MOST_DIGITS of the digits 0 to 9."""
    if not (len(text) <= MOST_DIGITS and text.isascii() and text.isdigit()):
        raise ValueError(f"{text[:40]!r} is not a whole number of at most {MOST_DIGITS} digits")
    return int(text)


def count_or_zero(value: str | bytes | None) -> int:
    """Return a whole number, or 0 where there is none. Of a number that is too long, the first MOST_DIGITS count."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return int(text[:MOST_DIGITS]) if text.isascii() and text.isdigit() else 0
