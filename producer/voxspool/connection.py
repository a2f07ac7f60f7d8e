"""Connections to Redis, for both packages: the client's options, the oldest server, and errors in one clear line.

It uses URLs and versions, not keys. Messages show a URL without its password.
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
    from collections.abc import Callable, Iterator

T = TypeVar("T")
C = TypeVar("C", redis.Redis, redis_asyncio.Redis)

_KINDS: Final[dict[type, str]] = {redis.Redis: "redis.Redis", redis_asyncio.Redis: "redis.asyncio.Redis"}
"""The clients of redis-py, as their users name them."""

OLDEST: Final = (6, 2)
"""LMOVE and streams' exclusive ranges came with Redis 6.2 (February 2021)."""
TIMEOUT_S: Final = 5.0
"""How long a connect or a reply may take, in seconds; longer than any BLOCK that we ask for."""
LEAST_TIMEOUT_S: Final = 2.0
"""The shortest socket timeout of a client that a program makes itself, in seconds: a reader lets Redis block for one
second (reading.reader.BLOCK_MS)."""
FIRST_S: Final = 1.5
"""How long a server that has never answered may take for its first answer, in seconds: perhaps there is none."""
RETRIES: Final = 10
"""With waits of up to 2 s this outlasts a restart of Redis. Only for what may be sent twice."""
_FULL: Final = "command not allowed when used memory"
"""What Redis says at its memory's limit, after its code OOM; from a script it stands in the middle of the message."""
_CLOSED: Final = re.compile("closed by server|Error while reading")
"""What redis-py says of a connection that was there."""
_CLOSED_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4)
_QUERY_PASSWORD: Final = re.compile(r"(?i)(password=)[^&]*")
MOST_CONNECTIONS: Final = 10_000
"""Of one client. Each reader that waits holds one, and redis-py's own limit would turn the 101st away; Redis itself
takes 10,000."""
_OPTIONS: Final[dict[str, Any]] = {
    "max_connections": MOST_CONNECTIONS,
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "encoding_errors": "surrogateescape",  # an id that anybody pushed goes back as it came, whatever its bytes
}


def connect(url: str, *, retries: int = RETRIES, first_answer: bool = False) -> redis.Redis:
    """Make a client; nothing is sent yet. Raises RedisUnavailableError for a URL that is none.

    With `first_answer` its first command fails within FIRST_S where nobody answers; the later ones are tried again.
    """
    try:
        pool = PatientPool.from_url(url, **options(retries))
    except ValueError:
        raise _no_url(url) from None  # the reason may quote what must not be shown, and a traceback prints a cause
    pool.first = FirstAnswer(url) if first_answer else None
    return redis.Redis.from_pool(pool)


def made_by(factory: Callable[[], C], kind: type[C], named: str) -> C:
    """Return the client that a program's own factory makes, after checking it. Nothing is sent.

    `named` is the factory's name for messages. Raises RedisError for a client that voxspool cannot use.
    """
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
    """Make an asyncio client, as `connect` with `first_answer` makes one."""
    pool = AsyncPatientPool.from_url(url, **async_options())
    pool.first = FirstAnswer(url)
    return redis_asyncio.Redis.from_pool(pool)


