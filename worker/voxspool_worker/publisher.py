"""A job's entries -> its Redis stream, through the fenced scripts: each sample once, whatever dies.

Knows the attempt, the sequence and the fence; not where audio comes from. One Publisher a run. Its connection may
retry at will: an entry has its own id, and Redis says "already there" to one that is sent twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voxspool.protocol import keys
from voxspool.protocol.stream import SAMPLE_BYTES, STATES, Audio, Mark, encode_data
from voxspool_worker import lua
from voxspool_worker.token import EndedEarlyError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis import Redis

    from voxspool.protocol.stream import Begin, Entry
    from voxspool_worker.runs import Run

LEASE_S: Final = 9
"""How long a run holds its job and its stream without a beat; three beats of 3 s."""


class ClosedError(Exception):
    """The stream is closed already: an earlier run finished it and died before it could say so to the queue."""


class HeldError(Exception):
    """A live run holds the job: this is a second delivery of it."""


class ElsewhereError(Exception):
    """The job is another engine's: it began there, or this one has not its voice; or its stream has another rate."""

    def __init__(self, engine: str, sample_rate: int | None = None) -> None:
        super().__init__(engine)
        self.engine = engine
        self.sample_rate = sample_rate
        """Of the stream, in Hz; None where it has not begun."""


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

    def __init__(self, scripts: Scripts, run: Run, keep_s: int) -> None:
        self._scripts = scripts
        self._keys = [keys.audio(run.job), keys.control(run.job)]
        self._run = run
        self._keep_s = keep_s
        self._attempt = 0
        self._seq = 0
        self.pos = 0
        """Samples of the speech that stand in the stream."""

    def begin(self, entry: Begin, facts: Mapping[str, str | int]) -> Resume:
        """Claim the job and open an attempt; `facts` go to the control hash.

        `entry.pos` is not used: where to begin is Redis's to say. Raises ClosedError or HeldError, EndedEarlyError
        where the run has lost its lease before it began, and ElsewhereError where an earlier attempt was of another
        engine or sample rate: a stream has one.
        """
        flat = [item for pair in facts.items() for item in pair]
        reply = self._scripts.begin(
            keys=[*self._keys, self._run.lease_key],
            args=[
                self._run.id, LEASE_S * 1000, encode_data(entry), self._run.composite,
                entry.engine, entry.sample_rate, *flat,
            ],
        )  # fmt: skip
        said = _text(reply[0])
        if said == "closed":
            raise ClosedError(_text(reply[1]))
        if said == "held":
            raise HeldError(_text(reply[1]))
        if said == "lost":
            raise EndedEarlyError(Reason.LEASE_LOST)
        if said == "elsewhere":
            raise ElsewhereError(_text(reply[1]), reply[2])
        self._attempt, self._seq, self.pos, segment = reply[1:]
        return Resume(self._attempt, self.pos, segment)

    def publish(self, entry: Entry) -> None:
        """Append an entry.

        Raises EndedEarlyError where the job was cancelled or the stream belongs to another run, LostWritesError where
        Redis has forgotten what it had acknowledged.
        """
        after = entry.pos + len(entry.pcm) // SAMPLE_BYTES if isinstance(entry, Audio) else self.pos
        segments = entry.segment + 1 if isinstance(entry, Mark) else ""
        state = STATES.get(entry.type, "")
        said = _text(
            self._scripts.publish(
                keys=self._keys,
                args=[
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

    def cancelled_by(self) -> str:
        """Say who asked to stop the job; empty where nobody did through the stream."""
        return _text(self._scripts.redis.hget(self._keys[1], "cancel") or "")


def _text(reply: bytes | str) -> str:
    """Read a script's word."""
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
