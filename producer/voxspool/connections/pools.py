"""Pools of connections to Redis that find the primary again after a failover.

A failover may leave the connections open: the old primary lives on as a replica, behind a proxy, a service address or a
Sentinel. It then refuses every write. A pool of this module drops its connections when a server refuses so, and reports
it as a lost connection: redis-py's retries, and the callers' own, then connect afresh. `guard` does the same for a pool
of a program's own.
"""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import redis
from redis import asyncio as redis_asyncio
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.sentinel import SentinelConnectionPool

from voxspool.connections.namespaces import NamedConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSED: Final = re.compile("closed by server|Error while reading")
"""redis-py's errors for a connection that was open before."""
_CLOSED_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4)
"""The waits between tries to get a connection, in seconds."""
LONGEST_S: Final = 60.0
"""The age from which a connection is made again before its next use, in seconds. A reader that writes nothing would not
see that its server is no longer the primary."""
IDLE_S: Final = 10.0
"""How long a pool keeps a connection that it does not need, in seconds. It always keeps one."""
_NO_PRIMARY: Final = re.compile(
    r"\bREADONLY\b|\bMASTERDOWN\b|\bNOREPLICAS\b|^UNBLOCKED |read only replica|Link with MASTER is down"
)
"""What a server writes that is no primary, or no longer: in an error's text, or inside that of a script (Redis 6.2).

It ends commands that block with UNBLOCKED when it becomes a replica, and refuses writes with NOREPLICAS while it has
fewer replicas than its `min-replicas-to-write`, as an isolated primary does. redis-py takes known codes off the text.
"""
_pools: weakref.WeakSet[Any] = weakref.WeakSet()


class NoPrimaryError(redis.ConnectionError):
    """The server at the other end is not the primary. The connection was closed: the next try makes a new one."""


class WrongServerError(redis.RedisError):
    """The server is one that voxspool cannot use: a node of a cluster, or a Sentinel."""


class First(Protocol):
    """Waits for the first answer of a server."""

    def wait(self) -> None:
        """Wait for the answer. Raises redis.ConnectionError or redis.TimeoutError."""

    async def wait_async(self) -> None:
        """Wait for the answer without blocking the event loop. Raises as `wait` does."""


def no_primary(error: redis.RedisError) -> bool:
    """Return whether a server refused a command because it is not the primary, or not any longer."""
    return isinstance(error, redis.ResponseError) and _NO_PRIMARY.search(str(error)) is not None


def guard(client: redis.Redis | redis_asyncio.Redis, namespace: str = "") -> None:
    """Make the pool of a program's own client drop its connections after a failover, as the pools of this module do.

    With a name space its connections put that before keys. Raises ValueError if the pool has another name space.
    """
    pool: Any = client.connection_pool
    if hasattr(pool, "connection_class"):
        guarded = _GuardedConnection if isinstance(client, redis.Redis) else _AsyncGuardedConnection
        _guard(pool, guarded, namespace)


def open_connections() -> int:
    """Return the number of connections to Redis that this process holds through voxspool."""
    return sum(_is_open(one) for pool in list(_pools) for one in _connections(pool))


def _guard(pool: Any, guarded: type, namespace: str) -> None:  # noqa: ANN401 - the plain and the asyncio pools share no class
    """Replace the class of a pool's connections, existing ones too, by one that checks replies for a failover."""
    plain, prefix = pool.connection_class, f"{namespace}:" if namespace else ""
    _pools.add(pool)
    if issubclass(plain, guarded):
        if plain.key_prefix != prefix:
            raise ValueError(f"the name space {plain.key_prefix[:-1]}" if plain.key_prefix else "no name space")
        return
    bases = (NamedConnection, guarded, plain) if namespace else (guarded, plain)
    facts = {"owner": weakref.ref(pool), "key_prefix": prefix}
    pool.connection_class = type(f"Guarded{plain.__name__}", bases, facts)
    for one in _connections(pool):
        if type(one) is plain:
            one.__class__ = pool.connection_class


