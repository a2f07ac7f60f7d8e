"""When a reader reports its position, and whether it does: only for jobs that are live or have a window.

`report` is the dialogue that sends a report. Reporter and AsyncReporter send the reports of all readers of a client,
beside the reading: a reader that pauses, or whose consumer is slow, is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError, ResponseError

from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S, report_every_s
from voxspool.protocol.numbers import count_or_zero
from voxspool.reading.dialogue import Call, run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Never

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from voxspool.reading.dialogue import Dialogue

NOTED: Final = b"noted"
"""The script's reply if the job asks for reports and is not over."""
_PASSING: Final = ("NoScript", "ReadOnly", "OutOfMemory", "MasterDown", "NOSCRIPT", "READONLY", "OOM", "MASTERDOWN")
"""Parts of the classes and the texts of refusals that pass: of a script's, Redis 6.2 has the code within the text."""


@cache
def script() -> str:
    """Return ack.lua."""
    return (files("voxspool.lua") / "ack.lua").read_text(encoding="utf-8")


class Acknowledgement:
    """The reports of one reader. They stop if the job does not ask for them or is over, or if Redis forbids them."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.job = job
        self._clock = clock
        self._every_s = LONGEST_REPORT_S
        self._due = clock() + self._every_s
        self.every_is_known = False
        """False as long as the job has not begun: then Redis does not know its `live_s`."""
        self.wanted = True
        """False if no further report is to be sent."""
        self.pos = 0
        """The number of samples that were read."""

    @property
    def due_in_s(self) -> float:
        """The time until the next report is due, in seconds; 0 or less if it is due."""
        return self._due - self._clock()

    @property
    def due(self) -> bool:
        """True if the next report is due."""
        return self.wanted and self.due_in_s <= 0

    @property
    def call(self) -> dict[str, Any]:
        """The keys and arguments of the script, as register_script's object takes them."""
        return {
            "keys": [keys.control(self.job), keys.acknowledged(self.job)],
            "args": [self.pos, keys.ACKNOWLEDGED_TTL_S],
        }

    def heard(self, said: bytes) -> None:
        """Note the script's reply."""
        self.postpone()
        self.wanted = said == NOTED

    def live_for(self, live_s: int) -> None:
        """Note `live_s` of the job, which has begun; 0 if it has none."""
        self.every_is_known = True
        self._every_s = report_every_s(live_s or None)
        self.postpone()

    def postpone(self) -> None:
        """Let the next report be due after the interval."""
        self._due = self._clock() + self._every_s

    def forbidden(self) -> None:
        """Note that this reader may not run the script."""
        self.wanted = False


def report(ack: Acknowledgement) -> Dialogue[Never, None]:
    """Report how far a reader is. An error of Redis that passes postpones the report."""
    try:
        ack.heard((yield Call(lambda redis: redis.register_script(script())(**ack.call))))
        if ack.wanted and not ack.every_is_known:
            state, live_s = yield Call(lambda redis: redis.hmget(keys.control(ack.job), "state", "live_s"))
            if state:
                ack.live_for(count_or_zero(live_s))
    except RedisError as error:
        said = f"{type(error).__name__} {error}"
        if isinstance(error, ResponseError) and not any(part in said for part in _PASSING):
            ack.forbidden()  # Redis says in several ways that a user may not run a command of the script
        else:
            ack.postpone()


class Reporter:
    """Sends the reports of all readers of one client, in a thread that runs while there are any."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._changed = threading.Condition()
        self._open: list[Acknowledgement] = []
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def reporting(self, ack: Acknowledgement) -> Iterator[None]:
        """Report for one reader while the block runs."""
        with self._changed:
            self._open.append(ack)
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads of its parent
                self._thread = threading.Thread(target=self._run, name="voxspool-reports", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._open.remove(ack)
                self._changed.notify()

    def _run(self) -> None:
        """Send each report when it is due."""
        while ack := self._next():
            try:
                run(report(ack), self._redis)
            except Exception:  # noqa: BLE001 - where a client is closed meanwhile, redis-py's parsers raise anything
                ack.postpone()

    def _next(self) -> Acknowledgement | None:
        """Wait for a report that is due; return None, and forget this thread, if no reader needs any."""
        with self._changed:
            while first := _first(self._open):
                if first.due:
                    return first
                self._changed.wait(first.due_in_s)
            self._thread = None
            return None


class AsyncReporter:
    """Reporter for the readers of one event loop, in a task."""

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self._changed = asyncio.Event()
        self._open: list[Acknowledgement] = []
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def reporting(self, ack: Acknowledgement) -> Iterator[None]:
        """Report for one reader while the block runs, in the loop that runs now."""
        self._open.append(ack)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="voxspool-reports")
        try:
            yield
        finally:
            self._open.remove(ack)
            if not self._open and self._task:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        """Send each report when it is due; return if no reader needs any."""
        while first := _first(self._open):
            self._changed.clear()
            if first.due:
                try:
                    await run_async(report(first), self._redis)
                except Exception:  # noqa: BLE001 - see Reporter
                    first.postpone()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(first.due_in_s):
                    await self._changed.wait()


def _first(acks: list[Acknowledgement]) -> Acknowledgement | None:
    """Return the reader whose report is due first; None if none has to report."""
    return min((ack for ack in acks if ack.wanted), key=lambda ack: ack.due_in_s, default=None)
