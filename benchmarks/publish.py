"""Latency from publishing to consumers: entries of 100 ms of audio (4.8 KB), one every 5 ms, to one and ten consumers.

The first 8 bytes of each entry's audio contain the time before the call of `Publisher.publish`. A consumer in another
process compares it with the time at which a reader returns the entry. So the latency includes the Lua script, the time
until Redis wakes its clients, and redis-py on both sides. On a machine with fewer than ten cores, ten consumers also
wait for a core.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.consumer import Consumer, consumers, start_reading
from benchmarks.figures import OURS, Figure, Samples, alternate
from voxspool.connections import connection
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.stream import Audio, Begin, End
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    from redis import Redis

INTERVAL_S: Final = 0.005
"""Time between two entries, in seconds."""
CHUNK_SAMPLES: Final = 2400
WARM_UP_ENTRIES: Final = 20
"""Entries at the start of a round that are not measured, because scripts are loaded and caches filled."""
MAX_CONSUMERS: Final = 10


def publish_latencies(url: str, rounds: int, entries: int) -> list[Figure]:
    """Measure the latency for one consumer, then for ten."""
    redis = connection.connect(url)
    figures = []
    with consumers(url, MAX_CONSUMERS) as readers:
        for count in (1, MAX_CONSUMERS):
            measure = partial(_publish_to, redis, readers[:count], entries)
            figures += alternate(rounds, {OURS: measure})
    return figures


def _publish_to(redis: Redis, readers: list[Consumer], entries: int) -> Samples:
    """Return the samples of one round, in ms."""
    job_id = JobSpec("").id
    run = JobExecution("bench", job_id, "bench")
    redis.zadd(run.lease_key, {run.composite: time.time() + 60})  # the publisher requires a lease
    publisher = Publisher(Scripts(redis), run, keep_s=10)
    publisher.begin(Begin(0, 24_000, "tone", "bench", "sine", "en", 0), {})
    start_reading(readers, job_id)
    _publish(publisher, WARM_UP_ENTRIES + entries)
    name = f"publish to {len(readers)} consumer{'s' if len(readers) > 1 else ''}"
    return {name: [latency for reader in readers for latency in _latencies_ms(reader)]}


def _publish(publisher: Publisher, entries: int) -> None:
    """Publish entries at a constant rate, then the end of the job."""
    rest = bytes(CHUNK_SAMPLES * 2 - 8)
    due = time.monotonic()
    for _ in range(entries):
        due += INTERVAL_S
        time.sleep(max(0.0, due - time.monotonic()))
        publisher.publish(Audio(publisher.pos, time.monotonic_ns().to_bytes(8, "little") + rest))
    publisher.publish(End(publisher.pos, publisher.pos / 24_000, 1, None, None))


def _latencies_ms(reader: Consumer) -> list[float]:
    """Return the latency of each entry to one consumer, in ms."""
    arrivals = reader.arrivals()[WARM_UP_ENTRIES:]
    return [(arrival.at_ns - int.from_bytes(arrival.head, "little")) / 1e6 for arrival in arrivals]
