"""Jobs that one producer enqueues a second, one by one (`Client.enqueue`) and many at once (`Client.enqueue_many`).

Each job has a text of 60 characters. The queue is paused, so that no worker takes jobs, and emptied after each round.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import OURS, Figure, Samples, alternate

if TYPE_CHECKING:
    from benchmarks.testbed import VoxspoolQueue

TEXT: Final = "The ferry to Amrum leaves the harbour at seven this evening."


def enqueue_rates(queue: VoxspoolQueue, rounds: int, jobs: int) -> list[Figure]:
    """Measure both ways."""
    paused = queue.client.pause(queue.queue.name)
    try:
        return alternate(rounds, {OURS: lambda: _rates(queue, jobs)})
    finally:
        queue.client.resume(*paused)


def _rates(queue: VoxspoolQueue, jobs: int) -> Samples:
    """Return the rates of one round."""
    began = time.perf_counter()
    speeches = [queue.client.enqueue(TEXT, engine=queue.engine) for _ in range(jobs)]
    single_s = time.perf_counter() - began
    began = time.perf_counter()
    speeches += queue.client.enqueue_many([TEXT] * jobs, engine=queue.engine)
    many_s = time.perf_counter() - began
    queue.redis.delete(queue.queue.key, *(f"rq:job:{speech.id}" for speech in speeches))
    return {"jobs enqueued a second": [jobs / single_s], "jobs enqueued a second, many at once": [jobs / many_s]}
