"""The processes of `make load`: producers, one per process, and readers, as threads in a few processes.

A producer enqueues each job when it is due, regardless of the state of the others. A reader takes the next job, reads
its stream from the first entry to the last, and compares every sample with the reference. Times are seconds of the
monotonic clock, which is the same in all processes of a machine.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from tests.support.reference import tone
from voxspool import Client, Settings, StreamGapError, UnknownJobError
from voxspool.protocol.stream import STATES, TERMINAL, Audio, Begin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.queues import Queue

    from voxspool import Speech
    from voxspool.reading.reader import Received

VOICE: Final = "sine-live"
"""The voice of `tone` that is as slow as real time, so that jobs overlap as on a busy worker."""
LEAD_S: Final = 0.05
"""Time from the start of a job's readers to its enqueueing, in seconds."""
TIMEOUT_S: Final = 120.0
"""Maximum time that a reader waits for a job, in seconds: longer than any fault lasts."""

reference = lru_cache(tone)


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A job and the time at which a producer must enqueue it."""

    id: str
    text: str
    due_s: float


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that was enqueued: the times before and after the call of `enqueue`."""

    job: str
    called_s: float
    returned_s: float


@dataclass(slots=True)
class JobReading:
    """What one reader received of one job."""

    job: str
    started_s: float
    state: str = ""
    """The final state of the job; `gap` if entries were missing, `gone` if the job was not found."""
    began_s: float | None = None
    """Arrival of the first begin entry."""
    audio_s: list[float] = field(default_factory=list)
    """Arrival of each audio entry with new samples."""
    resumed_s: float | None = None
    """Arrival of the first audio entry of a second attempt."""
    lost: int = 0
    """Number of samples that are missing or wrong."""
    doubled: int = 0
    """Number of samples that were received twice without a begin entry that announces it."""
    pos: int = 0
    """Position of the next sample."""
    received: int = 0
    """Number of samples received, over all attempts."""


def produce(
    url: str, jobs: Sequence[LoadJob], to_read: Queue[LoadJob | None], results: Queue[Any], readers: int
) -> None:
    """Enqueue each job when it is due, and assign it to `readers` readers. Main function of a producer process."""
    client = Client(settings=Settings(redis_url=url))
    for job in jobs:
        wait_until(job.due_s - LEAD_S)
        for _ in range(readers):
            to_read.put(job)
        wait_until(job.due_s)
        called_s = time.monotonic()
        client.enqueue(job.text, id=job.id, voice=VOICE)
        results.put(Enqueued(job.id, called_s, time.monotonic()))


def read_jobs(url: str, readers: int, to_read: Queue[LoadJob | None], results: Queue[Any]) -> None:
    """Read jobs in `readers` threads. Main function of a reader process."""
    client = Client(settings=Settings(redis_url=url))
    threads = [threading.Thread(target=_read_jobs, args=(client, to_read, results)) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _read_jobs(client: Client, to_read: Queue[LoadJob | None], results: Queue[Any]) -> None:
    """Read one job after another until the producers have no more."""
    while job := to_read.get():
        results.put(read(client.speech(job.id), job.text))


def read(speech: Speech, text: str) -> JobReading:
    """Read a job from its first entry to its last. Wait for it if it does not exist yet."""
    reading = JobReading(speech.id, time.monotonic())
    samples = reference(text)
    while not reading.state:
        try:
            for received in speech.entries(timeout_s=TIMEOUT_S):
                apply_entry(reading, received, samples)
        except StreamGapError:
            reading.state = "gap"
        except UnknownJobError:
            if reading.began_s or time.monotonic() > reading.started_s + TIMEOUT_S:
                reading.state = "gone"
    if reading.state != "cancelled":
        reading.lost += max(0, len(samples) // 2 - reading.pos)
    return reading


def apply_entry(reading: JobReading, received: Received, samples: bytes) -> None:
    """Update a reading with an entry. `samples` is the reference of the whole job, s16le."""
    entry, now_s = received.entry, time.monotonic()
    if isinstance(entry, Begin):
        reading.began_s = reading.began_s or now_s
        reading.lost += max(0, entry.pos - reading.pos)
        reading.pos = entry.pos
    elif isinstance(entry, Audio):
        reading.lost += max(0, entry.pos - reading.pos)
        reading.doubled += max(0, reading.pos - entry.pos)
        reading.lost += 0 if samples.startswith(entry.pcm, 2 * entry.pos) else len(entry.pcm) // 2
        reading.pos = entry.pos + len(entry.pcm) // 2
        if reading.resumed_s is None and received.id.attempt > 1:
            reading.resumed_s = now_s
        if reading.pos > reading.received:
            reading.audio_s.append(now_s)
            reading.received = reading.pos
    elif isinstance(entry, TERMINAL):
        reading.state = STATES[entry.type]


def wait_until(moment_s: float) -> None:
    """Wait for a moment of the monotonic clock, in seconds."""
    time.sleep(max(0.0, moment_s - time.monotonic()))  # a fixed rate, whatever the state of the other jobs