class FirstAnswer:
    """True once a server has answered. Before that a request is not repeated.

    A thread asks: no timeout of a socket bounds the lookup of a host's name, or the tries of its several addresses.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._there = False

    def wait(self) -> None:
        """Wait for it. Raises redis.ConnectionError or redis.TimeoutError."""
        if not self._there:
            _bounded(self._ask)
            self._there = True

    async def wait_async(self) -> None:
        """Wait for it in a loop that goes on meanwhile."""
        if not self._there:
            asked = asyncio.wrap_future(background.start(self._ask))
            if not (await asyncio.wait({asked}, timeout=FIRST_S))[0]:
                raise _late()
            asked.result()
            self._there = True

    def _ask(self) -> None:
        """Ask. What any server answers, a refusal too, is an answer: the command that follows will say so."""
        with (
            contextlib.suppress(redis.ResponseError, redis.AuthenticationError, redis.BusyLoadingError),
            contextlib.closing(connect(self._url, retries=0)) as client,
        ):
            client.ping()


def _bounded(act: Callable[[], T]) -> T:
    """Do something that may take FIRST_S at the most. Raises redis.TimeoutError, and what it raises."""
    asked = background.start(act)
    try:
        return asked.result(FIRST_S)
    except TimeoutError:
        raise _late() from None


def _late() -> redis.TimeoutError:
    return redis.TimeoutError(f"no answer within {FIRST_S:g} s")


class PatientPool(redis.ConnectionPool):
    """Connections, though Redis closes one that was just made: it does when it is restarted twice in a moment.

    redis-py tries a command again, but not to get the connection for it. That sends nothing: it may be done at will.
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
    """The same for asyncio."""

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
    """Return the keyword arguments of a client."""
    return _OPTIONS | {"retry": Retry(_backoff(retries), retries)}


def async_options(retries: int = RETRIES) -> dict[str, Any]:
    """Return the keyword arguments of an asyncio client."""
    # Without a timeout of redis-py's: see reading.dialogue.
    return _OPTIONS | {"socket_timeout": None, "retry": AsyncRetry(_backoff(retries), retries)}


def _backoff(retries: int) -> AbstractBackoff:
    """Wait longer after each try."""
    return ExponentialWithJitterBackoff(base=0.05, cap=2.0) if retries else NoBackoff()


def check(url: str) -> str:
    """Return the server's version, asked for once, within FIRST_S. Raises RedisUnavailableError or RedisTooOldError."""

    def ask() -> str:
        with contextlib.closing(connect(url, retries=0)) as client:
            return str(client.info("server").get("redis_version"))

    try:
        with translated(url):
            version = _bounded(ask)
    except (TypeError, UnicodeError):  # an option or a host name that only the first connect looks at
        raise _no_url(url) from None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        raise RedisUnavailableError(_no_redis(url, "it does not say its version"))
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RedisTooOldError(
            f"Redis at {shown(url)} is version {version}; voxspool needs {oldest} or later; name another with --redis "
            "or VOXSPOOL_REDIS_URL"
        )
    return version


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into ours."""
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
    """Whether Redis refused to write because it is at its memory's limit."""
    return _FULL in str(error)


def _no_url(url: str) -> RedisUnavailableError:
    """Return the error for a URL that cannot be used."""
    return RedisUnavailableError(
        f"{shown(url)!r} is not a Redis URL; write it like redis://localhost:6379/0", wrong_value=True
    )


def _no_redis(url: str, why: str) -> str:
    """Return the message for a URL at which a program answers that is not Redis."""
    return f"what answers at {shown(url)} is no Redis ({why}); name a Redis with --redis or VOXSPOOL_REDIS_URL"


def _path_hint(url: str) -> str:
    """Return how to write a path in a URL, if the path may be the reason for a failure; else an empty string."""
    if url.startswith("unix:") and any(mark in url for mark in "#?%"):
        return "; in the path of the URL write % as %25, # as %23 and ? as %3F"
    return ""


def _refused(url: str, error: Exception) -> str:
    """Return the message for a server that refused the login."""
    why = "it wants a password" if "NOAUTH" in str(error) or "HELLO must" in str(error) else error
    return (
        f"Redis at {shown(url)} did not let us in ({why}); put user and password into the URL, with --redis or "
        "VOXSPOOL_REDIS_URL: redis://USER:PASSWORD@HOST:6379/0"
    )


def shown(url: str) -> str:
    """Return a URL as it may be shown: without its password, however broken it is."""
    url = _QUERY_PASSWORD.sub(r"\1***", url)
    head, at, place = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    if not at:
        return url
    if not slashes:
        return f"***@{place}"  # whatever stands before the place may be a password
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{place}"
