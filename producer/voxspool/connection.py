"""Connections to Redis, for both packages: the client's options, the oldest server, and errors in one clear line.

This module uses no keys. Messages show a URL without its password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis import asyncio as redis_asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from voxspool import background
from voxspool.errors import RedisError, RedisTooOldError, RedisUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
C = TypeVar("C", redis.Redis, redis_asyncio.Redis)

_KINDS: Final[dict[type, str]] = {redis.Redis: "redis.Redis", redis_asyncio.Redis: "redis.asyncio.Redis"}
"""A class of clients -> its public name."""

OLDEST: Final = (6, 2)
"""The oldest version of Redis. LMOVE and exclusive ranges of streams came with Redis 6.2 (February 2021)."""
TIMEOUT_S: Final = 5.0
"""The longest time for a connect or a reply, in seconds; longer than any BLOCK of a command."""
LEAST_TIMEOUT_S: Final = 2.0
"""The shortest socket timeout of a client that a program makes itself, in seconds: a reader lets Redis block for one
second (reading.reader.BLOCK_MS)."""
FIRST_S: Final = 1.5
"""The longest time for a server's first answer, in seconds. Short, since there may be no server at all."""
RETRIES: Final = 10
"""Tries of a request that may be sent twice. With waits of up to 2 s they outlast a restart of Redis."""
_FULL: Final = "command not allowed when used memory"
"""Part of Redis's error at its memory limit, after the code OOM; from a script it is in the middle of the message."""
_CLOSED: Final = re.compile("closed by server|Error while reading")
"""redis-py's errors for a connection that was open before."""
_CLOSED_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4)
"""The waits between tries to get a connection, in seconds."""
_QUERY_PASSWORD: Final = re.compile(r"(?i)(password=)[^&]*")
MOST_CONNECTIONS: Final = 10_000
"""The most connections of one client. Each reader that waits holds one, and redis-py's own limit would refuse the
101st. Redis itself accepts 10,000."""
_OPTIONS: Final[dict[str, Any]] = {
    "max_connections": MOST_CONNECTIONS,
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "encoding_errors": "surrogateescape",  # an id from another program is sent back unchanged
}


def connect(url: str, *, retries: int = RETRIES, first_answer: bool = False) -> redis.Redis:
    """Return a client, without sending anything. Raises RedisUnavailableError for a text that is not a Redis URL.

    With `first_answer` its first command fails within FIRST_S if no server answers; later commands are tried again.
    """
    try:
        pool = PatientPool.from_url(url, **options(retries))
    except ValueError:
        raise _no_url(url) from None  # the cause may quote the password, and a traceback prints causes
    pool.first = FirstAnswer(url) if first_answer else None
    return redis.Redis.from_pool(pool)


def made_by(factory: Callable[[], C], kind: type[C], named: str) -> C:
    """Return the client that a program's own factory makes, after checking it. Nothing is sent.

    `named` is the factory's name for messages. Raises RedisError for a client that voxspool cannot use.
    """
    if not callable(factory):
        raise RedisError(
            f"{named} is {type(factory).__module__}.{type(factory).__qualname__}; it must be a function that returns a "
            f"{_KINDS[kind]}; pass a URL as the first argument",
            wrong_value=True,
        )
    client = factory()
    if not isinstance(client, kind):
        raise RedisError(
            f"{named} returned {type(client).__module__}.{type(client).__qualname__}; it must return a {_KINDS[kind]}",
            wrong_value=True,
        )
    pool: Any = client.connection_pool
    if pool.get_encoder().decode_responses:
        raise RedisError(
            f"the client that {named} returned decodes replies, but audio is bytes; make it with "
            "decode_responses=False",
            wrong_value=True,
        )
    timeout_s = pool.connection_kwargs.get("socket_timeout")
    if timeout_s is not None and timeout_s < LEAST_TIMEOUT_S:
        raise RedisError(
            f"the client that {named} returned has a socket_timeout of {timeout_s:g} s, but a reader lets Redis block "
            f"for 1 s; make it with socket_timeout={TIMEOUT_S:g}",
            wrong_value=True,
        )
    return client


def address(client: redis.Redis) -> str:
    """Return the address of a client's server for messages: a URL without user and password, or a Sentinel service."""
    pool: Any = client.connection_pool
    options = pool.connection_kwargs
    if service := getattr(pool, "service_name", ""):
        return f"the Sentinel service {service}"
    if path := options.get("path"):
        return f"unix://{path}?db={options.get('db') or 0}"
    scheme = "rediss" if issubclass(pool.connection_class, redis.SSLConnection) else "redis"
    host = str(options.get("host", "localhost"))
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{options.get('port', 6379)}/{options.get('db') or 0}"


