"""What a minute of audio costs Redis: 24 kHz from the engine `tone`, in its entries of 50 ms.

By the stream alone (`MEMORY USAGE`, every node counted) and by what Redis holds in all before and after, the job's
hashes and the allocator's rounding among it. The sound does not matter: streams are not compressed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from figures import Figure, Samples, alternate
from stage import wait_done
from voxspool.protocol import keys

if TYPE_CHECKING:
    from stage import Voxspool

SENTENCE = "It was a bright cold day in April, and the clocks were striking thirteen. "
SENTENCES = 14
"""About a minute of tone."""


def memory(voxspool: Voxspool, rounds: int) -> list[Figure]:
    """Measure Redis's memory a minute of audio."""
    return alternate(rounds, {voxspool.who: partial(_minute, voxspool)})


def _minute(voxspool: Voxspool) -> Samples:
    """Measure one job, in MB."""
    before = _used(voxspool)
    job_id = voxspool.enqueue(SENTENCE * SENTENCES)
    wait_done(voxspool.redis, job_id)
    minutes = voxspool.state(job_id).spoken_s / 60
    stream: int = voxspool.redis.memory_usage(keys.audio(job_id), samples=0) or 0
    return {
        "stream a minute of audio": [stream / minutes / 1e6],
        "used memory a minute of audio": [(_used(voxspool) - before) / minutes / 1e6],
    }


def _used(voxspool: Voxspool) -> int:
    """Return what Redis holds, in bytes, once buffers are empty again."""
    time.sleep(0.2)  # Redis frees its clients' buffers by the tenth of a second
    return int(voxspool.redis.info("memory")["used_memory"])
