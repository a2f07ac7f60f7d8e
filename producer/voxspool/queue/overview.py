"""Read the queues, the workers and the running jobs at one moment. A spoilt key hides none of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError
from rq import Queue
from rq.registry import StartedJobRegistry

from voxspool import workers
from voxspool.connections.connection import is_wrong_type
from voxspool.errors import InvalidJobError, RedisUnavailableError, UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import ENGINES, all_queue_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redis import Redis

    from voxspool.reading.reader import JobState
    from voxspool.workers import WorkerCard


@dataclass(frozen=True, slots=True)
class Overview:
    """The queues, the workers and the running jobs at one moment."""

    queues: dict[str, int]
    """Queue -> the number of waiting jobs; empty queues are left out."""
    workers: list[WorkerCard]
    """The live workers, by name."""
    running: list[JobState]
    paused: list[str]
    """The names of the paused queues, sorted."""
    spoilt: list[str] = field(default_factory=list)
    """Keys that another program has overwritten, each as a sentence: what they should hold is missing above."""


def read_overview(redis: Redis, state_of: Callable[[str], JobState]) -> Overview:
    """Return the overview; `state_of` returns the state of a job. Raises redis.RedisError."""
    cards = workers.look(redis)
    engines, spoilt = known_engines(redis, cards.live)
    names = all_queue_names(engines)
    asked = [(Queue.redis_queue_namespace_prefix + name, "list") for name in names]
    asked += [(StartedJobRegistry.key_template.format(name), "sorted set") for name in names]
    with redis.pipeline(transaction=False) as pipeline:
        for key, kind in asked:
            _ = pipeline.llen(key) if kind == "list" else pipeline.zrange(key, 0, -1)
        pipeline.smembers(keys.PAUSED)
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    spoilt += cards.spoilt + _spoilt((*asked, (keys.PAUSED, "set")), replies)
    *read, paused = [None if isinstance(reply, Exception) else reply for reply in replies]
    waiting = {name: count for name, count in zip(names, read, strict=False) if count}
    runs = [entry.decode(errors="replace") for entries in read[len(names) :] for entry in entries or ()]
    running: list[JobState] = []
    for job in dict.fromkeys(run.rpartition(":")[0] for run in runs):
        try:
            running.append(state_of(job))
        except (UnknownJobError, InvalidJobError):
            pass  # the job ended between the two reads, or it is not voxspool's: any program may write to Redis
        except RedisUnavailableError as error:
            if not (isinstance(error.__cause__, ResponseError) and is_wrong_type(error.__cause__)):
                raise
            spoilt.append(f"a key of job {job} has another type")
    return Overview(
        waiting, cards.live, running, sorted(name.decode(errors="replace") for name in paused or ()), spoilt
    )


def known_engines(redis: Redis, live: Iterable[WorkerCard]) -> tuple[list[str], list[str]]:
    """Return the engines that have queues: those that jobs may wait for, then others of the live workers.

    The second list names RQ's set of queues if that has another type; the first then lacks engines without a worker.
    """
    spoilt = []
    try:
        known = workers.engines(redis)
    except ResponseError as error:
        if not is_wrong_type(error):
            raise
        known, spoilt = list(ENGINES), [f"{workers.RQ_QUEUES} is not a set"]
    return list(dict.fromkeys((*known, *sorted(card.engine for card in live)))), spoilt


def _spoilt(asked: Iterable[tuple[str, str]], replies: Iterable[Any]) -> list[str]:
    """Return a sentence for each key of another type. Raises any other error among the replies."""
    found = []
    for (key, kind), reply in zip(asked, replies, strict=True):
        if isinstance(reply, Exception):
            if not is_wrong_type(reply):
                raise reply
            found.append(f"{key} is not a {kind}")
    return found
