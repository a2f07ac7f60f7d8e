"""Write the entries of a job to its Redis stream with fenced scripts: each sample once, even if processes die.

Each run has one Publisher, which counts the entries of its attempt. Its connection may send a command again: every
entry has an id, and Redis does not add an entry twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.protocol import keys
from voxspool.protocol.stream import STATES, Mark, encode_data, position_after
from voxspool_worker import lua
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.retries import retry_while_redis_is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis import Redis
    from redis.commands.core import Script

    from voxspool.protocol.stream import Begin, Entry
    from voxspool_worker.jobs.execution import JobExecution

LEASE_S: Final = 9
"""Time for which a run holds its job and its stream after its last heartbeat, in seconds: three heartbeats of 3 s."""


class ClosedError(Exception):
    """The stream is closed already: an earlier run finished it, but died before it recorded that in the queue."""


class AlreadyRunningError(Exception):
    """A live run holds the job: this is a second delivery of it."""


class WrongEngineError(Exception):
    """The job needs another engine: it began there, or needs its voice; or the stream has another sample rate."""

    def __init__(self, engine: str, sample_rate: int | None = None) -> None:
        super().__init__(engine)
        self.engine = engine
        self.sample_rate = sample_rate
        """The sample rate of the stream, in Hz; None if it has not begun."""


class NeedsOtherWorkerError(Exception):
    """The job has not begun, and needs something that this worker lacks and another live worker of its engine has."""


class LostWritesError(Exception):
    """Redis has lost entries that it had acknowledged (after a failover, or a restart without its append-only file)."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an attempt continues."""

    attempt: int
    pos: int
    """The first sample to publish."""
    segment: int
    """The first segment to speak."""


class Scripts:
    """The scripts of publishers on one connection; loaded once for all runs of a worker."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.begin = lua.load(redis, "begin")
        self.publish = lua.load(redis, "publish")


class Publisher:
    """Publishes one run of one job."""

    def __init__(
        self, scripts: Scripts, run: JobExecution, keep_s: int, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Store the run. `wait` receives seconds to wait while Redis has no memory; its exceptions end the wait."""
        self._scripts = scripts
        self._wait = wait
        self._keys = [keys.audio(run.job), keys.control(run.job)]
        self._run = run
        self._keep_s = keep_s
        self._attempt = 0
        self._seq = 0
        self.pos = 0
        """Number of samples of the speech that are in the stream."""

    def begin(self, entry: Begin, facts: Mapping[str, str | int]) -> Resume:
        """Claim the job and open an attempt; `facts` go to the control hash.

        `entry.pos` is not used: Redis decides where to continue. Raises ClosedError if the job has ended,
        AlreadyRunningError if another run holds it, EndedEarlyError if the run lost its lease before it began, and
        WrongEngineError if an earlier attempt had another engine or sample rate: a stream has only one of each.
        """
        flat = [item for pair in facts.items() for item in pair]
        reply = self._call(
            self._scripts.begin,
            [*self._keys, self._run.lease_key, keys.acknowledged(self._run.job), keys.OPEN],
            [
                self._run.id, LEASE_S * 1000, encode_data(entry), self._run.composite,
                entry.engine, entry.sample_rate, self._run.digest, self._run.gave_up, *flat,
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

        Raises EndedEarlyError if the job was cancelled or the stream belongs to another run, LostWritesError if Redis
        has lost entries that it had acknowledged.
        """
        after = position_after(entry)
        segments = entry.segment + 1 if isinstance(entry, Mark) else ""
        state = STATES.get(entry.type, "")
        said = _text(
            self._call(
                self._scripts.publish,
                [*self._keys, keys.OPEN],
                [
                    self._attempt, self._seq + 1, entry.type, entry.pos, encode_data(entry),
                    after, segments, state, self._keep_s, self._run.job,
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

    def _call(self, script: Script, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 - a script's reply
        """Run a script; while Redis is at its memory limit, wait and try again."""
        return retry_while_redis_is_full(
            lambda: script(keys=keys, args=args), self._wait, f"job={self._run.job} at={self.pos}"
        )

    def cancelled_by(self) -> str:
        """Return who cancelled the job through its stream; an empty text if nobody did."""
        return _text(self._scripts.redis.hget(self._keys[1], "cancel") or "")


def _text(reply: bytes | str) -> str:
    """Return a text in a script's reply as str."""
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
