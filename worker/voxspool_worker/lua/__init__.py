"""The scripts that Redis runs, one file each; the head of a file lists its arguments and its reply.

This module only reads the scripts. redis-py sends the hash of a script, and its text once.
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
