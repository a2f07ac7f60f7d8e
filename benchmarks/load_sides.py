"""The two sides of `make load`: producers, a process each, and readers, threads in a few processes.

A producer enqueues each job when it is due, whatever becomes of the others. A reader takes the next job that is to be
read, reads its stream from the first entry to the last, and holds every sample against the reference. Times are seconds
of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.append(str(Path(__file__).parents[1]))  # the reference, and the judge, are the tests'

from tests.support.reference import tone
from voxspool import Client, Settings, StreamGapError, UnknownJobError
from voxspool.protocol.stream import STATES, TERMINAL, Audio, Begin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.queues import Queue

    from voxspool import Speech
    from voxspool.reading.reader import Received

VOICE: Final = "sine-live"
"""At the pace of speech, so that jobs sound side by side, as on a worker that is busy."""
AHEAD_S: Final = 0.05
"""How long before a job is enqueued its readers begin to wait for it, in seconds."""
PATIENCE_S: Final = 120.0
"""How long a reader waits for a job, in seconds: longer than any fault lasts."""

reference = lru_cache(tone)


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the load."""

    id: str
    text: str
    due_s: float


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that was accepted."""

    job: str
    asked_s: float
    accepted_s: float


@dataclass(slots=True)
class Reading:
    """One reader's way through one job."""

    job: str
    listening_s: float
    state: str = ""
    """How it ended; `gap` where entries were missing."""
    began_s: float | None = None
    audio_s: list[float] = field(default_factory=list)
    """When each entry with new samples was there."""
    again_s: float | None = None
    """When the first audio of a second attempt was there."""
    lost: int = 0
    """Samples that were not there, or not the right ones."""
    doubled: int = 0
    """Samples that were there again, though no new attempt had said so."""
    pos: int = 0
    """The next sample, for who writes a file."""
    had: int = 0
    """Samples it has, of all attempts."""


def produce(url: str, jobs: Sequence[Job], tickets: Queue[Job | None], said: Queue[Any], readers: int) -> None:
    """Enqueue jobs, each when it is due: the body of a producer's process."""
    client = Client(settings=Settings(redis_url=url))
    for job in jobs:
        wait_until(job.due_s - AHEAD_S)
        for _ in range(readers):
            tickets.put(job)
        wait_until(job.due_s)
        asked_s = time.monotonic()
        client.enqueue(job.text, id=job.id, voice=VOICE)
        said.put(Enqueued(job.id, asked_s, time.monotonic()))


def listen(url: str, readers: int, tickets: Queue[Job | None], said: Queue[Any]) -> None:
    """Read jobs with so many readers: the body of a process of readers."""
    client = Client(settings=Settings(redis_url=url))
    threads = [threading.Thread(target=_read_on, args=(client, tickets, said)) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read_on(client: Client, tickets: Queue[Job | None], said: Queue[Any]) -> None:
    """Read one job after another, until there are no more."""
    while job := tickets.get():
        said.put(read(client.speech(job.id), job.text))


def read(speech: Speech, text: str) -> Reading:
    """Read a job from its first entry to its last, even before it is there."""
    at = Reading(speech.id, time.monotonic())
    samples = reference(text)
    while not at.state:
        try:
            for received in speech.entries(timeout_s=PATIENCE_S):
                hear(at, received, samples)
        except StreamGapError:
            at.state = "gap"
        except UnknownJobError:
            if at.began_s or time.monotonic() > at.listening_s + PATIENCE_S:
                at.state = "gone"
    if at.state != "cancelled":
        at.lost += max(0, len(samples) // 2 - at.pos)
    return at


def hear(at: Reading, received: Received, samples: bytes) -> None:
    """Take an entry, by the rules of the protocol."""
    entry, now_s = received.entry, time.monotonic()
    if isinstance(entry, Begin):
        at.began_s = at.began_s or now_s
        at.lost += max(0, entry.pos - at.pos)
        at.pos = entry.pos
    elif isinstance(entry, Audio):
        at.lost += max(0, entry.pos - at.pos)
        at.doubled += max(0, at.pos - entry.pos)
        at.lost += 0 if samples.startswith(entry.pcm, 2 * entry.pos) else len(entry.pcm) // 2
        at.pos = entry.pos + len(entry.pcm) // 2
        if at.again_s is None and received.id.attempt > 1:
            at.again_s = now_s
        if at.pos > at.had:
            at.audio_s.append(now_s)
            at.had = at.pos
    elif isinstance(entry, TERMINAL):
        at.state = STATES[entry.type]


def wait_until(moment_s: float) -> None:
    """Wait for a moment of the monotonic clock."""
    time.sleep(max(0.0, moment_s - time.monotonic()))  # the load has a pace: each job its moment
