"""Put jobs into RQ's queues, if Redis and the queue have room for them.

The list of live workers and the memory use of Redis are kept for one second, since reading them takes longer than
enqueueing. The caller, `placing`, chooses the queue of a job.
"""

from __future__ import annotations

import enum
import json
import threading
import time
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError
from rq.utils import now, utcformat

from voxspool import workers
from voxspool.connections import connection
from voxspool.errors import BusyError, JobExistsError
from voxspool.protocol import keys, narration
from voxspool.protocol.jobs import TASK
from voxspool.queue import admission
from voxspool.queue.admission import Busy, Pressure
from voxspool.queue.ending import script
from voxspool.reading.waiting import callers_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from voxspool.protocol.jobs import JobSpec
    from voxspool.protocol.narration import ChapterSpec
    from voxspool.workers import WorkerCard

RQ_RETRIES: Final = 100
"""How often RQ's cleaners, which a dashboard runs, may put back the job of a dead worker before they fail it.

Workers of voxspool put such jobs back without using up these retries."""
RECENT_S: Final = 1.0
"""The time for which a value that was read counts as recent, in seconds. Reading the cards of eight workers takes three
times as long as enqueueing. Cards are up to 3 s old in any case, and a job in the queue of an engine without workers is
moved to another queue."""
BATCH: Final = 250
"""Jobs in one round trip. Redis serves others between two of them; each takes it some 20 us, and the text of a job may
have 100,000 characters."""
ROOM_POLL_S: Final = 0.25
"""Polling interval while waiting for room, in seconds. What is read of Redis and of a queue is kept for RECENT_S."""


class EvictionWarning(UserWarning):
    """Redis is set to delete keys when it is full, so jobs and audio can disappear; the text says what to do.

    It is given once in a process, at its first job, by Python's `warnings`: a filter for this class silences it.
    """


_eviction_reported = threading.Event()
"""Set when this process has warned of eviction, or need not."""


class Reply(enum.Enum):
    """What became of a job that was to be enqueued."""

    ENQUEUED = "enqueued"
    SAME = "same"
    """Its id has this speech already; nothing was enqueued."""
    OTHER = "other"
    """Its id belongs to another speech."""
    UNKNOWN = "unknown"
    """Its id belongs to a job without a digest: another program, or an older version, enqueued it."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue: a speech, or a chapter of a book."""

    task: str
    argument: dict[str, Any]
    spec: JobSpec
    """The speech; of a chapter, its options and its whole text."""
    digest: str
    timeout_s: int

    @classmethod
    def speech(cls, spec: JobSpec) -> NewJob:
        """Return the job of a speech."""
        return cls(TASK, spec.encode(), spec, spec.digest, spec.timeout_s)

    @classmethod
    def chapter(cls, spec: ChapterSpec) -> NewJob:
        """Return the job of a chapter of a book."""
        return cls(narration.TASK, spec.encode(), spec.speech, spec.digest, narration.TIMEOUT_S)


