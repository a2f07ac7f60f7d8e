"""From publish to the consumer: entries of 100 ms of audio (4.8 KB), one every 5 ms, to one consumer and to ten.

A clock reading lies in the first bytes of each entry's audio. It is taken before `Publisher.publish` is called in this
process, and compared with the same clock when `Reader` has given the entry in another. So both ends are in the figure:
the fenced script, Redis waking its readers, redis-py on both sides. Ten consumers on fewer cores than that wait for a
core as well as for Redis.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from consumer import Consumer, consumers, listen_all
from figures import OURS, Figure, Samples, alternate
from voxspool import connection
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.stream import Audio, Begin, End
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    from redis import Redis

EVERY_S: Final = 0.005
CHUNK_SAMPLES: Final = 2400
WARM_UP: Final = 20
"""Entries of a round that do not count: scripts are loaded, caches filled."""
FAN: Final = 10


def fan_outs(url: str, rounds: int, entries: int) -> list[Figure]:
    """Measure publish to consumer for one and for ten consumers, in turn."""
    redis = connection.connect(url)
    figures = []
    with consumers(url, FAN) as listening:
        for count in (1, FAN):
            measure = partial(_publish_to, redis, listening[:count], entries)
            figures += alternate(rounds, {OURS: measure})
    return figures


def _publish_to(redis: Redis, listening: list[Consumer], entries: int) -> Samples:
    """Measure one round, in ms."""
    job_id = JobSpec("").id
    run = JobExecution("bench", job_id, "bench")
    redis.zadd(run.lease_key, {run.composite: time.time() + 60})  # a run publishes under a lease
    publisher = Publisher(Scripts(redis), run, keep_s=10)
    publisher.begin(Begin(0, 24_000, "tone", "bench", "sine", "en", 0), {})
    listen_all(listening, job_id)
    _publish(publisher, WARM_UP + entries)
    name = f"publish to {len(listening)} consumer{'s' if len(listening) > 1 else ''}"
    return {name: [lag for listener in listening for lag in _lags_ms(listener)]}


def _publish(publisher: Publisher, entries: int) -> None:
    """Publish at a steady pace."""
    rest = bytes(CHUNK_SAMPLES * 2 - 8)
    due = time.monotonic()
    for _ in range(entries):
        due += EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))
        publisher.publish(Audio(publisher.pos, time.monotonic_ns().to_bytes(8, "little") + rest))
    publisher.publish(End(publisher.pos, publisher.pos / 24_000, 1, None, None))


def _lags_ms(listener: Consumer) -> list[float]:
    """Return how long each entry took to one consumer."""
    arrivals = listener.heard()[WARM_UP:]
    return [(arrival.at_ns - int.from_bytes(arrival.head, "little")) / 1e6 for arrival in arrivals]
