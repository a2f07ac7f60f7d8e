"""How to reach Redis, for both sides: the client's options, the oldest server, and errors in one clear line.

Knows URLs and versions, not keys. A password never leaves this module: every message shows the URL without it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from voxspool.errors import RedisTooOldError, RedisUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST: Final = (6, 2)
"""LMOVE and streams' exclusive ranges came with Redis 6.2 (February 2021)."""
TIMEOUT_S: Final = 5.0
"""How long a connect or a reply may take, in seconds; longer than any BLOCK that we ask for."""
RETRIES: Final = 10
"""With waits of up to 2 s this outlasts a restart of Redis. Only for what may be sent twice."""
_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}


def connect(url: str, *, retries: int = RETRIES) -> redis.Redis:
    """Make a client; nothing is sent yet. Raises RedisUnavailableError for a URL that is none."""
    try:
        return redis.Redis.from_url(url, **options(retries))
    except ValueError as error:
        raise RedisUnavailableError(
            f"{shown(url)!r} is not a Redis URL ({error}); write it like redis://localhost:6379/0"
        ) from error


def options(retries: int = RETRIES) -> dict[str, Any]:
    """Give the keyword arguments of a client."""
    return _TIMEOUTS | {"retry": Retry(_backoff(retries), retries)}


def async_options(retries: int = RETRIES) -> dict[str, Any]:
    """Give the keyword arguments of an asyncio client."""
    return _TIMEOUTS | {"retry": AsyncRetry(_backoff(retries), retries)}


def _backoff(retries: int) -> AbstractBackoff:
    """Wait longer after each try."""
    return ExponentialWithJitterBackoff(base=0.05, cap=2.0) if retries else NoBackoff()


def check(url: str) -> str:
    """Ask the server for its version, once and without patience; give it.

    Raises RedisUnavailableError or RedisTooOldError.
    """
    with translated(url), contextlib.closing(connect(url, retries=0)) as client:
        version = str(client.info("server")["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise RedisTooOldError(f"Redis at {shown(url)} is version {version}; voxspool needs {oldest} or later")
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
        ) from error
    except redis.ResponseError as error:
        if "NOAUTH" in str(error):
            raise RedisUnavailableError(_refused(url, error)) from error
        raise


def _refused(url: str, error: Exception) -> str:
    """Say that the server did not let us in."""
    return (
        f"Redis at {shown(url)} did not let us in ({error}); put user and password into the URL: "
        "redis://USER:PASSWORD@HOST:6379/0"
    )


def shown(url: str) -> str:
    """Give a URL as it may be shown: without its password."""
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
    except ValueError:
        return "(a URL that cannot be read)"
