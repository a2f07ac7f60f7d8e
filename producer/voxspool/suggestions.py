"""Names similar to a name that was not found, for error messages."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_LISTED = 8
"""How many names a message lists when none is near; more would not be read."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` where a known name is near, else ` (there is: …)`, else an empty string."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.65)
    if near:
        return f" (did you mean {' or '.join(near)}?)"
    if not names:
        return ""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f" (there is: {', '.join(names[:MOST_LISTED])}{more})"
