"""Redis memory for a minute of audio: 24 kHz from the engine `tone`, in entries of 50 ms.

Measured in two ways: the size of the stream alone (`MEMORY USAGE` of all its nodes), and the growth of Redis's memory,
which includes the hashes of the job and the rounding of the allocator. The content of the audio does not
matter, because streams are not compressed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Samples, alternate
from benchmarks.testbed import wait_done
from voxspool.protocol import keys

if TYPE_CHECKING:
    from benchmarks.testbed import VoxspoolQueue

SENTENCE = "It was a bright cold day in April, and the clocks were striking thirteen. "
SENTENCES = 14
"""Number of sentences that last about a minute."""


def memory(voxspool: VoxspoolQueue, rounds: int) -> list[Figure]:
    """Measure the memory per minute of audio, in MB."""
    return alternate(rounds, {voxspool.who: partial(_minute, voxspool)})


def _minute(voxspool: VoxspoolQueue) -> Samples:
    """Return the samples of one job, in MB."""
    before = _used(voxspool)
    job_id = voxspool.enqueue(SENTENCE * SENTENCES)
    wait_done(voxspool.redis, job_id)
    minutes = voxspool.state(job_id).spoken_s / 60
    stream: int = voxspool.redis.memory_usage(keys.audio(job_id), samples=0) or 0
    return {
        "stream a minute of audio": [stream / minutes / 1e6],
        "used memory a minute of audio": [(_used(voxspool) - before) / minutes / 1e6],
    }


def _used(voxspool: VoxspoolQueue) -> int:
    """Return the memory that Redis uses, in bytes, after it has freed its buffers."""
    time.sleep(0.2)  # Redis frees the buffers of its clients every 0.1 s
    return int(voxspool.redis.info("memory")["used_memory"])
