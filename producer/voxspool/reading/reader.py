"""The rules by which a stream is read, without I/O: which entry comes next, what the replies say of a job, its end.

`follow` reads by these rules. What becomes of the audio is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from voxspool.errors import (
    DeadlineError,
    SpeechCancelledError,
    SpeechFailedError,
    StreamGapError,
    StreamReplacedError,
    UnknownJobError,
)
from voxspool.protocol import keys
from voxspool.protocol.numbers import count_or_zero
from voxspool.protocol.stream import (
    START,
    TERMINAL,
    Begin,
    Cancelled,
    Entry,
    EntryId,
    Failed,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import RedisError

BLOCK_MS: Final = 1000
"""The longest time that one XREAD waits. Below the socket timeout of 5 s, else redis-py would time out and retry."""
COUNT: Final = 256
"""The most entries in one reply: at 50 ms an entry, 13 s of audio and 600 KB."""


class Received(NamedTuple):
    """An entry of a stream, and its id."""

    id: EntryId
    entry: Entry


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job, and its progress."""

    id: str
    state: str
    """queued (it waits for a worker, perhaps not for the first time), running, ended, failed or cancelled."""
    queue: str = ""
    """Empty if RQ has no record of the job any more."""
    attempt: int = 0
    """Counts from 1; 0: no worker has begun the job, and worker, engine and voice are empty."""
    worker: str = ""
    engine: str = ""
    voice: str = ""
    spoken_s: float = 0.0
    """The audio that is in the stream, in seconds."""
    segments: int = 0
    segments_done: int = 0
    first_attempt: int = 1
    """The attempt with which this speech began. Above 1: an earlier speech of this id failed or was cancelled."""

    @property
    def over(self) -> bool:
        """True if the job has ended, failed or was cancelled."""
        return self.state not in ("queued", "running")


class Cursor:
    """The position of a reader in a stream, and the check that no entry is missing."""

    def __init__(self, after: EntryId = START) -> None:
        self.after = after
        self.closed = False
        self.open = False
        """True if an entry was read, and none that closes the stream."""

    def take(self, reply: Any) -> list[Received]:  # noqa: ANN401 - redis-py's reply differs by protocol version
        """Return the entries of an XREAD reply on one stream, RESP2 or RESP3.

        Raises StreamGapError if entries are missing, ProtocolError if one cannot be read.
        """
        return [self._next(EntryId.parse(raw_id.decode()), fields) for raw_id, fields in entries_of(reply)]

    def _next(self, entry_id: EntryId, fields: dict[bytes, bytes]) -> Received:
        """Return one entry, if it is the next. Raises StreamGapError or ProtocolError."""
        here = self.after
        follows = entry_id == (here.attempt, here.seq + 1) or (entry_id.attempt > here.attempt and entry_id.seq == 1)
        if not follows:
            raise StreamGapError(
                f"entry {entry_id} follows {here}: entries between them are missing, Redis lost what it had taken; "
                "enqueue the text again"
            )
        entry = decode(fields)
        if isinstance(entry, Begin):
            self.check_first(entry.first)
        self.after = entry_id
        self.closed = isinstance(entry, TERMINAL)
        self.open = not self.closed
        return Received(entry_id, entry)

    def check_first(self, first: int) -> None:
        """Raise StreamReplacedError if the reader had entries of a speech before the one that began with `first`."""
        if START < self.after < (first, 0):
            raise StreamReplacedError(
                f"the job was enqueued again after entry {self.after}, and has a new stream; read it from the start"
            )


def entries_of(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:  # noqa: ANN401 - see above
    """Return the entries of an XREAD reply on one stream: a list of pairs (RESP2) or a mapping (RESP3)."""
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
    pipeline.time()


def judge(job: str, replies: Sequence[Any]) -> JobState:
    """Return the state of a job from the replies to `ask`. Raises UnknownJobError if Redis does not have the job."""
    control = {_text(name): _text(value) for name, value in replies[0].items()}
    status, origin = (_text(value or b"") for value in replies[1])
    if control.get("state") == "running" and count_or_zero(control.get("lease_until")) <= replies[2][0] * 1000:
        del control["state"]  # its run was handed back or died: the job waits for another run, if RQ still has it
    if "state" not in control and status in ("", "finished"):
        raise UnknownJobError(
            f"there is no job {job!r}, or its stream has expired; check the id, or enqueue the text again"
        )
    rate = count_or_zero(control.get("sample_rate"))
    return JobState(
        id=job,
        state=_state_of(status, control.get("state")),
        queue=origin,
        attempt=count_or_zero(control.get("attempt")),
        first_attempt=count_or_zero(control.get("past")) + 1,
        worker=control.get("worker", ""),
        engine=control.get("engine", ""),
        voice=control.get("voice", ""),
        spoken_s=count_or_zero(control.get("pos")) / rate if rate else 0.0,
        segments=count_or_zero(control.get("segments")),
        segments_done=count_or_zero(control.get("marked_segments")),
    )


def _state_of(status: str, state: str | None) -> str:
    """Return the state of a job from RQ's status and the stream's state. A closed stream decides.

    A stream may be open although RQ counts the job as over: its run died, and RQ's cleaners or a dashboard ended the
    job. No worker will close that stream.
    """
    given_up = {"failed": "failed", "canceled": "cancelled", "stopped": "cancelled"}.get(status)
    return state if state and state != "running" else given_up or state or "queued"


def _text(value: bytes) -> str:
    """Decode what any program may have written."""
    return value.decode(errors="replace")


def raise_for(entry: Entry) -> None:
    """Raise SpeechFailedError for a `failed` entry, SpeechCancelledError for a `cancelled` one."""
    if isinstance(entry, Failed):
        raise SpeechFailedError(entry.sentence, code=entry.code, retryable=entry.retryable)
    if isinstance(entry, Cancelled):
        raise SpeechCancelledError(f"the speech was cancelled by {entry.by}")


def block_ms(timeout_s: float | None, silence_s: float) -> int:
    """Return how long the next XREAD may wait, in ms: a second, or the rest of the caller's time limit."""
    if timeout_s is None:
        return BLOCK_MS
    return max(1, min(BLOCK_MS, round((timeout_s - silence_s) * 1000)))


def silent_too_long(state: JobState, silence_s: float, timeout_s: float | None) -> None:
    """Raise DeadlineError if no entry came for longer than the caller accepts."""
    if timeout_s is not None and silence_s >= timeout_s:
        raise DeadlineError(f"nothing came from job {state.id} for {timeout_s:g} s; it is {state.state}")


def away_too_long(job: str, error: RedisError, silence_s: float, timeout_s: float | None) -> None:
    """Raise DeadlineError if no entry came for longer than the caller accepts because Redis is away."""
    if timeout_s is not None and silence_s >= timeout_s:
        raise DeadlineError(f"nothing came from job {job} for {timeout_s:g} s; Redis does not answer ({error})")


def ended_without_entry(state: JobState, cursor: Cursor, *, there: bool) -> None:
    """Return if the reader of a job that is over has had its whole stream, which is still `there`; else raise.

    Raises SpeechFailedError or SpeechCancelledError if the job ended before its speech did, UnknownJobError if its
    stream has expired before its control hash.
    """
    if there and cursor.after != START and not cursor.open:
        return  # the reader came back with the id of the last entry
    if state.state == "failed":
        raise SpeechFailedError(f"job {state.id} failed before it was spoken to its end; enqueue the text again")
    if state.state == "cancelled":
        raise SpeechCancelledError(f"job {state.id} was cancelled before it was spoken to its end")
    raise UnknownJobError(f"the stream of job {state.id} has expired; enqueue the text again")
