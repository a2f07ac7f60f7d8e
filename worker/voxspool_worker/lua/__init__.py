"""The scripts that Redis runs, one file each; the head of a file lists its arguments and its reply.

This module only loads them. redis-py sends the hash of a script, and its text once.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.commands.core import Script
from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from redis import Redis

TRIES: Final = 5
"""Number of calls of a script, if each time another client flushes all scripts just before it runs."""


class PersistentScript(Script):
    """A script that survives SCRIPT FLUSH. redis-py sends the text of a lost script once, and may lose it again."""

    def __call__(self, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - as redis-py's
        """Run the script with `keys` and `args`; return its reply."""
        for _ in range(TRIES - 1):
            with suppress(NoScriptError):
                return super().__call__(*args, **named)
        return super().__call__(*args, **named)


def load(redis: Redis, name: str) -> Script:
    """Return the script `name`.lua, ready to be called on a connection."""
    return PersistentScript(redis, (files(__package__) / f"{name}.lua").read_text(encoding="utf-8"))
