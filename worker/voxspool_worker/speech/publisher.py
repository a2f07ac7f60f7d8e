"""Write the entries of a job to its Redis stream, by fenced scripts: each sample once, whatever process dies.

It knows the attempt, the sequence and the fence; it does not know where audio comes from. Each run has one Publisher.
Its connection may retry freely: an entry has its own id, and Redis answers "already there" to one that is sent twice.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from voxspool import connection
from voxspool.protocol import keys
from voxspool.protocol.stream import STATES, Mark, encode_data, position_after
from voxspool_worker import lua
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis import Redis
    from redis.commands.core import Script

    from voxspool.protocol.stream import Begin, Entry
    from voxspool_worker.jobs.execution import JobExecution

log = logging.getLogger(__name__)

LEASE_S: Final = 9
"""How long a run holds its job and its stream without a beat; three beats of 3 s."""
FULL_WAIT_S: Final = (0.1, 2.0)
"""How long to wait for Redis to have memory before trying again: at first, and at most, in seconds."""


class ClosedError(Exception):
    """The stream is closed already: an earlier run finished it and died before it could say so to the queue."""


class AlreadyRunningError(Exception):
    """A live run holds the job: this is a second delivery of it."""


class WrongEngineError(Exception):
    """The job is another engine's: it began there, or this one has not its voice; or its stream has another rate."""

    def __init__(self, engine: str, sample_rate: int | None = None) -> None:
        super().__init__(engine)
        self.engine = engine
        self.sample_rate = sample_rate
        """Of the stream, in Hz; None where it has not begun."""


class NeedsOtherWorkerError(Exception):
    """The job has not begun, and needs what other live workers of its engine have and this one has not."""


class LostWritesError(Exception):
    """Entries that Redis had acknowledged are gone (a failover, a restart without its append-only file)."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an attempt goes on."""

    attempt: int
    pos: int
    """The first sample it has to say."""
    segment: int
    """The first segment it has to say."""


class Scripts:
    """The two scripts on a connection; loaded once for all the publishers of a worker."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.begin = lua.load(redis, "begin")
        self.publish = lua.load(redis, "publish")


class Publisher:
    """Publishes one run of one job."""

    def __init__(
        self, scripts: Scripts, run: JobExecution, keep_s: int, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Prepare. `wait` spends seconds in which Redis has no memory; what it raises ends the wait."""
        self._scripts = scripts
        self._wait = wait
        self._keys = [keys.audio(run.job), keys.control(run.job)]
        self._run = run
        self._keep_s = keep_s
        self._attempt = 0
        self._seq = 0
        self.pos = 0
        """Samples of the speech that stand in the stream."""

    def begin(self, entry: Begin, facts: Mapping[str, str | int]) -> Resume:
        """Claim the job and open an attempt; `facts` go to the control hash.

        `entry.pos` is not used: Redis decides where to continue. Raises ClosedError if the job is over,
        AlreadyRunningError if another run holds it, EndedEarlyError if the run lost its lease before it began, and
        WrongEngineError if an earlier attempt had another engine or sample rate: a stream has one.
        """
        flat = [item for pair in facts.items() for item in pair]
        reply = self._patiently(
            self._scripts.begin,
            [*self._keys, self._run.lease_key],
            [
                self._run.id, LEASE_S * 1000, encode_data(entry), self._run.composite,
                entry.engine, entry.sample_rate, *flat,
            ],
        )  # fmt: skip
        said = _text(reply[0])
        if said == "closed":
            raise ClosedError(_text(reply[1]))
        if said == "held":
            raise AlreadyRunningError(_text(reply[1]))
        if said == "lost":
            raise EndedEarlyError(Reason.LEASE_LOST)
        if said == "elsewhere":
            raise WrongEngineError(_text(reply[1]), reply[2])
        self._attempt, self._seq, self.pos, segment = reply[1:]
        return Resume(self._attempt, self.pos, segment)

    def publish(self, entry: Entry) -> None:
        """Append an entry.

        Raises EndedEarlyError where the job was cancelled or the stream belongs to another run, LostWritesError where
        Redis has forgotten what it had acknowledged.
        """
        after = position_after(entry)
        segments = entry.segment + 1 if isinstance(entry, Mark) else ""
        state = STATES.get(entry.type, "")
        said = _text(
            self._patiently(
                self._scripts.publish,
                self._keys,
                [
                    self._attempt, self._seq + 1, entry.type, entry.pos, encode_data(entry),
                    after, segments, state, self._keep_s,
                ],
            )
        )  # fmt: skip
        if said == "fenced":
            raise EndedEarlyError(Reason.LEASE_LOST)
        if said == "hole":
            raise LostWritesError(f"the stream {self._keys[0]} ends before entry {self._attempt}-{self._seq}")
        if said != "ok":
            raise EndedEarlyError(Reason.CANCELLED, by=said.removeprefix("cancelled by "))
        self._seq += 1
        self.pos = after

    def _patiently(self, script: Script, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 - a script's reply
        """Run a script; where Redis is at its memory's limit, wait until there is room: that fails no job."""
        waited_s, wait_s = 0.0, FULL_WAIT_S[0]
        while True:
            try:
                reply = script(keys=keys, args=args)
            except ResponseError as error:
                if not connection.is_full(error):
                    raise
                if not waited_s:
                    log.warning("redis.full job=%s at=%d error=%s", self._run.job, self.pos, error)
                self._wait(wait_s)
                waited_s, wait_s = waited_s + wait_s, min(2 * wait_s, FULL_WAIT_S[1])
            else:
                if waited_s:
                    log.info("redis.has_room job=%s waited_s=%.1f", self._run.job, waited_s)
                return reply

    def cancelled_by(self) -> str:
        """Return who asked to stop the job; empty if nobody did through the stream."""
        return _text(self._scripts.redis.hget(self._keys[1], "cancel") or "")


def _text(reply: bytes | str) -> str:
    """Read a script's word."""
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