def _connections(pool: Any) -> Iterator[Any]:  # noqa: ANN401 - see _guard
    """Yield the connections that a pool has made, those in use too."""
    for name in ("_available_connections", "_in_use_connections", "_connections"):
        yield from list(getattr(pool, name, ()))


def _superfluous(pool: Any) -> list[Any]:  # noqa: ANN401 - see _guard
    """Return the idle connections of a pool that are old, or that nobody has needed for a while.

    A pool hands out the connection that was given back last, so those at the front of its list are needed least.
    """
    now = time.monotonic()
    idle = [one for one in list(pool._available_connections) if _is_open(one)]  # noqa: SLF001 - redis-py has no other way
    return [one for one in idle[:-1] if now - one.used_at > IDLE_S] + [
        one for one in idle if now - one.connected_at > LONGEST_S
    ]


def _is_open(connection: Any) -> bool:  # noqa: ANN401 - see _guard
    """Return whether a connection, plain or asyncio, is connected."""
    return bool(getattr(connection, "_sock", None) or getattr(connection, "_reader", None))


def _refusal(reply: object) -> redis.ResponseError | None:
    """Return the error by which a server that is no primary refused a command inside a transaction."""
    if isinstance(reply, list):
        for one in reply:
            if isinstance(one, redis.ResponseError) and no_primary(one):
                return one
    return None


def _check_kind(connection: Any) -> None:  # noqa: ANN401 - see _guard
    """Raise WrongServerError if the reply to HELLO says that the server is of a kind that voxspool cannot use.

    redis-py sends HELLO when it connects, unless the URL asks for `protocol=2`.
    """
    about = getattr(connection, "handshake_metadata", None) or {}
    mode = about.get(b"mode", about.get("mode"))
    if mode in (b"cluster", "cluster"):
        raise WrongServerError(CLUSTER)
    if mode in (b"sentinel", "sentinel"):
        raise WrongServerError("it is a Sentinel; write redis+sentinel://HOST:26379/SERVICE/0")


CLUSTER: Final = "it is a Redis Cluster, which voxspool does not support; name a single Redis or a Sentinel service"


class _GuardedConnection:
    """A mixin for connections of redis-py: drop the connections of the pool if the server is not the primary."""

    owner: ClassVar[weakref.ref[Any]]
    key_prefix: ClassVar[str]
    connected_at = used_at = 0.0
    """When it was connected, and when it was last taken from its pool, by the monotonic clock."""

    def connect(self) -> None:
        """Connect, unless it is connected. Raises WrongServerError too."""
        if not _is_open(self):
            self.connected_at = time.monotonic()
        super().connect()  # type: ignore[misc] # of the class that this is mixed into, as below
        _check_kind(self)

    def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return the reply. Raises NoPrimaryError too."""
        try:
            reply = super().read_response(*args, **options)  # type: ignore[misc]
            refusal = _refusal(reply)
        except redis.ResponseError as error:
            if not no_primary(error):
                raise
            refusal = error
        if refusal is None:
            return reply
        self._drop()
        raise NoPrimaryError(str(refusal)) from refusal

    def _drop(self) -> None:
        """Close this connection and the idle ones; those in use are closed after the command that they carry."""
        this: Any = self
        this.disconnect()
        if pool := self.owner():
            pool.disconnect(inuse_connections=False)
            if hasattr(pool, "update_active_connections_for_reconnect"):  # redis-py 7
                pool.update_active_connections_for_reconnect()


class _AsyncGuardedConnection:
    """_GuardedConnection for asyncio."""

    owner: ClassVar[weakref.ref[Any]]
    key_prefix: ClassVar[str]
    connected_at = used_at = 0.0
    """When it was connected, and when it was last taken from its pool, by the monotonic clock."""

    async def connect(self) -> None:
        """Connect, unless it is connected. Raises WrongServerError too."""
        if not _is_open(self):
            self.connected_at = time.monotonic()
        await super().connect()  # type: ignore[misc]
        _check_kind(self)

    async def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return the reply. Raises NoPrimaryError too."""
        try:
            reply = await super().read_response(*args, **options)  # type: ignore[misc]
            refusal = _refusal(reply)
        except redis.ResponseError as error:
            if not no_primary(error):
                raise
            refusal = error
        if refusal is None:
            return reply
        await self._drop()
        raise NoPrimaryError(str(refusal)) from refusal

    async def _drop(self) -> None:
        """Close this connection and the idle ones; those in use are closed after the command that they carry."""
        this: Any = self
        await this.disconnect(nowait=True)
        if pool := self.owner():
            await pool.disconnect(inuse_connections=False)
            if hasattr(pool, "update_active_connections_for_reconnect"):  # redis-py 7.2
                await pool.update_active_connections_for_reconnect()


