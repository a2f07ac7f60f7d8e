"""The streams of several jobs, read side by side with one XREAD: for a narration, which waits for all its chapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import VoxspoolError
from voxspool.protocol import keys
from voxspool.reading.dialogue import run
from voxspool.reading.follow import ask_more, ask_state
from voxspool.reading.reader import BLOCK_MS, COUNT, Cursor, ended_without_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis import Redis

    from voxspool.reading.reader import Received

ASK_EVERY_S: Final = 5
"""Interval at which a silent reader asks for the state of its jobs, in seconds: four commands a job."""


class Readers:
    """Reads the streams of several jobs."""

    def __init__(self, redis: Redis, jobs: Iterable[str]) -> None:
        self._redis = redis
        self._open = {job: Cursor() for job in jobs}
        self._silent_s = 0
        """For how long no entry of any job has come."""

    def read(self) -> Iterator[tuple[str, Received | VoxspoolError] | None]:
        """Yield each job's entries as they come, to its terminal one; None after a second in which none came.

        An error of one job (it is gone, entries are missing) is yielded in the place of an entry, and ends the reading
        of that job alone.
        """
        while self._open:
            wanted = {keys.audio(job): str(cursor.after) for job, cursor in self._open.items()}
            reply: Any = self._redis.xread(wanted, count=COUNT, block=BLOCK_MS)  # type: ignore[arg-type] # its dict is invariant
            for job, entries in _by_job(reply, list(self._open)):
                yield from self._take(job, entries)
            self._silent_s = 0 if reply else self._silent_s + 1
            if self._silent_s:
                yield from self._find_over() if self._silent_s % ASK_EVERY_S == 0 else ()
                yield None

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

    def _find_over(self) -> Iterator[tuple[str, VoxspoolError]]:
        """Yield an error for each job that is over although its stream has no terminal entry."""
        for job, cursor in list(self._open.items()):
            try:
                state = run(ask_state(job), self._redis)
                if not state.over or run(ask_more(job, cursor.after), self._redis):
                    continue
                ended_without_entry(state, cursor, there=False)
            except VoxspoolError as error:
                del self._open[job]
                yield job, error


def _by_job(reply: Any, jobs: list[str]) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - see reader.entries_of
    """Yield the jobs of an XREAD reply, RESP2 or RESP3, each with its entries."""
    if not reply:
        return
    named = {keys.audio(job).encode(): job for job in jobs}
    if isinstance(reply, dict):
        yield from ((named[name], [entry for batch in batches for entry in batch]) for name, batches in reply.items())
    else:
        yield from ((named[name], entries) for name, entries in reply)
