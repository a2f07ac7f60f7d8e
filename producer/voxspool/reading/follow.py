"""What is asked of one job's stream, as dialogues: its entries to the end, its state, single entries.

Here is the loop that every reader follows, plain or asyncio. `dialogue` sends the requests; `reader` has the rules.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import RedisError

from voxspool.connections.connection import has_ended, is_away
from voxspool.errors import StreamError, UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.stream import START, Begin, End, EntryId, decode, position_after
from voxspool.reading.dialogue import RETRY_S, Call, Pause
from voxspool.reading.reader import (
    COUNT,
    Cursor,
    ask,
    away_too_long,
    block_ms,
    ended_without_entry,
    judge,
    silent_too_long,
)
from voxspool.reading.waiting import Absence, Watch, why_unserved

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Never

    from voxspool.protocol.stream import Entry
    from voxspool.reading.acknowledge import Acknowledgement
    from voxspool.reading.dialogue import Dialogue
    from voxspool.reading.reader import JobState, Received

T = TypeVar("T")

AWAY_PAUSE_S: Final = 1.0
"""The wait before a Redis that is away is asked again, after all tries of redis-py, in seconds."""


def read_entries(
    ack: Acknowledgement,
    url: str,
    after: EntryId = START,
    *,
    timeout_s: float | None = None,
    on_wait: Callable[[JobState], None] | None = None,
    answered: Callable[[], bool] = lambda: False,
) -> Dialogue[Received, None]:
    """Yield the entries after an id as they come, to the terminal one, and note in `ack` how far they were read.

    `timeout_s` is the longest silence to accept, in seconds; None waits as long as the job lives. `on_wait` is called
    with the job's state after each second of silence. `url` is for warnings. Once Redis has answered (`answered`: it
    has elsewhere), a Redis that is away is waited for, with a RedisAwayWarning.
    Raises UnknownJobError, StreamGapError, ProtocolError or DeadlineError.
    """
    cursor, watch, absence = Cursor(after), Watch(), Absence(url)
    heard = time.monotonic()
    while not cursor.closed:
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - heard))
        try:
            answer = yield from _ask_next(ack.job, cursor, left_s)
        except RedisError as error:
            if not (is_away(error) and answered()) or has_ended(url):
                raise
            absence.warn(error)
            away_too_long(ack.job, error, time.monotonic() - heard, timeout_s)
            yield Pause(AWAY_PAUSE_S)
            continue
        if answer is None:
            return
        answered, (received, state) = (lambda: True), answer
        for one in received:
            yield one
            ack.pos = position_after(one.entry)
        if state is None:
            heard = time.monotonic()
            watch.heard()
            continue
        silent_too_long(state, time.monotonic() - heard, timeout_s)
        if watch.due(state.state):
            watch.warn((yield from why_unserved(url, state.queue)))
        if on_wait:
            on_wait(state)


def await_job(job: str, wait_s: float) -> Dialogue[Never, None]:
    """Wait until a job exists. Raises UnknownJobError if it is not enqueued within `wait_s` seconds."""
    began = time.monotonic()
    while True:
        try:
            yield from ask_state(job)
        except UnknownJobError:
            waited_s = time.monotonic() - began
            if waited_s >= wait_s:
                raise
            yield Call(partial(_read, job, START, block_ms(wait_s, waited_s)))
        else:
            return


def _ask_next(
    job: str, cursor: Cursor, timeout_s: float | None
) -> Dialogue[Never, tuple[list[Received], JobState | None] | None]:
    """Wait for the next entries, `timeout_s` at the longest. If none come, return the state of the job, too.

    Return None if the job is over and the reader had its whole stream. Raises what `read_entries` raises.
    """
    retry_s = RETRY_S if timeout_s is None else min(RETRY_S, timeout_s)
    if received := cursor.take((yield Call(partial(_read, job, cursor.after, block_ms(timeout_s, 0)), retry_s))):
        return received, None
    state = yield from ask_state(job)
    cursor.check_first(state.first_attempt)
    if state.over and not (yield from ask_more(job, cursor.after)):
        there = yield Call(lambda redis: redis.exists(keys.audio(job)))
        ended_without_entry(state, cursor, there=bool(there))
        return None
    return [], state


def ask_state(job: str) -> Dialogue[Never, JobState]:
    """Return the state of a job. Raises UnknownJobError."""
    return judge(job, (yield Call(partial(_ask_state, job))))


def ask_more(job: str, after: EntryId) -> Dialogue[Never, bool]:
    """Return whether a stream has entries after an id."""
    return bool((yield Call(lambda redis: redis.xrange(keys.audio(job), f"({after}", count=1))))


def ask_end(job: str) -> Dialogue[Never, End | None]:
    """Return the end entry; None if the speech has not ended, or failed or was cancelled. Raises ProtocolError."""
    last = _first((yield Call(lambda redis: redis.xrevrange(keys.audio(job), count=1))))
    return last if isinstance(last, End) else None


def ask_position(job: str, after: EntryId) -> Dialogue[Never, tuple[int, int]]:
    """Return where a reader stands that had the entry `after` last: the next sample, and the sample rate in Hz.

    Raises StreamError if the stream has no such entry, UnknownJobError if the job is gone.
    """
    last, begin = yield Call(partial(_ask_entries, job, (after, EntryId(after.attempt, 1))))
    last, begin = _first(last), _first(begin)
    if last is None or not isinstance(begin, Begin):
        yield from ask_state(job)  # raises if the whole job is gone
        raise StreamError(f"job {job} has no entry {after} to come back to; read it from the start")
    return position_after(last), begin.sample_rate


def _read(job: str, after: EntryId, block_ms: int, redis: Any) -> Any:  # noqa: ANN401 - a plain or an asyncio client, untyped replies
    return redis.xread({keys.audio(job): str(after)}, count=COUNT, block=block_ms)


def _ask_state(job: str, redis: Any) -> Any:  # noqa: ANN401 - see above
    pipeline = redis.pipeline(transaction=False)
    ask(pipeline, job)
    return pipeline.execute()


def _ask_entries(job: str, ids: tuple[EntryId, ...], redis: Any) -> Any:  # noqa: ANN401 - see above
    pipeline = redis.pipeline(transaction=False)
    for entry_id in ids:
        pipeline.xrange(keys.audio(job), str(entry_id), str(entry_id))
    return pipeline.execute()


def _first(found: list[tuple[bytes, dict[bytes, bytes]]]) -> Entry | None:
    """Return the first entry of a reply of XRANGE. Raises ProtocolError."""
    return decode(found[0][1]) if found else None
