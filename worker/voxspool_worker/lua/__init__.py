"""The scripts that Redis runs, one file each: what they take and give stands at their top.

Knows how to read a script, not what it is for. redis-py sends a script's hash and, once, its text.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis
    from redis.commands.core import Script


def load(redis: Redis, name: str) -> Script:
    """Return the script `name`.lua, ready to be called on a connection."""
    return redis.register_script((files(__package__) / f"{name}.lua").read_text(encoding="utf-8"))
