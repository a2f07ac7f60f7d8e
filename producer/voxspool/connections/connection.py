"""Connections to Redis, for both packages: the client's options, the oldest server, and errors in one clear line.

This module uses no keys. Messages show a URL without its password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis import asyncio as redis_asyncio
from redis.asyncio.connection import parse_url as parse_url_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff, NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from voxspool import background
from voxspool.connections import pools as redis_pools
from voxspool.connections import urls as redis_urls
from voxspool.connections.pools import (
    AsyncPatientPool,
    AsyncSentinelPool,
    NoPrimaryError,
    PatientPool,
    SentinelPool,
    WrongServerError,
)
from voxspool.connections.retries import AsyncTimedRetry, TimedRetry
from voxspool.connections.urls import LEAST_TIMEOUT_S, UrlError, shown
from voxspool.errors import RedisError, RedisTooOldError, RedisUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
C = TypeVar("C", redis.Redis, redis_asyncio.Redis)

_KINDS: Final[dict[type, str]] = {redis.Redis: "redis.Redis", redis_asyncio.Redis: "redis.asyncio.Redis"}
"""A class of clients -> its public name."""

OLDEST: Final = (6, 2)
"""The oldest version of Redis. LMOVE and exclusive ranges of streams came with Redis 6.2 (February 2021)."""
TIMEOUT_S: Final = 5.0
"""The longest time for a connect or a reply, in seconds; longer than any BLOCK of a command."""
FIRST_S: Final = 1.5
"""The longest time for a server's first answer, in seconds. Short, since there may be no server at all."""
RETRIES: Final = 10
"""Tries of a request that may be sent twice. With waits of up to 2 s they outlast a restart of Redis."""
_FULL: Final = "command not allowed when used memory"
"""Part of Redis's error at its memory limit, after the code OOM; from a script it is in the middle of the message."""
MOST_CONNECTIONS: Final = 10_000
"""The most connections of one client. Each reader that waits holds one, and redis-py's own limit would refuse the
101st. Redis itself accepts 10,000."""
SENTINEL_S: Final = 0.5
"""The longest time for a connect to a Sentinel or its reply, in seconds: the next one is asked after it."""
_SENTINEL_OPTIONS: Final = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
_CLUSTER_ERRORS: Final = (
    redis.exceptions.AskError,
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MovedError,
    redis.exceptions.TryAgainError,
)
_CLUSTER: Final = re.compile("CROSSSLOT|hash to the same slot|in a cluster node")
"""What a node of a cluster writes in the error of a script or a transaction."""
_MAX_CLIENTS: Final = "max number of clients reached"
NEVER_EVICT: Final = "noeviction"
"""The only `maxmemory-policy` with which Redis deletes nothing that voxspool still needs."""
_OPTIONS: Final[dict[str, Any]] = {
    "max_connections": MOST_CONNECTIONS,
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "encoding_errors": "surrogateescape",  # an id from another program is sent back unchanged
}


