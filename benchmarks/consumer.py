"""A consumer in a process of its own: reads a job with Reader and notes when each audio entry came.

Times are nanoseconds of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool import connection
from voxspool.protocol.stream import Audio
from voxspool.reading.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

BLOCKED_S: Final = 0.003
"""From a consumer's "ready" to its XREAD being asleep in Redis, in seconds."""


class Arrival(NamedTuple):
    """When an audio entry was in the consumer's hands, and the first bytes of its audio."""

    at_ns: int
    head: bytes


class Consumer:
    """The parent's end of a consumer."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=consume, args=(theirs, url), daemon=True)
        self._process.start()
        theirs.close()

    def listen(self, job_id: str) -> None:
        """Let it read a job, and give the word when it waits."""
        self._pipe.send(job_id)
        self._pipe.recv()

    def heard(self) -> list[Arrival]:
        """Return what it read, once the job is over."""
        return [Arrival(*arrival) for arrival in self._pipe.recv()]

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.join()


@contextmanager
def consumers(url: str, count: int) -> Iterator[list[Consumer]]:
    """Yield that many consumers, and end them."""
    with ExitStack() as stack:
        started = [Consumer(url) for _ in range(count)]
        for consumer in started:
            stack.callback(consumer.close)
        yield started


def listen_all(listeners: list[Consumer], job_id: str) -> None:
    """Let consumers read a job; return when all of them wait in Redis."""
    for listener in listeners:
        listener.listen(job_id)
    time.sleep(BLOCKED_S)


def consume(pipe: Connection, url: str) -> None:
    """Read one job after another until the parent hangs up: the body of the process."""
    redis = connection.connect(url)
    while True:
        try:
            job_id = pipe.recv()
        except EOFError:
            return
        redis.ping()  # connected before the clock starts
        pipe.send("ready")
        entries = Reader(redis, job_id).read(timeout_s=60)
        pipe.send(
            [(time.monotonic_ns(), received.entry.pcm[:8]) for received in entries if isinstance(received.entry, Audio)]
        )
