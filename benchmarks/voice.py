"""A real voice: Piper, one passage of some 700 characters at a time; the other workers idle.

*first chunk* runs from before `enqueue` to the first audio in a waiting consumer's hands: a short first segment, spoken
whole. The *real-time factor* is the worker's own: seconds of work a second of audio. Both are the machine's more than
ours. Skipped, with the worker's reason, where Piper or a voice is not installed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from consumer import Consumer, consumers, listen_all
from figures import Figure, Samples, alternate
from stage import wait_done
from voxspool.protocol.jobs import JobSpec
from voxspool_worker.engines.benchmark import PASSAGE

if TYPE_CHECKING:
    from stage import Stage, Voxspool


def piper(stage: Stage, rounds: int) -> list[Figure]:
    """Measure Piper. Raises StartError where it cannot be."""
    voxspool = stage.voxspool_worker("piper")
    with consumers(stage.url, 1) as listening:
        _speak(voxspool, listening, "Ready.")
        return alternate(rounds, {voxspool.who: partial(_speak, voxspool, listening, PASSAGE)})


def _speak(voxspool: Voxspool, listening: list[Consumer], text: str) -> Samples:
    """Measure one job."""
    job_id = JobSpec("").id
    listen_all(listening, job_id)
    before_ns = time.monotonic_ns()
    speech = voxspool.client.enqueue(text, id=job_id)
    first = listening[0].heard()[0]
    wait_done(voxspool.redis, job_id)
    factor = speech.wait().real_time_factor or 0.0
    return {"piper first chunk": [(first.at_ns - before_ns) / 1e6], "piper real-time factor": [factor]}