def connect_async(url: str) -> redis_asyncio.Redis:
    """Return an asyncio client, as `connect` does with `first_answer`."""
    pool = AsyncPatientPool.from_url(url, **async_options())
    pool.first = FirstAnswer(url)
    return redis_asyncio.Redis.from_pool(pool)


class FirstAnswer:
    """Waits for the first answer of a server, FIRST_S at the longest. Later calls return at once.

    A thread asks, since no timeout of a socket limits the lookup of a host name, or the tries of its several addresses.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.there = False
        """True if the server has answered."""

    def wait(self) -> None:
        """Wait for the answer. Raises redis.ConnectionError or redis.TimeoutError."""
        if not self.there:
            _bounded(self._ask)
            self.there = True

    async def wait_async(self) -> None:
        """Wait for the answer without blocking the event loop. Raises as `wait` does."""
        if not self.there:
            asked = asyncio.wrap_future(background.start(self._ask))
            if not (await asyncio.wait({asked}, timeout=FIRST_S))[0]:
                raise _late()
            asked.result()
            self.there = True

    def _ask(self) -> None:
        """Send PING. A refusal is an answer too: the command that follows will meet it again, and report it."""
        with (
            contextlib.suppress(redis.ResponseError, redis.AuthenticationError, redis.BusyLoadingError),
            contextlib.closing(connect(self._url, retries=0)) as client,
        ):
            client.ping()


def _bounded(act: Callable[[], T]) -> T:
    """Return what `act` returns within FIRST_S. Raises redis.TimeoutError after that, and what `act` raises."""
    asked = background.start(act)
    try:
        return asked.result(FIRST_S)
    except TimeoutError:
        raise _late() from None


def _late() -> redis.TimeoutError:
    return redis.TimeoutError(f"no answer within {FIRST_S:g} s")


class PatientPool(redis.ConnectionPool):
    """A pool that retries if Redis closes a new connection, as it does if it is restarted twice in a row.

    redis-py retries commands, but not getting the connection for them. That sends no command, so retrying is safe.
    """

    first: FirstAnswer | None = None

    def get_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return a working connection. Raises redis.ConnectionError or redis.TimeoutError."""
        if self.first:
            self.first.wait()
        for wait_s in _CLOSED_WAITS_S:
            try:
                return super().get_connection(*args, **options)
            except redis.ConnectionError as error:
                if not _CLOSED.search(str(error)):
                    raise
            time.sleep(wait_s)
        return super().get_connection(*args, **options)


class AsyncPatientPool(redis_asyncio.ConnectionPool):
    """PatientPool for asyncio."""

    first: FirstAnswer | None = None

    async def get_connection(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's own signature
        """Return a working connection. Raises redis.ConnectionError or redis.TimeoutError."""
        if self.first:
            await self.first.wait_async()
        for wait_s in _CLOSED_WAITS_S:
            try:
                return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call] # redis-py's decorator
            except redis.ConnectionError as error:
                if not _CLOSED.search(str(error)):
                    raise
            await asyncio.sleep(wait_s)
        return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call] # redis-py's decorator


def options(retries: int = RETRIES) -> dict[str, Any]:
    """Return the keyword arguments of a client's connection pool."""
    return _OPTIONS | {"retry": Retry(_backoff(retries), retries)}


def async_options(retries: int = RETRIES) -> dict[str, Any]:
    """Return the keyword arguments of an asyncio client's connection pool."""
    # redis-py's own timeout uses asyncio.wait_for, which before Python 3.12 sometimes swallows a cancellation.
    return _OPTIONS | {"socket_timeout": None, "retry": BoundedRetry(_backoff(retries), retries)}


class BoundedRetry(AsyncRetry):
    """Lets each try of a request take TIMEOUT_S at the longest.

    A connection may be half-open: its other end is gone, and nothing says so. Then the next try uses another one.
    """

    async def call_with_retry(self, do: Callable[[], Awaitable[T]], *args: Any, **options: Any) -> T:  # noqa: ANN401 - redis-py's own signature
        """Return the reply. Raises redis.ConnectionError or redis.TimeoutError after the last try."""

        async def once() -> T:
            task = asyncio.ensure_future(do())
            try:
                if not (await asyncio.wait({task}, timeout=TIMEOUT_S))[0]:
                    raise redis.TimeoutError(f"no reply within {TIMEOUT_S:g} s")
                return task.result()
            finally:
                task.cancel()

        return await super().call_with_retry(once, *args, **options)