class Enqueuer:
    """Puts jobs into the queues of one Redis. Threads may share it."""

    def __init__(self, redis: Redis, max_waiting: int = admission.MAX_WAITING) -> None:
        """`max_waiting` is the largest number of jobs that may wait in a queue."""
        self._redis = redis
        self._max_waiting = max_waiting
        self._seen: tuple[float, list[WorkerCard]] = (-RECENT_S, [])
        """When the workers' cards were read last, and the cards. Replaced as a whole, since threads share it."""
        self._pressures: dict[str, tuple[float, Pressure]] = {}
        """Queue -> the time at which the fill of Redis and of the queue was read, and the result."""

    def live_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, as they are now. Raises redis.RedisError."""
        found = workers.live(self._redis)
        self._seen = (time.monotonic(), found)
        return found

    def recent_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, read at most RECENT_S ago. Raises redis.RedisError."""
        read_at, found = self._seen
        return found if time.monotonic() - read_at < RECENT_S else self.live_workers()

    def put_many(self, jobs: Sequence[tuple[NewJob, str]], wait_s: float = 0) -> list[Reply]:
        """Put jobs into queues, each unless its id is taken; return what became of each, in order.

        Without room for all it waits up to `wait_s` seconds. Raises BusyError, with the number of jobs that were
        enqueued, and redis.RedisError.
        """
        deadline, replies = time.monotonic() + wait_s, list[Reply]()
        while len(replies) < len(jobs):
            batch, busy = self._fitting(jobs[len(replies) : len(replies) + BATCH])
            sent = self._send(batch)
            replies += sent
            if len(sent) < len(batch):
                busy = Busy("Redis has reached its memory limit", admission.UNKNOWN_S)
            if busy and not sent:
                if time.monotonic() >= deadline:
                    raise BusyError(busy.why, busy.retry_after_s, len(replies))
                time.sleep(min(ROOM_POLL_S, max(0.0, deadline - time.monotonic())))
        return replies

    def _fitting(self, jobs: Sequence[tuple[NewJob, str]]) -> tuple[Sequence[tuple[NewJob, str]], Busy | None]:
        """Return the first jobs for which there is room, and why there is none for the others."""
        counts: Counter[str] = Counter()
        for number, (new, queue) in enumerate(jobs):
            pressure = self._pressure(queue)
            serving = [card for card in self._seen[1] if queue in card.queues]
            waiting = pressure and replace(pressure, waiting=pressure.waiting + counts[queue])
            busy = waiting and admission.turned_away(waiting, new.spec.priority, serving, self._max_waiting)
            if busy:
                return jobs[:number], busy
            counts[queue] += 1
        return jobs, None

    def _send(self, jobs: Sequence[tuple[NewJob, str]]) -> list[Reply]:
        """Send jobs in one round trip. Return the replies up to the first job that Redis has no memory for."""
        said: list[Any]
        if len(jobs) == 1:
            try:
                said = [self._script(**call(*jobs[0]))]
            except ResponseError as error:
                said = [error]
        else:
            with self._redis.pipeline(transaction=False) as pipeline:
                for job in jobs:
                    self._script(**call(*job), client=pipeline)
                said = pipeline.execute(raise_on_error=False) if jobs else []
        replies: list[Reply] = []
        for (_, queue), one in zip(jobs, said, strict=True):
            if isinstance(one, Exception):
                if isinstance(one, ResponseError) and connection.is_full(one):
                    break
                raise one
            replies.append(reply := Reply(one.decode()))
            if reply is Reply.ENQUEUED:
                self._count(queue)
        return replies

    def _count(self, queue: str) -> None:
        """Add a job to what was read of a queue's length: a second is long enough to enqueue thousands."""
        if found := self._pressures.get(queue):
            read_at, pressure = found
            self._pressures[queue] = read_at, replace(pressure, waiting=pressure.waiting + 1)

    def _pressure(self, queue: str) -> Pressure | None:
        """Return how full Redis and a queue are, at most RECENT_S old; None if this user of Redis may not ask."""
        asked_at, pressure = self._pressures.get(queue, (-RECENT_S, None))
        if time.monotonic() - asked_at < RECENT_S:
            return pressure
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.info("memory")
                pipeline.info("keyspace")
                pipeline.llen(f"rq:queue:{queue}")
                memory, keyspace, waiting = pipeline.execute()
        except ResponseError:  # this user may not ask, or the server has no such command
            return None
        pressure = Pressure.read(memory, keyspace, waiting)
        self._pressures[queue] = time.monotonic(), pressure
        self._report_eviction(memory)
        return pressure

    def _report_eviction(self, memory: dict[str, Any]) -> None:
        """Issue an EvictionWarning if Redis deletes keys when it is full; once in a process."""
        if not _eviction_reported.is_set():
            _eviction_reported.set()
            if why := connection.why_evicting(memory, connection.address(self._redis)):
                warnings.warn(why, EvictionWarning, stacklevel=callers_level())

    @cached_property
    def _script(self) -> Any:  # noqa: ANN401 - redis-py's Script, whose reply is untyped
        return script(self._redis, "enqueue")


def taken(job: str) -> JobExistsError:
    """Return the error for an id that belongs to another speech."""
    return JobExistsError(
        f"job id {job!r} is taken by another text, voice or setting; choose another id, or wait until it expires"
    )


def call(new: NewJob, queue: str) -> dict[str, Any]:
    """Return the keys and arguments of the script, as register_script's object takes them."""
    spec, now_text = new.spec, utcformat(now())
    fields = {
        "status": "queued",
        "created_at": now_text,
        "enqueued_at": now_text,
        "origin": queue,
        "description": f"speech {spec.id}",  # never the text, which RQ would take by default
        "data": zlib.compress(json.dumps([new.task, None, [new.argument], {}]).encode()),
        "timeout": new.timeout_s,
        "result_ttl": spec.keep_s,
        "failure_ttl": spec.keep_s,
        "retries_left": RQ_RETRIES,
    } | ({"meta": json.dumps(spec.meta)} if spec.meta else {})
    return {
        "keys": [
            f"rq:job:{spec.id}", f"rq:queue:{queue}", workers.RQ_QUEUES,
            keys.audio(spec.id), keys.control(spec.id), keys.acknowledged(spec.id),
        ],
        "args": [spec.id, queue, new.digest, spec.keep_s, *(item for pair in fields.items() for item in pair)],
    }  # fmt: skip
