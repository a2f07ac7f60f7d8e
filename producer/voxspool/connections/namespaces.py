"""Name spaces: several deployments of voxspool on one Redis, which do not meet.

A connection with a name space puts `NAME:` before every key and channel of voxspool and RQ that it sends. So no other
module knows of name spaces, apart from those that load Lua scripts, whose texts name some of RQ's keys, and those that
read keys from replies. RQ's own tools show such a deployment with `RQ_KEY_PREFIX=NAME:rq`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

Key = TypeVar("Key", str, bytes)

_KEYS: Final = ("rq:", "voxspool:")
"""How the keys and channels of a deployment without a name space begin."""
_KEYS_AS_BYTES: Final = tuple(start.encode() for start in _KEYS)
_ALL: Final = frozenset(
    {"DEL", "EXISTS", "MGET", "SUBSCRIBE", "TOUCH", "UNLINK", "UNSUBSCRIBE", "WATCH", "SUNION", "SINTER", "SDIFF"}
)
"""Commands of which each argument is a key or a channel."""
_TWO: Final = frozenset({"BLMOVE", "BRPOPLPUSH", "COPY", "LMOVE", "RENAME", "RENAMENX", "RPOPLPUSH", "SMOVE"})
"""Commands of which the first two arguments are keys."""
_MEMBERS: Final = frozenset({"SADD", "SREM", "SISMEMBER"})
_SETS_OF_KEYS: Final = ("rq:queues", "rq:workers")
"""RQ's sets whose members are keys, or how their names begin."""


def qualified(key: Key, prefix: str) -> Key:
    """Return a key with the prefix of a name space; other texts, and keys that have it already, unchanged."""
    if isinstance(key, bytes):
        return prefix.encode() + key if key.startswith(_KEYS_AS_BYTES) else key
    return prefix + key if key.startswith(_KEYS) else key


def plain(key: str) -> str:
    """Return a key from a reply without the prefix of a name space."""
    _, _, rest = key.partition(":")
    return rest if rest.startswith(_KEYS) and not key.startswith(_KEYS) else key


def qualified_command(command: Sequence[Any], prefix: str) -> list[Any]:
    """Return a command with the prefix of a name space before each of its keys and channels."""
    found = list(command)
    for index in _positions(command):
        if isinstance(found[index], (str, bytes)):
            found[index] = qualified(found[index], prefix)
    return found


def _positions(command: Sequence[Any]) -> Iterable[int]:
    """Return the positions of the arguments of a command that may be keys or channels."""
    name = str(command[0]).upper()
    if name in ("EVAL", "EVALSHA"):
        return range(3, 3 + int(command[2]))
    if name == "XREAD":
        first = next(index for index, word in enumerate(command) if word in (b"STREAMS", "STREAMS")) + 1
        return range(first, first + (len(command) - first) // 2)
    if name in _ALL or (name in _MEMBERS and str(command[1]).startswith(_SETS_OF_KEYS)):
        return range(1, len(command))
    return range(1, min(len(command), 3 if name in _TWO else 2))


def prefix_of(redis: Redis) -> str:
    """Return what the connections of a client put before keys; empty without a name space."""
    kind = getattr(redis.connection_pool, "connection_class", None)
    return str(getattr(kind, "key_prefix", ""))


def qualified_script(text: str, redis: Redis) -> str:
    """Return the text of a Lua script with the prefix of a client's name space before the keys that it names."""
    prefix = prefix_of(redis)
    return text.replace("'rq:", f"'{prefix}rq:") if prefix else text


class NamedConnection:
    """A mixin for connections of redis-py, plain or asyncio, that puts `key_prefix` before keys."""

    key_prefix: ClassVar[str]

    def send_command(self, *command: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Send one command; with asyncio the result is awaitable."""
        return super().send_command(*qualified_command(command, self.key_prefix), **options)  # type: ignore[misc]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return the bytes of the commands of a pipeline."""
        named = [qualified_command(command, self.key_prefix) for command in commands]
        return super().pack_commands(named)  # type: ignore[misc]
