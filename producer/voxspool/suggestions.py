"""Names similar to a name that was not found, for error messages."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_LISTED = 8
"""The most names that a message lists if none is similar; a longer list is not read."""


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return at most two known names that are similar to a name, the most similar first."""
    return difflib.get_close_matches(name, sorted(set(known)), n=2, cutoff=0.65)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` if a known name is similar, else ` (there is: …)`; an empty string without names."""
    names = sorted(set(known))
    if found := near(name, names):
        return f" (did you mean {' or '.join(found)}?)"
    if not names:
        return ""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f" (there is: {', '.join(names[:MOST_LISTED])}{more})"
