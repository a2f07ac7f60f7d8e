"""Load the Lua scripts that Redis runs. The comment at the start of each file lists its arguments and its reply.

redis-py sends the text of a script once, and then only its hash.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.commands.core import Script
from redis.exceptions import NoScriptError

from voxspool.connections import namespaces

if TYPE_CHECKING:
    from redis import Redis

TRIES: Final = 5
"""Largest number of calls of a script that another client flushes each time just before it runs."""


class PersistentScript(Script):
    """A script that survives SCRIPT FLUSH.

    redis-py sends the text of a flushed script once more; it raises an error if the script is flushed again before it
    runs.
    """

    def __call__(self, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - as redis-py's
        """Run the script with `keys` and `args`; return its reply."""
        for _ in range(TRIES - 1):
            with suppress(NoScriptError):
                return super().__call__(*args, **named)
        return super().__call__(*args, **named)


def load(redis: Redis, name: str) -> Script:
    """Return the script `name`.lua, ready to be called on a connection."""
    text = (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
    return PersistentScript(redis, namespaces.qualified_script(text, redis))
