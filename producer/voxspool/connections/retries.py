"""redis-py's retries of a request, within a time that the caller sets.

redis-py counts tries: ten of them take ten seconds where connections are refused, and a minute where no reply comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

TRY_S: Final = 5.0
"""The longest time for one try of a request in asyncio, in seconds; longer than any BLOCK that is asked for."""
_last_try_s: ContextVar[float] = ContextVar("last_try_s", default=math.inf)
"""When the last try may begin, by the monotonic clock."""


@contextlib.contextmanager
def retrying_for(seconds: float) -> Iterator[None]:
    """Limit the time, in seconds, in which requests of the block are retried. A try that has begun is not stopped."""
    token = _last_try_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _last_try_s.reset(token)


class TimedRetry(Retry):
    """Retries within the time of `retrying_for`."""

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **options: Any) -> T:  # noqa: ANN401 - as in each version of redis-py
        """Return the reply. Raises redis.ConnectionError or redis.TimeoutError after the last try."""

        def failed(error: Exception, *count: int) -> None:
            fail(error, *count)
            if _is_late():
                raise error

        return super().call_with_retry(do, failed, *args, **options)


class AsyncTimedRetry(AsyncRetry):
    """TimedRetry for asyncio, where each try takes TRY_S at the longest.

    A connection may be half-open: its other end is gone, and nothing says so. Then the next try uses another one.
    redis-py's own timeout uses asyncio.wait_for, which before Python 3.12 sometimes swallows a cancellation.
    """

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        *args: Any,  # noqa: ANN401 - as above
        **options: Any,  # noqa: ANN401 - as above
    ) -> T:
        """Return the reply. Raises redis.ConnectionError or redis.TimeoutError after the last try."""

        async def failed(error: Exception, *count: int) -> None:
            await fail(error, *count)
            if _is_late():
                raise error

        async def once() -> T:
            task = asyncio.ensure_future(do())
            try:
                if not (await asyncio.wait({task}, timeout=TRY_S))[0]:
                    raise redis.TimeoutError(f"no reply within {TRY_S:g} s")
                return task.result()
            finally:
                task.cancel()

        return await super().call_with_retry(once, failed, *args, **options)


def _is_late() -> bool:
    """Return whether no further try may begin."""
    return time.monotonic() >= _last_try_s.get()
