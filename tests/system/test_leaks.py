"""After thousands of jobs a worker, a client and Redis hold what they held before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from tests.support.processes import until
from voxspool.protocol import keys
from voxspool.protocol.jobs import all_queue_names

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

JOBS = 2_000
ROUND = 250
"""Jobs that are enqueued at once; each is read to its end."""
UNSERVED = keys.UNSERVED.encode()
"""The hash in which workers note since when queues are not served. It has a field for a queue at most."""
FEW = 3
"""Threads, descriptors or connections that may be more: one may just be opening."""


class Held(NamedTuple):
    """What a process holds."""

    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Held:
        process = psutil.Process(pid)
        return cls(process.num_threads(), process.num_fds())


@pytest.mark.long
def test_after_2000_jobs_nothing_is_left_of_them(
    client: Client, db: redis.Redis, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker()
    for _ in range(2):  # pools and caches fill
        speak(client, ROUND)
    until(lambda: not [key for key in db.scan_iter() if b"{" in key], "the streams to expire")
    pids = (worker.process.pid, os.getpid())
    names, held = set(db.scan_iter()), [Held.of(pid) for pid in pids]
    connections, redis_bytes = len(db.client_list()), db.info("memory")["used_memory"]
    worker_bytes = psutil.Process(worker.process.pid).memory_info().rss

    for _ in range(JOBS // ROUND):
        speak(client, ROUND)

    until(lambda: set(db.scan_iter()) - {UNSERVED} <= names, "Redis to hold no other keys than before", 60)
    assert db.hlen(UNSERVED) <= len(all_queue_names())
    for before, pid in zip(held, pids, strict=True):
        until(lambda before=before, pid=pid: fits(Held.of(pid), before), f"{before}", 30)
    until(lambda: len(db.client_list()) <= connections + FEW, f"{connections} connections", 30)
    assert db.info("memory")["used_memory"] < redis_bytes + 2 * 2**20
    assert psutil.Process(worker.process.pid).memory_info().rss < worker_bytes + 20 * 2**20, "10 kB a job"


def speak(client: Client, jobs: int) -> None:
    """Enqueue jobs that Redis forgets after a second, and read each to its end."""
    texts = [f"Number {number}." for number in range(jobs)]
    for speech in client.enqueue_many(texts, engine="tone", keep_s=1):
        speech.wait(timeout_s=60)


def fits(now: Held, before: Held) -> bool:
    """Return whether a process holds as much as before."""
    return now.threads <= before.threads + FEW and now.descriptors <= before.descriptors + FEW