def connect(url: str, *, retries: int = RETRIES, first_answer: bool = False, namespace: str = "") -> redis.Redis:
    """Return a client, without sending anything. Raises RedisUnavailableError for a text that is not a Redis URL.

    With `first_answer` its first command fails soon if no server answers; later commands are tried again.
    `namespace` is the name space of its keys; empty: none.
    """
    with _refused_urls(url):
        found = redis_urls.read(url, parse_url)
        made = options(retries) | found.options
        pool: PatientPool | SentinelPool
        if found.service:
            asked = found.sentinel_options | _SENTINEL_OPTIONS | {"retry": Retry(NoBackoff(), 0)}
            sentinels = redis.Sentinel(found.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
            pool = SentinelPool(found.service, sentinels, ssl=found.tls, namespace=namespace, **made)
        else:
            pool = PatientPool(namespace=namespace, **made)
        pool.connection_class(**pool.connection_kwargs)  # redis-py checks an option when it makes a connection
    pool.first = FirstAnswer(url) if first_answer else None
    return _prepared_for_rq(redis.Redis.from_pool(pool))


def connect_async(url: str, namespace: str = "") -> redis_asyncio.Redis:
    """Return an asyncio client, as `connect` does with `first_answer`."""
    with _refused_urls(url):
        found = redis_urls.read(url, parse_url_async)
        made = async_options() | found.options
        pool: AsyncPatientPool | AsyncSentinelPool
        if found.service:
            asked = found.sentinel_options | _SENTINEL_OPTIONS | {"retry": AsyncRetry(NoBackoff(), 0)}
            sentinels = redis_asyncio.Sentinel(found.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
            pool = AsyncSentinelPool(found.service, sentinels, ssl=found.tls, namespace=namespace, **made)
        else:
            pool = AsyncPatientPool(namespace=namespace, **made)
        pool.connection_class(**pool.connection_kwargs)
    pool.first = FirstAnswer(url)
    return redis_asyncio.Redis.from_pool(pool)


@contextlib.contextmanager
def _refused_urls(url: str) -> Iterator[None]:
    """Turn the errors of a URL that cannot be used into RedisUnavailableError."""
    try:
        yield
    except UrlError as error:
        raise _no_url(url, str(error)) from None
    except redis.RedisError as error:  # an option that redis-py refuses, such as ssl_cert_reqs=nonsense
        raise _no_url(url, str(error)) from None
    except (ValueError, TypeError, AttributeError, OSError):
        raise _no_url(url) from None  # the cause may quote the password, and a traceback prints causes


def _prepared_for_rq(client: C) -> C:
    """Tell RQ that a server has LMOVE, and return the client.

    RQ would ask for the server's version and raise ValueError for one such as `v7.2.0` or `unstable`. It keeps the
    answer in this attribute of the client. `check` refuses servers that are too old.
    """
    setattr(client, "__rq_redis_server_version", (*OLDEST, 0))
    return client


def made_by(factory: Callable[[], C], kind: type[C], named: str, namespace: str = "") -> C:
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
    try:
        redis_pools.guard(client, namespace)
    except ValueError as error:
        raise RedisError(
            f"the client that {named} returned shares its pool with a client of {error}; "
            "make a pool for each name space",
            wrong_value=True,
        ) from None
    return _prepared_for_rq(client)


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
            _bounded(self._ask, self._url)
            self.there = True

    async def wait_async(self) -> None:
        """Wait for the answer without blocking the event loop. Raises as `wait` does."""
        if not self.there:
            asked = asyncio.wrap_future(background.start(self._ask))
            if not (await asyncio.wait({asked}, timeout=_first_s(self._url)))[0]:
                raise _late(self._url)
            asked.result()
            self.there = True

    def _ask(self) -> None:
        """Send PING. A refusal is an answer too: the command that follows will meet it again, and report it."""
        with (
            contextlib.suppress(redis.ResponseError, redis.AuthenticationError, redis.BusyLoadingError),
            contextlib.closing(connect(self._url, retries=0)) as client,
        ):
            client.ping()


def _bounded(act: Callable[[], T], url: str) -> T:
    """Return what `act` returns within the time for a first answer.

    Raises redis.TimeoutError after that, and what `act` raises.
    """
    asked = background.start(act)
    try:
        return asked.result(_first_s(url))
    except TimeoutError:
        raise _late(url) from None


def _first_s(url: str) -> float:
    """Return the longest time for a first answer, in seconds; each Sentinel that may have to be asked adds to it."""
    return FIRST_S + SENTINEL_S * (url.count(",") + 1) if redis_urls.names_service(url) else FIRST_S


def _late(url: str) -> redis.TimeoutError:
    return redis.TimeoutError(f"no answer within {_first_s(url):g} s")


def options(retries: int = RETRIES) -> dict[str, Any]:
    """Return the keyword arguments of a client's connection pool."""
    return _OPTIONS | {"retry": TimedRetry(_backoff(retries), retries)}


def async_options(retries: int = RETRIES) -> dict[str, Any]:
    """Return the keyword arguments of an asyncio client's connection pool."""
    # AsyncTimedRetry has a timeout, and says why it is not this one.
    return _OPTIONS | {"socket_timeout": None, "retry": AsyncTimedRetry(_backoff(retries), retries)}


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
    """Return the server's version, soon. Raises RedisUnavailableError or RedisTooOldError."""

    def ask() -> dict[str, Any]:
        with contextlib.closing(connect(url, retries=0)) as client:
            about: dict[str, Any] = client.info("server")
            return about

    try:
        with translated(url):
            about = _bounded(ask, url)
            if "cluster" in (about.get("redis_mode"), about.get("server_mode")):  # the second is Valkey's
                raise WrongServerError(redis_pools.CLUSTER)
    except (TypeError, UnicodeError):  # a host name that is checked when redis-py connects
        raise _no_url(url) from None
    version = str(about.get("redis_version", "of an unknown version"))
    numbers = re.search(r"(\d+)\.(\d+)", version)  # `v7.2.0`, `7.4-rc1`, `unstable`: a fork's or a developer's build
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RedisTooOldError(
            f"Redis at {shown(url)} is version {version}; voxspool needs {oldest} or later; name another with --redis "
            "or VOXSPOOL_REDIS_URL"
        )
    return version


def why_evicting(memory: dict[str, Any], where: str) -> str | None:
    """Return a warning if Redis deletes keys when it is full, from INFO's section `memory`; None if it does not.

    None, too, if the server does not say. `where` is the address of the server, which may not hold a password.
    """
    policy = memory.get("maxmemory_policy", NEVER_EVICT)
    if policy == NEVER_EVICT:
        return None
    lost = "running and finished jobs" if str(policy).startswith("volatile") else "waiting, running and finished jobs"
    return (
        f"Redis at {where} has the maxmemory-policy {policy}: when it is full, it deletes {lost} without an error; "
        f"set it to {NEVER_EVICT}: redis-cli CONFIG SET maxmemory-policy {NEVER_EVICT}, and in redis.conf"
    )


def check_eviction(url: str) -> str | None:
    """Return what `why_evicting` says of a server; None if this user of Redis may not ask.

    Raises RedisUnavailableError.
    """
    with translated(url), contextlib.closing(connect(url)) as client:
        try:
            return why_evicting(client.info("memory"), shown(url))
        except redis.ResponseError:
            return None


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn redis-py's errors into RedisUnavailableError, with the address of the server."""
    try:
        yield
    except redis.RedisError as error:
        raise RedisUnavailableError(_explained(url, error)) from error


def _explained(url: str, error: redis.RedisError) -> str:
    """Return an error of redis-py as one line that says what to do."""
    where, text = shown(url), str(error)
    if why := _unusable(error):
        return f"Redis at {where} cannot be used: {why}"
    if isinstance(error, (redis.AuthenticationError, redis.exceptions.NoPermissionError)) or "NOAUTH" in text:
        return _refused(url, error)
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return _unreachable(url, error)
    if is_wrong_type(error):
        return (
            f"Redis at {where} has a key that another program overwrote; `voxspool status` names shared ones ({text})"
        )
    if isinstance(error, redis.ResponseError):
        return f"Redis at {where} refused a command: {text}"
    return _no_redis(url, type(error).__name__)


def _unusable(error: redis.RedisError) -> str:
    """Return why this kind of server cannot be used; empty for another error."""
    if isinstance(error, WrongServerError):
        return str(error)
    cluster = isinstance(error, _CLUSTER_ERRORS) or _CLUSTER.search(str(error))
    return redis_pools.CLUSTER if cluster else ""


def _unreachable(url: str, error: redis.RedisError) -> str:
    """Return the message for a server that does not answer, or has no room, or is not the primary."""
    where, text = shown(url), str(error)
    if isinstance(error, NoPrimaryError):
        return f"Redis at {where} is not the primary now ({text}); wait for the failover to end, or name the primary"
    if _MAX_CLIENTS in text:
        return (
            f"Redis at {where} accepts no more connections ({text}; {redis_pools.open_connections()} of them are of "
            "this process); raise its maxclients, or end programs that hold connections"
        )
    if isinstance(error, MasterNotFoundError | AsyncMasterNotFoundError):
        return (
            f"no Sentinel names a primary for {where}; start the Sentinels, or check their addresses and the name of "
            "the service"
        )
    return (
        f"no Redis answers at {where} ({text}); start one, or name another with --redis or VOXSPOOL_REDIS_URL"
        f"{_path_hint(url)}"
    )


def is_full(error: redis.RedisError) -> bool:
    """Return whether Redis refused to write because it is at its memory limit."""
    return _FULL in str(error)


def is_wrong_type(error: Exception) -> bool:
    """Return whether Redis refused a command because another program wrote a value of another type to its key."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE")


def _no_url(url: str, why: str = "") -> RedisUnavailableError:
    """Return the error for a URL that cannot be used. `why` must hold no password."""
    return RedisUnavailableError(
        f"{shown(url)!r} is not a Redis URL; write it like redis://localhost:6379/0{why and f'; {why}'}",
        wrong_value=True,
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