class _Patient:
    """A mixin for pools: it retries to get a connection if Redis closes a new one, as after two restarts in a row.

    redis-py retries commands, but not this step before them. The step sends no command, so retrying it is safe.
    """

    first: First | None = None

    def __init__(self, *args: Any, namespace: str = "", **options: Any) -> None:  # noqa: ANN401 - redis-py's own signature
        super().__init__(*args, **options)
        _guard(self, _GuardedConnection, namespace)

    def get_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return a working connection. Raises redis.ConnectionError or redis.TimeoutError."""
        if self.first:
            self.first.wait()
        for wait_s in _CLOSED_WAITS_S:
            try:
                return self._get_young(*args, **options)
            except redis.ConnectionError as error:
                if not _CLOSED.search(str(error)):
                    raise
            time.sleep(wait_s)
        return self._get_young(*args, **options)

    def _get_young(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        """Return a connection, after closing those that are old or not needed."""
        this: Any = self
        with this._lock:  # noqa: SLF001 - redis-py has no other way to keep other threads from taking them
            for one in _superfluous(this):
                one.disconnect()
        found = super().get_connection(*args, **options)  # type: ignore[misc]
        found.used_at = time.monotonic()
        return found


class _AsyncPatient:
    """_Patient for asyncio."""

    first: First | None = None

    def __init__(self, *args: Any, namespace: str = "", **options: Any) -> None:  # noqa: ANN401 - redis-py's own signature
        super().__init__(*args, **options)
        _guard(self, _AsyncGuardedConnection, namespace)

    async def get_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return a working connection. Raises redis.ConnectionError or redis.TimeoutError."""
        if self.first:
            await self.first.wait_async()
        for wait_s in _CLOSED_WAITS_S:
            try:
                return await self._get_young(*args, **options)
            except redis.ConnectionError as error:
                if not _CLOSED.search(str(error)):
                    raise
            await asyncio.sleep(wait_s)
        return await self._get_young(*args, **options)

    async def _get_young(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
        """Return a connection, after closing those that are old or not needed."""
        for one in _superfluous(self):
            await one.disconnect(nowait=True)  # returns without giving way to other tasks
        found = await super().get_connection(*args, **options)  # type: ignore[misc]
        found.used_at = time.monotonic()
        return found


class PatientPool(_Patient, redis.ConnectionPool):
    """The connections to one server."""


class AsyncPatientPool(_AsyncPatient, redis_asyncio.ConnectionPool):
    """PatientPool for asyncio."""


class SentinelPool(_Patient, SentinelConnectionPool):
    """The connections to the primary that Sentinels name."""

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own signature
        """Close the connections; with those in use, the pool is closed, and the connections to Sentinels too."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                sentinel.close()


class AsyncSentinelPool(_AsyncPatient, AsyncSentinelConnectionPool):
    """SentinelPool for asyncio; loop_clients closes its connections to Sentinels."""