def has_answered(client: Any) -> bool:  # noqa: ANN401 - a plain or an asyncio client
    """Return whether the server of a client is known to have answered it."""
    first = getattr(client.connection_pool, "first", None)
    return first is not None and first.there


def is_away(error: redis.RedisError) -> bool:
    """Return whether an error means that Redis does not answer now, and may answer again later."""
    refused = redis.AuthenticationError | redis.exceptions.AuthorizationError | redis.MaxConnectionsError
    away = redis.ConnectionError | redis.TimeoutError | redis.exceptions.MasterDownError
    return isinstance(error, away) and not isinstance(error, refused)


_ENDED: Final[set[str]] = set()
"""URLs of private servers that have ended."""


def declare_ended(url: str) -> None:
    """Note that a private server has ended, so that no reader waits for it."""
    _ENDED.add(url)


def has_ended(url: str) -> bool:
    """Return whether a server has ended for good."""
    return url in _ENDED


def _backoff(retries: int) -> AbstractBackoff:
    """Return redis-py's rule for the waits between tries: longer after each."""
    return ExponentialWithJitterBackoff(base=0.05, cap=2.0) if retries else NoBackoff()


def check(url: str) -> str:
    """Return the server's version, within FIRST_S. Raises RedisUnavailableError or RedisTooOldError."""

    def ask() -> str:
        with contextlib.closing(connect(url, retries=0)) as client:
            return str(client.info("server").get("redis_version"))

    try:
        with translated(url):
            version = _bounded(ask)
    except (TypeError, UnicodeError):  # an option or a host name that redis-py checks when it connects
        raise _no_url(url) from None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        raise RedisUnavailableError(_no_redis(url, "it reports no version"))
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RedisTooOldError(
            f"Redis at {shown(url)} is version {version}; voxspool needs {oldest} or later; name another with --redis "
            "or VOXSPOOL_REDIS_URL"
        )
    return version


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into RedisUnavailableError, with the address of the server."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise RedisUnavailableError(_refused(url, error)) from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise RedisUnavailableError(
            f"no Redis answers at {shown(url)} ({error}); start one, or name another with --redis or VOXSPOOL_REDIS_URL"
            f"{_path_hint(url)}"
        ) from error
    except redis.ResponseError as error:
        if "NOAUTH" in str(error):
            raise RedisUnavailableError(_refused(url, error)) from error
        raise RedisUnavailableError(f"Redis at {shown(url)} refused a command: {error}") from error
    except redis.RedisError as error:
        raise RedisUnavailableError(_no_redis(url, type(error).__name__)) from error


def is_full(error: redis.RedisError) -> bool:
    """Return whether Redis refused to write because it is at its memory limit."""
    return _FULL in str(error)


def is_wrong_type(error: Exception) -> bool:
    """Return whether Redis refused a command because another program wrote a value of another type to its key."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")


def _no_url(url: str) -> RedisUnavailableError:
    """Return the error for a URL that cannot be used."""
    return RedisUnavailableError(
        f"{shown(url)!r} is not a Redis URL; write it like redis://localhost:6379/0", wrong_value=True
    )


def _no_redis(url: str, why: str) -> str:
    """Return the message for a server that is not Redis."""
    return f"the server at {shown(url)} is not Redis ({why}); name a Redis with --redis or VOXSPOOL_REDIS_URL"


def _path_hint(url: str) -> str:
    """Return how to write a path in a URL, if the path may be the reason for a failure; else an empty string."""
    if url.startswith("unix:") and any(mark in url for mark in "#?%"):
        return "; in the path of the URL write % as %25, # as %23 and ? as %3F"
    return ""


def _refused(url: str, error: Exception) -> str:
    """Return the message for a server that refused the login."""
    why = "it requires a password" if "NOAUTH" in str(error) or "HELLO must" in str(error) else error
    return (
        f"Redis at {shown(url)} refused the login ({why}); put user and password into the URL, with --redis or "
        "VOXSPOOL_REDIS_URL: redis://USER:PASSWORD@HOST:6379/0"
    )


def shown(url: str) -> str:
    """Return a URL without its password, however broken the URL is."""
    url = _QUERY_PASSWORD.sub(r"\1***", url)
    head, at, place = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    if not at:
        return url
    if not slashes:
        return f"***@{place}"  # anything before the host may be a password
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{place}"
