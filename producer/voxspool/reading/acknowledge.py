"""When a reader reports its position, and whether it does: only for jobs that are live or have a window.

`report` is the dialogue that sends a report. Reporter and AsyncReporter send the reports of all readers of a client,
beside the reading: a reader that pauses, or whose consumer is slow, is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError, RedisError, ResponseError

from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S, report_every_s
from voxspool.protocol.numbers import count_or_zero
from voxspool.reading.dialogue import Call, run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Never

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from voxspool.reading.dialogue import Dialogue

NOTED: Final = b"noted"
"""The script's reply if the job asks for reports and is not over."""
MOST_REPORTS: Final = 100
"""The most reports in one request: some milliseconds of work for Redis."""
_PASSING: Final = ("NoScript", "ReadOnly", "OutOfMemory", "MasterDown", "NOSCRIPT", "READONLY", "OOM", "MASTERDOWN")
"""Parts of the classes and the texts of refusals that pass: of a script's, Redis 6.2 has the code within the text."""


@cache
def script() -> str:
    """Return ack.lua."""
    return (files("voxspool.lua") / "ack.lua").read_text(encoding="utf-8")


@cache
def sha() -> str:
    """Return the name by which Redis knows ack.lua."""
    return hashlib.sha1(script().encode(), usedforsecurity=False).hexdigest()


class Acknowledgement:
    """The reports of one reader. They stop if the job does not ask for them or is over, or if Redis forbids them."""

    def __init__(self, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.job = job
        self._clock = clock
        self._every_s = LONGEST_REPORT_S
        self._due = clock() + self._every_s
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

    def ask(self, pipeline: Any) -> None:  # noqa: ANN401 - a plain or an asyncio pipeline
        """Queue the two commands whose replies `note` reads."""
        control = keys.control(self.job)
        pipeline.evalsha(sha(), 2, control, keys.acknowledged(self.job), self.pos, keys.ACKNOWLEDGED_TTL_S)
        pipeline.hmget(control, "state", "live_s")

    def note(self, said: Any, about: Any) -> None:  # noqa: ANN401 - replies or errors of Redis
        """Note the script's reply, and what Redis knows of the job: `live_s` as soon as it has begun."""
        if isinstance(said, ResponseError) and not _passes(said):
            self.wanted = False  # Redis says in several ways that a user may not run a command of the script
        elif isinstance(said, bytes):
            self.wanted = said == NOTED
        if isinstance(about, list) and about[0]:
            self._every_s = report_every_s(count_or_zero(about[1]) or None)
        self.postpone()

    def postpone(self) -> None:
        """Postpone the next report by the interval."""
        self._due = self._clock() + self._every_s


def report(acks: Sequence[Acknowledgement]) -> Dialogue[Never, None]:
    """Report with one request how far readers are. After an error of Redis that passes, the next report is due."""
    try:
        replies = yield Call(partial(_send, acks))
        if any(isinstance(reply, NoScriptError) for reply in replies):
            yield Call(lambda redis: redis.script_load(script()))
            replies = yield Call(partial(_send, acks))
    except RedisError as error:
        replies = [error] * (2 * len(acks))
    for ack, said, about in zip(acks, replies[::2], replies[1::2], strict=True):
        ack.note(said, about)


def _send(acks: Sequence[Acknowledgement], redis: Any) -> Any:  # noqa: ANN401 - a plain or an asyncio client, untyped replies
    pipeline = redis.pipeline(transaction=False)
    for ack in acks:
        ack.ask(pipeline)
    return pipeline.execute(raise_on_error=False)


def _passes(refusal: ResponseError) -> bool:
    """Return whether a refusal of the script is one that passes."""
    return any(part in f"{type(refusal).__name__} {refusal}" for part in _PASSING)


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
        while due := self._next():
            try:
                run(report(due), self._redis)
            except Exception:  # noqa: BLE001 - where a client is closed meanwhile, redis-py's parsers raise anything
                _postpone(due)

    def _next(self) -> list[Acknowledgement]:
        """Wait for reports that are due; return none, and forget this thread, if no reader needs any."""
        with self._changed:
            while (wait_s := _due_in_s(self._open)) is not None:
                if due := _due(self._open):
                    return due
                self._changed.wait(wait_s)
            self._thread = None
            return []


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
        while (wait_s := _due_in_s(self._open)) is not None:
            self._changed.clear()
            if due := _due(self._open):
                try:
                    await run_async(report(due), self._redis)
                except Exception:  # noqa: BLE001 - see Reporter
                    _postpone(due)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()


def _due_in_s(acks: list[Acknowledgement]) -> float | None:
    """Return the time until a report is due, in seconds; None if no reader has to report."""
    return min((ack.due_in_s for ack in acks if ack.wanted), default=None)


def _due(acks: list[Acknowledgement]) -> list[Acknowledgement]:
    """Return the readers whose reports are due, for one request."""
    return [ack for ack in acks if ack.due][:MOST_REPORTS]


def _postpone(acks: list[Acknowledgement]) -> None:
    """Postpone the next report of each reader by its interval."""
    for ack in acks:
        ack.postpone()
