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

if TYPE_CHECKING:
    from stage import Stage, Voxspool

PASSAGE = (
    "The lighthouse stood at the end of a long and narrow spit of sand. Every evening, an hour before dark, the keeper "
    "climbed its two hundred steps, wiped the salt from the glass, and lit the lamp. He had done so for thirty years, "
    "in calm and in storm, and he had never once been late. On clear nights he could see the lights of the harbour, "
    "and the small boats that came home one after another, low in the water and slow. On other nights there was "
    "nothing but rain. Then he sat by the stove with a book, and he listened to the wind; and now and again he put "
    "the book down, went to the window, and made sure that the light was still turning. It always was, and it was a "
    "comfort to him to know it."
)


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
