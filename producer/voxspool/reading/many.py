"""The streams of several jobs, read side by side with one XREAD: for a narration, which waits for all its chapters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from voxspool.connections.connection import has_ended, is_away
from voxspool.connections.namespaces import plain
from voxspool.errors import VoxspoolError
from voxspool.protocol import keys
from voxspool.reading.dialogue import run
from voxspool.reading.follow import AWAY_PAUSE_S, ask_more, ask_state
from voxspool.reading.reader import BLOCK_MS, COUNT, Cursor, ended_without_entry
from voxspool.reading.waiting import Absence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis import Redis

    from voxspool.reading.reader import Received

ASK_EVERY_S: Final = 5
"""Interval at which a silent reader asks for the state of its jobs, in seconds: four commands a job."""


class Readers:
    """Reads the streams of several jobs."""

    def __init__(self, redis: Redis, jobs: Iterable[str], url: str) -> None:
        """Prepare. `url` is the address of the Redis, for warnings."""
        self._redis = redis
        self._url = url
        self._absence = Absence(url)
        self._open = {job: Cursor() for job in jobs}
        self._silent_s = 0
        """For how long no entry of any job has come."""

    def read(self) -> Iterator[tuple[str, Received | VoxspoolError] | None]:
        """Yield each job's entries as they come, to its terminal one; None after a second in which none came.

        A Redis that is away is waited for, with a RedisAwayWarning.

        An error of one job (it is gone, entries are missing) is yielded in the place of an entry, and ends the reading
        of that job alone.
        """
        while self._open:
            try:
                reply = self._ask()
                ended = self._find_over() if self._silent_s and self._silent_s % ASK_EVERY_S == 0 else []
            except RedisError as error:
                if not is_away(error) or has_ended(self._url):
                    raise
                self._absence.warn(error)
                time.sleep(AWAY_PAUSE_S)
                yield None
                continue
            for job, entries in _by_job(reply, list(self._open)):
                yield from self._take(job, entries)
            yield from ended
            if self._silent_s:
                yield None

    def _ask(self) -> Any:  # noqa: ANN401 - redis-py's reply
        """Wait for the next entries of any job."""
        wanted = {keys.audio(job): str(cursor.after) for job, cursor in self._open.items()}
        reply = self._redis.xread(wanted, count=COUNT, block=BLOCK_MS)  # type: ignore[arg-type] # its dict is invariant
        self._silent_s = 0 if reply else self._silent_s + 1
        return reply

    def _take(self, job: str, entries: Any) -> Iterator[tuple[str, Received | VoxspoolError]]:  # noqa: ANN401 - redis-py's reply
        """Yield the entries of one job."""
        cursor = self._open[job]
        try:
            for received in cursor.take([(b"", entries)]):
                yield job, received
        except VoxspoolError as error:
            yield job, error
            cursor.closed = True
        if cursor.closed:
            del self._open[job]

    def _find_over(self) -> list[tuple[str, VoxspoolError]]:
        """Return an error for each job that is over although its stream has no terminal entry, and forget the job."""
        found: list[tuple[str, VoxspoolError]] = []
        for job, cursor in list(self._open.items()):
            try:
                state = run(ask_state(job), self._redis)
                if not state.over or run(ask_more(job, cursor.after), self._redis):
                    continue
                ended_without_entry(state, cursor, there=False)
            except VoxspoolError as error:
                del self._open[job]
                found.append((job, error))
            except RedisError:
                if not found:
                    raise
                break
        return found


def _by_job(reply: Any, jobs: list[str]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - see reader.entries_of
    """Yield the jobs of an XREAD reply, RESP2 or RESP3, each with its entries."""
    if not reply:
        return
    named = {keys.audio(job): job for job in jobs}
    batches = reply.items() if isinstance(reply, dict) else reply
    for key, entries in batches:
        job = named[plain(key.decode())]
        yield job, [entry for batch in entries for entry in batch] if isinstance(reply, dict) else entries
