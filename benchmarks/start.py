"""From enqueue to start, and from enqueue to the first audio in a consumer's hands: an idle worker, a job at a time.

*enqueue to start* runs from before `enqueue` is called to RQ's `started_at` of the job, which is set once RQ's record
of the start stands in Redis, directly before the job's function is called: by the same code of RQ for both sides.
*enqueue* is the call alone, *enqueue to first chunk* ends in another process, which waits on the stream with
`Reader`. The engine is `tone`, whose first chunk costs it next to nothing: what is shown is the way, not the voice.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rq.job import Job
from rq.serializers import JSONSerializer

from consumer import Consumer, consumers, listen_all
from figures import Figure, Samples, alternate
from stage import SimpleWorker, Voxspool, settled, wait_done
from voxspool.protocol.jobs import JobSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = "Good morning."


def starts(sides: Sequence[Voxspool | SimpleWorker], rounds: int, jobs: int) -> list[Figure]:
    """Measure enqueue to start, and enqueue, of both sides."""
    for side in sides:
        _starts(side, 5)  # scripts loaded, connections made
    return alternate(rounds, {side.who: partial(_starts, side, jobs) for side in sides})


def first_chunks(voxspool: Voxspool, rounds: int, jobs: int) -> list[Figure]:
    """Measure enqueue to first chunk."""
    with consumers(voxspool.client.url, 1) as listening:
        _first_chunk(voxspool, listening)
        return alternate(rounds, {voxspool.who: lambda: {
            "enqueue to first chunk": [_first_chunk(voxspool, listening) for _ in settled(jobs)]
        }})  # fmt: skip


def _starts(side: Voxspool | SimpleWorker, jobs: int) -> Samples:
    """Measure one round, in ms."""
    calls, starts = [], []
    for _ in settled(jobs):
        before, clock = datetime.now(UTC), time.perf_counter()
        job_id = side.enqueue()
        calls.append((time.perf_counter() - clock) * 1e3)
        wait_done(side.redis, job_id)
        started = Job.fetch(job_id, side.redis, serializer=JSONSerializer).started_at or before
        starts.append((started - before).total_seconds() * 1e3)
    return {"enqueue": calls, "enqueue to start": starts}


def _first_chunk(voxspool: Voxspool, listening: list[Consumer]) -> float:
    """Measure one job, in ms."""
    job_id = JobSpec("").id
    listen_all(listening, job_id)
    before_ns = time.monotonic_ns()
    voxspool.client.enqueue(TEXT, id=job_id)
    arrival = listening[0].heard()[0]
    wait_done(voxspool.redis, job_id)
    return (arrival.at_ns - before_ns) / 1e6
