"""A job's stream -> its entries: from any id, across lost connections, never waiting for a job that is gone.

`Cursor` and `judge` hold the rules of a stream and do no I/O, so the asyncio reader shares them; `Reader` asks Redis.
What becomes of the audio is not known here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import ResponseError

from voxspool.errors import (
    DeadlineError,
    SpeechCancelledError,
    SpeechFailedError,
    StreamGapError,
    UnknownJobError,
    VoxspoolError,
)
from voxspool.protocol import keys
from voxspool.protocol.numbers import count_or_zero
from voxspool.protocol.stream import (
    START,
    TERMINAL,
    Begin,
    Cancelled,
    End,
    Entry,
    EntryId,
    Failed,
    decode,
    position_after,
)
from voxspool.reading import acknowledge
from voxspool.reading.acknowledge import Acknowledgement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from redis import Redis

BLOCK_MS: Final = 1000
"""How long one XREAD waits. Below the client's socket timeout of 5 s, or redis-py would time out and retry."""
COUNT: Final = 256
"""Entries in one reply: at 50 ms an entry, 13 s of audio and 600 KB."""

LOOK_S: Final = 5
"""How often one who waits for many jobs asks whether they are over, in seconds of silence: four commands a job."""


class Received(NamedTuple):
    """An entry and where it stands."""

    id: EntryId
    entry: Entry


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job is, as Redis tells it."""

    id: str
    state: str
    """queued (waiting for a worker, perhaps not for the first time), running, ended, failed or cancelled."""
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
        self.open = False
        """Whether an entry was read, and none that closes the stream."""

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
        self.open = not self.closed
        return Received(entry_id, entry)


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
    """Return the state of a job. Raises UnknownJobError if Redis does not know it."""
    control = {_text(name): _text(value) for name, value in replies[0].items()}
    status, origin = (_text(value or b"") for value in replies[1])
    if control.get("state") == "running" and count_or_zero(control.get("lease_until")) <= replies[2][0] * 1000:
        del control["state"]  # its run has ended or died: the job waits for another, if RQ has it still
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
        worker=control.get("worker", ""),
        engine=control.get("engine", ""),
        voice=control.get("voice", ""),
        spoken_s=count_or_zero(control.get("pos")) / rate if rate else 0.0,
        segments=count_or_zero(control.get("segments")),
        segments_done=count_or_zero(control.get("marked_segments")),
    )


def _state_of(status: str, state: str | None) -> str:
    """Return the state of a job, from RQ's status and the stream's state. A closed stream decides.

    A stream that is open while RQ has given the job up was left by a run that died, and RQ's own cleaners or a
    dashboard ended the job: nobody will close it.
    """
    given_up = {"failed": "failed", "canceled": "cancelled", "stopped": "cancelled"}.get(status)
    return state if state and state != "running" else given_up or state or "queued"


def _text(value: bytes) -> str:
    """Read what anybody may have written."""
    return value.decode(errors="replace")


def raise_for(entry: Entry) -> None:
    """Raise SpeechFailedError or SpeechCancelledError for an entry that says so."""
    if isinstance(entry, Failed):
        raise SpeechFailedError(entry.sentence, code=entry.code, retryable=entry.retryable)
    if isinstance(entry, Cancelled):
        raise SpeechCancelledError(f"the speech was cancelled by {entry.by}")


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
        """Yield the entries after an id, as they come, to the terminal one.

        `timeout_s` is the longest silence to bear; None waits as long as the job lives. `on_wait` hears where the job
        is, after each second of silence. Raises UnknownJobError, StreamGapError, ProtocolError or DeadlineError.
        """
        cursor, ack = Cursor(after), Acknowledgement(self._job)
        heard = time.monotonic()
        while not cursor.closed:
            self._acknowledge(ack)
            block = block_ms(timeout_s, time.monotonic() - heard)
            reply = self._redis.xread({keys.audio(self._job): str(cursor.after)}, count=COUNT, block=block)
            received = cursor.take(reply)
            if received:
                for one in received:
                    yield one
                    ack.pos = position_after(one.entry)
                    self._acknowledge(ack)
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

    def end(self) -> End | None:
        """Fetch the end entry; None where the speech has not ended, or ended otherwise."""
        found: Any = self._redis.xrevrange(keys.audio(self._job), count=1)
        last = decode(found[0][1]) if found else None
        return last if isinstance(last, End) else None

    def _acknowledge(self, ack: Acknowledgement) -> None:
        """Report how far the reader is, if the job asks for it and it is time."""
        if not ack.due:
            return
        try:
            ack.heard(self._redis.register_script(acknowledge.script())(**ack.call))
        except ResponseError:
            ack.forbidden()

    def _nothing_after(self, entry_id: EntryId) -> bool:
        """Whether the stream ends here."""
        return not self._redis.xrange(keys.audio(self._job), f"({entry_id}", count=1)


class Readers:
    """Reads several jobs' streams side by side, for one who waits for all of them."""

    def __init__(self, redis: Redis, jobs: Iterable[str]) -> None:
        self._redis = redis
        self._open = {job: Cursor() for job in jobs}
        self._silent = 0
        """Seconds in a row in which nothing came of any."""

    def read(self) -> Iterator[tuple[str, Received | VoxspoolError] | None]:
        """Yield each job's entries as they come, to its terminal one; None after a second in which none came.

        What is wrong with one job (it is gone, its stream has a hole) is given in its place, and ends that job alone.
        """
        while self._open:
            wanted = {keys.audio(job): str(cursor.after) for job, cursor in self._open.items()}
            reply: Any = self._redis.xread(wanted, count=COUNT, block=BLOCK_MS)  # type: ignore[arg-type] # its dict is invariant
            for job, entries in _by_job(reply, list(self._open)):
                yield from self._take(job, entries)
            self._silent = 0 if reply else self._silent + 1
            if self._silent:
                yield from self._missed() if self._silent % LOOK_S == 0 else ()
                yield None

    def _take(self, job: str, entries: Any) -> Iterator[tuple[str, Received | VoxspoolError]]:  # noqa: ANN401 - redis-py's reply
        """Yield what came of one job."""
        cursor = self._open[job]
        try:
            for received in cursor.take([(b"", entries)]):
                yield job, received
        except VoxspoolError as error:
            yield job, error
            cursor.closed = True
        if cursor.closed:
            del self._open[job]

    def _missed(self) -> Iterator[tuple[str, VoxspoolError]]:
        """Yield an error for each job that is over although its stream does not say so."""
        for job, cursor in list(self._open.items()):
            reader = Reader(self._redis, job)
            try:
                state = reader.state()
                if not state.over or self._redis.xrange(keys.audio(job), f"({cursor.after}", count=1):
                    continue
                ended_without_entry(state, cursor, there=False)
            except VoxspoolError as error:
                del self._open[job]
                yield job, error


