"""Latency from enqueueing to the start of a job and to its first audio, with an idle worker and one job at a time.

*enqueue to start* is the time from the call of `enqueue` to RQ's `started_at` of the job. RQ sets it after it has
stored the start in Redis, directly before it calls the job's function, with the same code for both workers. *enqueue*
is the duration of the call alone. *enqueue to first chunk* ends when a reader returns the first audio entry in another
process. The engine is `tone`, which needs almost no time for a chunk, so the figure is the latency of the queue.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rq.job import Job
from rq.serializers import JSONSerializer

from benchmarks.consumer import Consumer, consumers, start_reading
from benchmarks.figures import Figure, Samples, alternate
from benchmarks.testbed import SimpleWorkerQueue, VoxspoolQueue, paced, wait_done
from voxspool.protocol.jobs import JobSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = "Good morning."


def starts(queues: Sequence[VoxspoolQueue | SimpleWorkerQueue], rounds: int, jobs: int) -> list[Figure]:
    """Measure *enqueue to start* and *enqueue* of each queue, in ms."""
    for queue in queues:
        _starts(queue, 5)  # not measured, because scripts are loaded and connections made
    return alternate(rounds, {queue.who: partial(_starts, queue, jobs) for queue in queues})


def first_chunks(voxspool: VoxspoolQueue, rounds: int, jobs: int) -> list[Figure]:
    """Measure *enqueue to first chunk*, in ms."""
    with consumers(voxspool.client.url, 1) as readers:
        _first_chunk(voxspool, readers)
        return alternate(rounds, {voxspool.who: lambda: {
            "enqueue to first chunk": [_first_chunk(voxspool, readers) for _ in paced(jobs)]
        }})  # fmt: skip


def _starts(queue: VoxspoolQueue | SimpleWorkerQueue, jobs: int) -> Samples:
    """Return the samples of one round, in ms."""
    calls, starts = [], []
    for _ in paced(jobs):
        before, clock = datetime.now(UTC), time.perf_counter()
        job_id = queue.enqueue()
        calls.append((time.perf_counter() - clock) * 1e3)
        wait_done(queue.redis, job_id)
        started = Job.fetch(job_id, queue.redis, serializer=JSONSerializer).started_at or before
        starts.append((started - before).total_seconds() * 1e3)
    return {"enqueue": calls, "enqueue to start": starts}


def _first_chunk(voxspool: VoxspoolQueue, readers: list[Consumer]) -> float:
    """Return the time of one job, in ms."""
    job_id = JobSpec("").id
    start_reading(readers, job_id)
    before_ns = time.monotonic_ns()
    voxspool.client.enqueue(TEXT, id=job_id)
    arrival = readers[0].arrivals()[0]
    wait_done(voxspool.redis, job_id)
    return (arrival.at_ns - before_ns) / 1e6
