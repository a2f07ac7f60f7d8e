"""What the tests of faults do to jobs and workers, in a word each."""

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
"""The program that runs a worker whose engine breaks at certain words."""


def enqueue(client: Client, count: int, sentences: int, voice: str = LIVE, first: int = 0) -> dict[str, str]:
    """Enqueue jobs; give their texts by their ids."""
    texts = {f"job-{number}": passage(number, sentences) for number in range(first, first + count)}
    for job, text in texts.items():
        client.enqueue(text, id=job, voice=voice)
    return texts


def spoken_s(db: redis.Redis, job: str) -> float:
    """Return how much of a job is in its stream, in seconds."""
    return int(db.hget(keys.control(job), "pos") or 0) / RATE


def await_spoken(db: redis.Redis, jobs: Iterable[str], seconds: float) -> None:
    until(lambda: all(spoken_s(db, job) >= seconds for job in jobs), f"{seconds} s of {list(jobs)}")


def attempt_of(db: redis.Redis, job: str) -> int:
    return int(db.hget(keys.control(job), "attempt") or 0)


def deaths_of(db: redis.Redis, job: str) -> int:
    return int(db.hget(f"rq:job:{job}", "deaths") or 0)


def await_redis_clock(db: redis.Redis, seconds: int) -> None:
    """Wait until so much time has passed on Redis's clock: what leases are measured by."""
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
    """Readers in threads, from the start of each job to its end."""

    def __init__(self, client: Client, jobs: Iterable[str], each: int = 1) -> None:
        jobs = list(jobs)
        self._pool = ThreadPoolExecutor(len(jobs) * each)
        self._heard: dict[str, list[Future[bytes]]] = {
            job: [self._pool.submit(heard, client.speech(job)) for _ in range(each)] for job in jobs
        }

    def all_heard(self, job: str) -> set[bytes]:
        """Return what a job's readers heard; raise what one raised."""
        return {one.result(90) for one in self._heard[job]}

    def heard(self, job: str) -> bytes:
        """Return what a job's readers heard, who all heard the same."""
        (pcm,) = self.all_heard(job)
        return pcm


class Supervisor:
    """Keeps one worker alive: starts the next when one has gone."""

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self.worker = start()
        self.exits: list[int] = []

    def look(self) -> bool:
        """Start a worker if there is none; say whether one had gone."""
        code = self.worker.process.poll()
        if code is None:
            return False
        self.exits.append(code)
        self.worker = self._start()
        return True

    def until(self, condition: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
        """Wait on a condition, and look after the worker meanwhile."""
        until(lambda: not self.look() and condition(), what, limit_s)