def _by_job(reply: Any, jobs: list[str]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - see entries_of
    """Sort a reply of XREAD on several streams, RESP2 or RESP3, by their jobs."""
    if not reply:
        return
    named = {keys.audio(job).encode(): job for job in jobs}
    if isinstance(reply, dict):
        yield from ((named[name], [entry for batch in batches for entry in batch]) for name, batches in reply.items())
    else:
        yield from ((named[name], entries) for name, entries in reply)


def block_ms(timeout_s: float | None, silence_s: float) -> int:
    """Return how long the next XREAD may wait: a second, or what is left until the caller's deadline."""
    if timeout_s is None:
        return BLOCK_MS
    return max(1, min(BLOCK_MS, round((timeout_s - silence_s) * 1000)))


def silent_too_long(state: JobState, silence_s: float, timeout_s: float | None) -> None:
    """Raise DeadlineError where a silence is longer than the caller bears."""
    if timeout_s is not None and silence_s >= timeout_s:
        raise DeadlineError(f"nothing came from job {state.id} for {timeout_s:g} s; it is {state.state}")


def ended_without_entry(state: JobState, cursor: Cursor, *, there: bool) -> None:
    """End a read at the end of a stream that is still `there`, or of a job that never had one.

    Raises SpeechFailedError or SpeechCancelledError where the job ended before any entry, UnknownJobError where its
    stream expired before its control hash.
    """
    if there and cursor.after != START and not cursor.open:
        return  # the reader had come back with the last id
    if state.state == "failed":
        raise SpeechFailedError(f"job {state.id} failed before it was spoken to its end; enqueue the text again")
    if state.state == "cancelled":
        raise SpeechCancelledError(f"job {state.id} was cancelled before it was spoken to its end")
    raise UnknownJobError(f"the stream of job {state.id} has expired; enqueue the text again")
