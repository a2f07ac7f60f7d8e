"""Why a job waits: its queue is paused, or no live worker serves it. Readers warn of it, commands print it.

It uses the workers' cards and the set of paused queues. It does not read streams.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from voxspool import workers
from voxspool.connections.urls import shown
from voxspool.protocol import keys
from voxspool.protocol.jobs import AUTO, ENGINES, engine_of
from voxspool.reading.dialogue import Call
from voxspool.suggestions import near

if TYPE_CHECKING:
    from typing import Never

    from voxspool.reading.dialogue import Dialogue
    from voxspool.workers import WorkerCard

FIRST_LOOK: Final = 2
"""A reader looks for a worker after this many silent seconds in a row."""
LOOK_EVERY: Final = 5
"""And again after this many more. A look reads the cards of all workers."""


class NoWorkerWarning(UserWarning):
    """A reader waits for a job that no live worker takes; the text says what to do. The job stays in its queue.

    A reader gives it once, after two seconds, by Python's `warnings`: a filter for this class silences it.
    """


class RedisAwayWarning(UserWarning):
    """A reader waits for a Redis that no longer answers; the job goes on. It ends with the time limit of its caller.

    A reader gives it once, by Python's `warnings`: a filter for this class silences it.
    """


class Absence:
    """Warns once for a reader that Redis is away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._warned = False

    def warn(self, error: RedisError) -> None:
        """Issue a RedisAwayWarning, the first time only."""
        if not self._warned:
            self._warned = True
            why = f"no Redis answers at {shown(self._url)} ({error}); waiting until it is back"
            warnings.warn(why, RedisAwayWarning, stacklevel=callers_level())


class Watch:
    """The silent seconds of one reader, and whether it has warned."""

    def __init__(self) -> None:
        self._silent = 0
        self._warned = False

    def due(self, state: str) -> bool:
        """Return whether to look for a worker now. Call it after each silent second, with the state of the job."""
        self._silent = self._silent + 1 if state == "queued" else 0
        return not self._warned and self._silent >= FIRST_LOOK and (self._silent - FIRST_LOOK) % LOOK_EVERY == 0

    def heard(self) -> None:
        """Start the count again, since an entry came."""
        self._silent = 0

    def warn(self, why: str | None) -> None:
        """Issue a NoWorkerWarning with the reason; do nothing if a worker serves the queue (None)."""
        if why is not None:
            self._warned = True
            warnings.warn(why, NoWorkerWarning, stacklevel=callers_level())


def why_unserved(url: str, queue: str) -> Dialogue[Never, str | None]:
    """Return in one line why no worker takes jobs from a queue, and what to do; None if a live worker serves it.

    None, too, if Redis cannot be asked, as a warning must not end a wait; and for a queue that is not voxspool's.
    """
    engine = engine_of(queue)
    if engine is None:
        return None
    try:
        paused, members = yield Call(_ask_paused_and_workers)
        names = workers.names_of(members)
        live = workers.cards(names, (yield Call(partial(workers.ask_cards, names))))
    except RedisError:
        return None
    if queue.encode() in paused:
        return f"the queue {queue} is paused; the job waits. Let it go on: voxspool resume {queue}"
    if any(queue in card.queues for card in live):
        return None
    option = "" if engine == AUTO else f" --engine {engine}"
    return (
        f"no live worker serves the queue {queue}{_meant(engine, live)}; the job waits. "
        f"Start one: voxspool-worker run{option}{_redis_option(url)}"
    )


def _redis_option(url: str) -> str:
    """Return the option that names this Redis to a worker; empty for a Sentinel's service, which no URL names."""
    return f" --redis {shlex.quote(shown(url))}" if "://" in url else ""


def _ask_paused_and_workers(redis: Any) -> Any:  # noqa: ANN401 - a plain or an asyncio client, untyped replies
    pipeline = redis.pipeline(transaction=False)
    pipeline.smembers(keys.PAUSED)
    pipeline.smembers(keys.WORKERS)
    return pipeline.execute()


def _meant(engine: str, live: list[WorkerCard]) -> str:
    """Return ` (did you mean the engine …?)` if the engine is not one of voxspool's and its name is like another's."""
    found = [] if engine in (AUTO, *ENGINES) else near(engine, {*ENGINES, *(card.engine for card in live)})
    return f" (did you mean the engine {' or '.join(found)}?)" if found else ""


def callers_level() -> int:
    """Return the `stacklevel` of the code that reads: the first frame outside this package."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - warnings' own way, before Python 3.12's skip_file_prefixes
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "voxspool":
        level, frame = level + 1, frame.f_back
    return level
