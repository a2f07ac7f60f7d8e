"""A job's stream -> its entries: from any id, across breaks, never waiting for a job that is gone.

`Cursor` and `judge` know the stream's rules and do no I/O, so that the asyncio reader shares them; `Reader` asks Redis.
Knows entries, not what becomes of their audio.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from voxspool.errors import (
    DeadlineError,
    SpeechCancelledError,
    SpeechFailedError,
    StreamGapError,
    UnknownJobError,
)
from voxspool.protocol import keys
from voxspool.protocol.stream import START, TERMINAL, Audio, Begin, Cancelled, Entry, EntryId, Failed, Mark, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis import Redis

BLOCK_MS: Final = 1000
"""How long one XREAD waits. Below the client's socket timeout of 5 s, or redis-py would time out and retry."""
COUNT: Final = 256
"""Entries in one reply: at 50 ms an entry, 13 s of audio and 600 KB."""


class Received(NamedTuple):
    """An entry and where it stands."""

    id: EntryId
    entry: Entry


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job is, as Redis tells it."""

    id: str
    state: str
    """queued, running, ended, failed or cancelled."""
    queue: str = ""
    attempt: int = 0
    worker: str = ""
    engine: str = ""
    voice: str = ""
    spoken_s: float = 0.0
    segments: int = 0
    segments_done: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("queued", "running")


class Cursor:
    """Where a reader stands in a stream, and the check that nothing is missing."""

    def __init__(self, after: EntryId = START) -> None:
        self.after = after
        self.closed = False

    def take(self, reply: Any) -> list[Received]:  # noqa: ANN401 - redis-py's reply differs by protocol version
        """Read a reply of XREAD on one stream, RESP2 or RESP3.

        Raises StreamGapError where entries are missing, ProtocolError where one cannot be read.
        """
        return [self._next(EntryId.parse(raw_id.decode()), fields) for raw_id, fields in entries_of(reply)]

    def _next(self, entry_id: EntryId, fields: dict[bytes, bytes]) -> Received:
        """Take one entry, if it is the next."""
        here = self.after
        follows = entry_id == (here.attempt, here.seq + 1) or (entry_id.attempt > here.attempt and entry_id.seq == 1)
        if not follows:
            raise StreamGapError(
                f"entry {entry_id} follows {here}: entries between them are missing, Redis lost what it had taken; "
                "enqueue the text again"
            )
        entry = decode(fields)
        self.after = entry_id
        self.closed = isinstance(entry, TERMINAL)
        return Received(entry_id, entry)


def entries_of(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:  # noqa: ANN401 - see above
    """Give the entries of an XREAD reply on one stream: a list of pairs (RESP2) or a mapping (RESP3)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (batches,) = reply.values()
        return [entry for batch in batches for entry in batch]
    return list(reply[0][1])


def ask(pipeline: Any, job: str) -> None:  # noqa: ANN401 - a sync or an asyncio pipeline
    """Queue the commands whose replies `judge` reads."""
    pipeline.hgetall(keys.control(job))
    pipeline.hmget(f"rq:job:{job}", "status", "origin")


def judge(job: str, replies: Sequence[Any]) -> JobState:
    """Say where a job is. Raises UnknownJobError where Redis knows nothing of it."""
    control = {name.decode(): value.decode() for name, value in replies[0].items()}
    status, origin = (value.decode() if value else "" for value in replies[1])
    if "state" not in control and status in ("", "finished"):
        raise UnknownJobError(f"there is no job {job!r}, or its stream has expired; enqueue the text again")
    rate = int(control.get("sample_rate", 0))
    return JobState(
        id=job,
        state=control.get("state") or _state_of(status),
        queue=origin,
        attempt=int(control.get("attempt", 0)),
        worker=control.get("worker", ""),
        engine=control.get("engine", ""),
        voice=control.get("voice", ""),
        spoken_s=int(control.get("pos", 0)) / rate if rate else 0.0,
        segments=int(control.get("segments", 0)),
        segments_done=int(control.get("marked_segments", 0)),
    )


