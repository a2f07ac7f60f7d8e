"""A consumer in its own process: it reads jobs and records the arrival time of each audio entry.

Times are nanoseconds of the monotonic clock, which is the same in all processes of a machine.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.connections import connection
from voxspool.protocol.stream import Audio
from voxspool.reading.acknowledge import Acknowledgement
from voxspool.reading.dialogue import stream
from voxspool.reading.follow import read_entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

BLOCKED_S: Final = 0.003
"""Time from a consumer's "ready" until its XREAD blocks in Redis, in seconds."""


class Arrival(NamedTuple):
    """The arrival of an audio entry."""

    at_ns: int
    head: bytes
    """The first 8 bytes of the audio."""


class Consumer:
    """A consumer process, as its parent controls it."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=consume, args=(theirs, url), daemon=True)
        self._process.start()
        theirs.close()

    def start_reading(self, job_id: str) -> None:
        """Send a job to the process, and wait until it is about to read."""
        self._pipe.send(job_id)
        self._pipe.recv()

    def arrivals(self) -> list[Arrival]:
        """Wait for the end of the job, and return its audio entries."""
        return [Arrival(*arrival) for arrival in self._pipe.recv()]

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


@contextmanager
def consumers(url: str, count: int) -> Iterator[list[Consumer]]:
    """Yield `count` consumers, and end them afterwards."""
    with ExitStack() as stack:
        started = [Consumer(url) for _ in range(count)]
        for consumer in started:
            stack.callback(consumer.close)
        yield started


def start_reading(readers: list[Consumer], job_id: str) -> None:
    """Make all consumers read a job; return when they are blocked in Redis."""
    for reader in readers:
        reader.start_reading(job_id)
    time.sleep(BLOCKED_S)


def consume(pipe: Connection, url: str) -> None:
    """Read one job after another until the parent closes the pipe. Main function of the process."""
    redis = connection.connect(url)
    while True:
        try:
            job_id = pipe.recv()
        except EOFError:
            return
        redis.ping()  # connects before the measurement starts
        pipe.send("ready")
        entries = stream(read_entries(Acknowledgement(job_id), url, timeout_s=60), redis)
        pipe.send(
            [(time.monotonic_ns(), received.entry.pcm[:8]) for received in entries if isinstance(received.entry, Audio)]
        )
