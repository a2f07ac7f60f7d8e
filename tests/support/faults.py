"""Enqueue jobs, wait for their progress, freeze processes and read in threads, for tests of faults."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import until
from tests.support.reference import passage
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client, Speech

LIVE = "sine-live"
RATE = 24_000
FAULTY = (str(Path(__file__).with_name("faulty.py")),)
"""The program that runs a worker whose engine fails at certain words."""


def enqueue(client: Client, count: int, sentences: int, voice: str = LIVE, first: int = 0) -> dict[str, str]:
    """Enqueue jobs, and return their texts by id."""
    texts = {f"job-{number}": passage(number, sentences) for number in range(first, first + count)}
    for job, text in texts.items():
        client.enqueue(text, id=job, voice=voice)
    return texts


def spoken_s(db: redis.Redis, job: str) -> float:
    """Return the duration of the audio in a job's stream, in seconds."""
    return int(db.hget(keys.control(job), "pos") or 0) / RATE


def await_spoken(db: redis.Redis, jobs: Iterable[str], seconds: float) -> None:
    until(lambda: all(spoken_s(db, job) >= seconds for job in jobs), f"{seconds} s of {list(jobs)}")


def attempt_of(db: redis.Redis, job: str) -> int:
    return int(db.hget(keys.control(job), "attempt") or 0)


def deaths_of(db: redis.Redis, job: str) -> int:
    return int(db.hget(f"rq:job:{job}", "deaths") or 0)


def await_redis_clock(db: redis.Redis, seconds: int) -> None:
    """Wait for some seconds by Redis's clock, which leases are measured by."""
    end = db.time()[0] + seconds
    until(lambda: db.time()[0] >= end, f"{seconds} s of Redis's clock", seconds + 30)


def freeze(process: WorkerProcess | RedisServer) -> None:
    assert process.process
    process.process.send_signal(signal.SIGSTOP)


def thaw(process: WorkerProcess | RedisServer) -> None:
    assert process.process
    process.process.send_signal(signal.SIGCONT)


def heard(speech: Speech) -> bytes:
    return b"".join(chunk.pcm for chunk in speech)


class Listeners:
    """Readers in threads. Each reads one job from its start to its end."""

    def __init__(self, client: Client, jobs: Iterable[str], each: int = 1) -> None:
        jobs = list(jobs)
        self._pool = ThreadPoolExecutor(len(jobs) * each)
        self._heard: dict[str, list[Future[bytes]]] = {
            job: [self._pool.submit(heard, client.speech(job)) for _ in range(each)] for job in jobs
        }

    def all_heard(self, job: str) -> set[bytes]:
        """Return the set of PCM data that the readers of a job got. Raise the error of a reader that failed."""
        return {one.result(90) for one in self._heard[job]}

    def heard(self, job: str) -> bytes:
        """Return the audio of a job. Assert that all its readers got the same."""
        (pcm,) = self.all_heard(job)
        return pcm


class Supervisor:
    """Keeps one worker running: starts a new one when it has exited."""

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self.worker = start()
        self.exits: list[int] = []

    def look(self) -> bool:
        """Start a new worker if the last one has exited. Return whether it had."""
        code = self.worker.process.poll()
        if code is None:
            return False
        self.exits.append(code)
        self.worker = self._start()
        return True

    def until(self, condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
        """Wait for a condition, and restart the worker whenever it exits."""
        until(lambda: not self.look() and condition(), what, limit_s)
