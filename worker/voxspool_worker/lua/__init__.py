"""The Lua scripts that Redis runs, one file each; the comment at the top of a file lists its arguments and its reply.

This module only loads the scripts. redis-py sends the text of a script once, and after that only its hash.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis
    from redis.commands.core import Script


def load(redis: Redis, name: str) -> Script:
    """Return the script `name`.lua, which can be called on the connection."""
    return redis.register_script((files(__package__) / f"{name}.lua").read_text(encoding="utf-8"))