def _state_of(status: str) -> str:
    """Translate RQ's status of a job that has no stream yet."""
    return {"failed": "failed", "canceled": "cancelled", "stopped": "cancelled"}.get(status, "queued")


def raise_for(entry: Entry) -> None:
    """Raise SpeechFailedError or SpeechCancelledError for an entry that says so."""
    if isinstance(entry, Failed):
        raise SpeechFailedError(entry.sentence, code=entry.code, retryable=entry.retryable)
    if isinstance(entry, Cancelled):
        raise SpeechCancelledError(f"the speech was cancelled by {entry.by}")


def position_after(entry: Entry) -> int:
    """Give the sample that follows an entry."""
    if isinstance(entry, Audio):
        return entry.pos + len(entry.pcm) // 2
    return entry.end_pos if isinstance(entry, Mark) else entry.pos


class Reader:
    """Reads one job's stream."""

    def __init__(self, redis: Redis, job: str) -> None:
        self._redis = redis
        self._job = job

    def read(
        self,
        after: EntryId = START,
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[JobState], None] | None = None,
    ) -> Iterator[Received]:
        """Give the entries after an id, as they come, to the terminal one.

        `timeout_s` is the longest silence to bear; None waits as long as the job lives. `on_wait` hears where the job
        is, after each second of silence. Raises UnknownJobError, StreamGapError, ProtocolError or DeadlineError.
        """
        cursor = Cursor(after)
        heard = time.monotonic()
        while not cursor.closed:
            reply = self._redis.xread({keys.audio(self._job): str(cursor.after)}, count=COUNT, block=BLOCK_MS)
            received = cursor.take(reply)
            if received:
                yield from received
                heard = time.monotonic()
            else:
                state = self.state()
                if state.over and self._nothing_after(cursor.after):
                    ended_without_entry(state, cursor, there=bool(self._redis.exists(keys.audio(self._job))))
                    return
                silent_too_long(state, time.monotonic() - heard, timeout_s)
                if on_wait:
                    on_wait(state)

    def state(self) -> JobState:
        """Ask where the job is. Raises UnknownJobError."""
        with self._redis.pipeline(transaction=False) as pipeline:
            ask(pipeline, self._job)
            return judge(self._job, pipeline.execute())

    def begin_of(self, attempt: int) -> Begin | None:
        """Fetch the begin entry of an attempt, for a reader that comes back into its middle."""
        found = self.entry(EntryId(attempt, 1))
        return found if isinstance(found, Begin) else None

    def entry(self, entry_id: EntryId) -> Entry | None:
        """Fetch one entry by its id."""
        found: Any = self._redis.xrange(keys.audio(self._job), str(entry_id), str(entry_id))
        return decode(found[0][1]) if found else None

    def _nothing_after(self, entry_id: EntryId) -> bool:
        """Whether the stream ends here."""
        return not self._redis.xrange(keys.audio(self._job), f"({entry_id}", count=1)


def silent_too_long(state: JobState, silence_s: float, timeout_s: float | None) -> None:
    """Raise DeadlineError where a silence is longer than the caller bears."""
    if timeout_s is not None and silence_s >= timeout_s:
        raise DeadlineError(f"nothing came from job {state.id} for {timeout_s:g} s; it is {state.state}")


def ended_without_entry(state: JobState, cursor: Cursor, *, there: bool) -> None:
    """End a read at the end of a stream that is still `there`, or of a job that never had one.

    Raises SpeechFailedError or SpeechCancelledError where the job ended before any entry, UnknownJobError where its
    stream expired before its control hash.
    """
    if there and cursor.after != START:
        return  # the reader had come back with the last id
    if state.state == "failed":
        raise SpeechFailedError(f"job {state.id} failed before it was spoken; `voxspool status {state.id}` tells more")
    if state.state == "cancelled":
        raise SpeechCancelledError(f"job {state.id} was cancelled before it was spoken")
    raise UnknownJobError(f"the stream of job {state.id} has expired; enqueue the text again")
