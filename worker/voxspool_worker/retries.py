"""Repeat a Redis command while Redis refuses to write because it is at its memory limit.

Readers free memory as they finish, so a full Redis fails no job: its writers wait.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar

from redis.exceptions import ResponseError

from voxspool.connections import connection

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.1
"""Wait before the second call, in seconds; each further wait is twice as long."""
LONGEST_WAIT_S: Final = 2.0
"""Longest wait between two calls, in seconds."""

_Result = TypeVar("_Result")


def retry_while_redis_is_full(act: Callable[[], _Result], wait: Callable[[float], object], about: str) -> _Result:
    """Call `act` and return its result; call it again while Redis has no memory for it.

    `wait` waits for the number of seconds that it receives; an exception from it ends the retries. `about` identifies
    the caller in the log, as in "job=chapter-1". Passes on every other error of `act`.
    """
    waited_s, wait_s = 0.0, FIRST_WAIT_S
    while True:
        try:
            result = act()
        except ResponseError as error:
            if not connection.is_full(error):
                raise
            if not waited_s:
                log.warning("redis.full %s error=%s", about, error)
            wait(wait_s)
            waited_s, wait_s = waited_s + wait_s, min(2 * wait_s, LONGEST_WAIT_S)
        else:
            if waited_s:
                log.info("redis.has_room %s waited_s=%.1f", about, waited_s)
            return result
