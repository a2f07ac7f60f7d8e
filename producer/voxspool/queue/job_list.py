"""List jobs: those that wait, run, failed or ended, each with its queue, its age and why it is where it is.

The ids come from RQ's queues and registries. Any program may write to those, so what cannot be read is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from voxspool import workers
from voxspool.errors import InvalidJobError, ProtocolError, UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec, all_queue_names
from voxspool.protocol.stream import Cancelled, Failed, decode
from voxspool.reading.reader import ask, judge
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from redis import Redis

    from voxspool.reading.reader import JobState

SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "waiting": ("queue", "deferred", "scheduled"),
    "running": ("wip",),
    "failed": ("failed", "canceled"),
    "ended": ("finished",),
}
"""Kind of jobs -> the lists and sorted sets of RQ that have their ids: `rq:<source>:<queue>`."""
STATES: Final = {
    "queued": "waiting",
    "running": "running",
    "failed": "failed",
    "cancelled": "failed",
    "ended": "ended",
}
"""State of a job -> its kind."""
BATCH: Final = 250
"""Jobs that are read in one round trip: five short replies each."""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job in a list."""

    id: str
    state: str
    """queued, running, ended, failed or cancelled."""
    queue: str
    age_s: float | None
    """The time since it was enqueued, in seconds; None if RQ's record does not say."""
    reason: str
    """Why it waits, how far it is, why it failed, who cancelled it, or how long the speech is: a line for people."""
    meta: dict[str, Any] | None
    """The producer's data."""


def read_jobs(redis: Redis, kinds: Sequence[str]) -> list[ListedJob]:
    """Return the jobs of these kinds (all without any), in the order of their queues and of their registries.

    Raises InvalidJobError for an unknown kind, redis.RedisError.
    """
    for kind in kinds:
        if kind not in SOURCES:
            raise InvalidJobError(
                f"there are no {kind!r} jobs{did_you_mean(kind, SOURCES)}; choose from {', '.join(SOURCES)}"
            )
    wanted = list(kinds) or list(SOURCES)
    found = dict.fromkeys(_ids(redis, wanted))
    places = {job: place for place, job in reversed(list(_places(found)))}
    jobs = list(dict.fromkeys(job for _, _, job in found))
    waiting = _WaitingReason(redis)
    listed: list[ListedJob] = []
    for first in range(0, len(jobs), BATCH):
        for job, replies in _read(redis, jobs[first : first + BATCH]):
            if (one := _listed(job, replies, places.get(job, 0), waiting)) and STATES[one.state] in wanted:
                listed.append(one)
    return listed


def _ids(redis: Redis, kinds: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield source, queue and id of each job in RQ's queues and registries."""
    live = workers.live(redis)
    engines = dict.fromkeys((*workers.engines(redis), *(card.engine for card in live)))
    wanted = [(source, queue) for kind in kinds for queue in all_queue_names(list(engines)) for source in SOURCES[kind]]
    with redis.pipeline(transaction=False) as pipeline:
        for source, queue in wanted:
            key = f"rq:{source}:{queue}"
            pipeline.lrange(key, 0, -1) if source == "queue" else pipeline.zrange(key, 0, -1)
        replies = pipeline.execute()
    for (source, queue), entries in zip(wanted, replies, strict=True):
        for entry in entries:
            name = entry.decode(errors="replace")
            yield source, queue, name.rpartition(":")[0] if source == "wip" else name


def _places(found: Iterable[tuple[str, str, str]]) -> Iterator[tuple[int, str]]:
    """Yield the place in its queue, from 1, of each job that waits in one."""
    counts: dict[str, int] = {}
    for source, queue, job in found:
        if source == "queue":
            counts[queue] = counts.get(queue, 0) + 1
            yield counts[queue], job


def _read(redis: Redis, jobs: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each job with the replies about it: three for `judge`, the record, the last entry of the stream."""
    with redis.pipeline(transaction=False) as pipeline:
        for job in jobs:
            ask(pipeline, job)
            pipeline.hmget(f"rq:job:{job}", "enqueued_at", "created_at", "meta", "status")
            pipeline.xrevrange(keys.audio(job), count=1)
        replies = pipeline.execute(raise_on_error=False)
    for number, job in enumerate(jobs):
        yield job, replies[5 * number : 5 * number + 5]


def _listed(job: str, replies: list[Any], place: int, waiting: _WaitingReason) -> ListedJob | None:
    """Return a job of the list; None if it has expired, or is not voxspool's."""
    if any(isinstance(reply, Exception) for reply in replies):
        return None
    try:
        state = judge(JobSpec("", id=job).id, replies[:3])
    except (UnknownJobError, InvalidJobError):
        return None
    enqueued_at, created_at, meta, status = ((value or b"").decode(errors="replace") for value in replies[3])
    reason = waiting.of(state.queue, place, status) if state.state == "queued" else _reason(state, replies[4])
    now_s = replies[2][0] + replies[2][1] / 1e6
    return ListedJob(job, state.state, state.queue, _age(enqueued_at or created_at, now_s), reason, _meta(meta))


def _reason(state: JobState, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> str:
    """Return how far a job is, or how it ended."""
    if state.state == "running":
        return f"segment {state.segments_done} of {state.segments}, on {state.worker}"
    if state.state == "ended":
        return f"{state.spoken_s:.1f} s of speech"
    try:
        last = decode(entries[0][1]) if entries else None
    except ProtocolError:
        last = None
    if isinstance(last, Failed):
        return f"{last.code}: {last.sentence}"
    if isinstance(last, Cancelled):
        return f"by {last.by}"
    return "before it was spoken"


class _WaitingReason:
    """Why jobs wait, from the workers' cards and the paused queues, which are read once."""

    def __init__(self, redis: Redis) -> None:
        self._served = {queue for card in workers.live(redis) for queue in card.queues}
        paused: Any = redis.smembers(keys.PAUSED)
        self._paused = {name.decode(errors="replace") for name in paused}

    def of(self, queue: str, place: int, status: str) -> str:
        """Return why a job waits; `place` is its place in its queue, from 1, or 0."""
        if status == "deferred":
            return "another job must end first"
        if status == "scheduled":
            return "its time has not come"
        if queue in self._paused:
            why = ", the queue is paused"
        else:
            why = "" if queue in self._served else ", no live worker serves the queue"
        return (f"place {place}" if place else "a worker has taken it") + why


def _age(text: str, now_s: float) -> float | None:
    """Return the time since a moment in RQ's format, in seconds; None if there is none."""
    try:
        return max(0.0, now_s - datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None


def _meta(text: str) -> dict[str, Any] | None:
    """Return the metadata of a record; None if it has none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found else None
