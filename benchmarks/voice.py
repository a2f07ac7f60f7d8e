"""Piper through the queue: one passage of about 700 characters at a time, while the other workers are idle.

*piper first chunk* is the time from the call of `enqueue` to the first audio at a waiting consumer; Piper synthesises
the whole first segment, which is short. *piper real-time factor* is reported by the worker: computing time divided
by audio duration. Both depend mostly on the machine. Skipped, with the reason, if Piper or a voice is not installed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.consumer import Consumer, consumers, start_reading
from benchmarks.figures import Figure, Samples, alternate
from benchmarks.testbed import wait_done
from voxspool.protocol.jobs import JobSpec
from voxspool_worker.engines.benchmark import PASSAGE

if TYPE_CHECKING:
    from benchmarks.testbed import Testbed, VoxspoolQueue


def piper(testbed: Testbed, rounds: int) -> list[Figure]:
    """Measure Piper. Raises StartError if Piper or a voice is not installed."""
    voxspool = testbed.voxspool_worker("piper")
    with consumers(testbed.url, 1) as readers:
        _speak(voxspool, readers, "Ready.")
        return alternate(rounds, {voxspool.who: partial(_speak, voxspool, readers, PASSAGE)})


def _speak(voxspool: VoxspoolQueue, readers: list[Consumer], text: str) -> Samples:
    """Return the samples of one job."""
    job_id = JobSpec("").id
    start_reading(readers, job_id)
    before_ns = time.monotonic_ns()
    speech = voxspool.client.enqueue(text, id=job_id)
    first = readers[0].arrivals()[0]
    wait_done(voxspool.redis, job_id)
    factor = speech.wait().real_time_factor or 0.0
    return {"piper first chunk": [(first.at_ns - before_ns) / 1e6], "piper real-time factor": [factor]}
