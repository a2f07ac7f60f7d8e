"""Share the segments of a chapter between workers through Redis: unspoken segments, leases and outcomes.

Redis has only numbers and words: the text is in the job, the audio in the segment store. Each decision is one script,
so any number of workers may claim at once; a worker that dies loses only its leases.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.exceptions import ResponseError

from voxspool.connections.connection import is_wrong_type
from voxspool.protocol import keys
from voxspool_worker import lua
from voxspool_worker.jobs.standing import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis import Redis

    from voxspool.store.segments import StoredSegment

log = logging.getLogger(__name__)

LEASE_S: Final = 9
"""Duration of the lease of a segment, in seconds: three intervals between renewals, as for the lease of a job."""
MAX_SEGMENT_DEATHS: Final = 2
"""Number of workers that may die in a segment on two hosts; its outcome is then "poison". claim_segment.lua has the
rule for one host."""
PAGE: Final = 500
"""Largest number of segments, or of results, in one command."""
OUTCOME_KINDS: Final = ("spoken", "found", "engine", "poison")
"""The outcomes of a segment: it was spoken; the store had it; the engine failed twice; too many workers died in it."""


class SegmentOutcome(NamedTuple):
    """The outcome of a segment, with the facts for its mark. Redis has it as a JSON list of these fields."""

    segment: int
    """Counts from 0."""
    kind: str
    """One of OUTCOME_KINDS; or the code of an error that ends the chapter, such as `store`."""
    samples: int = 0
    seed: int = 0
    tries: int = 1
    fault: str = ""
    """The fault of its audio; for an error, its message."""

    @classmethod
    def found(cls, segment: int, stored: StoredSegment) -> SegmentOutcome:
        """Return the outcome of a segment that is in the store already."""
        return cls(segment, "found", stored.samples, stored.seed, stored.tries, stored.fault)


@dataclass(frozen=True, slots=True)
class SegmentClaim:
    """A segment that was leased to a worker."""

    index: int
    deaths: int
    """Number of workers that died while they held it."""


class SegmentScripts:
    """The Lua scripts of segment queues on one connection; loaded once for all chapters."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.take = lua.load(redis, "take_pool")
        self.claim = lua.load(redis, "claim_segment")
        self.renew = lua.load(redis, "renew_segments")
        self.end = lua.load(redis, "end_segment")
        self.expire = lua.load(redis, "expire_segments")
        self.close = lua.load(redis, "close_pool")


class SegmentQueue:
    """The segment queue of one chapter. All methods may be called from any thread, and raise RedisError."""

    def __init__(self, scripts: SegmentScripts, job: str, engine: str, digest: str) -> None:
        """Store the names; send nothing yet. `digest` is that of the chapter's plan; `close` works without it."""
        self._scripts = scripts
        self._job = job
        self._narrating = keys.narrating(engine)
        self._digest = digest
        self._keys = [keys.pool(job), keys.unspoken(job), keys.results(job)]

    def take(self) -> None:
        """Create the queue for a run of the chapter, or continue an earlier run's if that had the same plan."""
        self._scripts.take(keys=self._keys, args=[self._digest, keys.POOL_TTL_S])

    def offer(self, indices: Iterable[int]) -> None:
        """Add segments to the queue; those that are in it already stay as they are."""
        names = [_name(index) for index in indices]
        for first in range(0, len(names), PAGE):
            self._scripts.redis.zadd(self._keys[1], dict.fromkeys(names[first : first + PAGE], 0), nx=True)
        self._scripts.redis.expire(self._keys[1], keys.POOL_TTL_S)

    def announce(self) -> bool:
        """Add the chapter to the list that other workers read. Return False if Redis has lost the queue."""
        redis = self._scripts.redis
        try:
            redis.zadd(self._narrating, {self._job: redis.time()[0]}, nx=True)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            log.error("segment_queue.spoilt key=%s: only this worker speaks the chapter", self._narrating)  # noqa: TRY400
        redis.expire(self._narrating, keys.POOL_TTL_S)
        return bool(redis.exists(self._keys[0]))

    def claim(
        self, holder: str, *, expired_by: float, alone: bool, standing: Standing | None = None
    ) -> SegmentClaim | str:
        """Lease the next segment to `holder` and return it, or return why not: `none`, `suspect`, `over` or `other`.

        claim_segment.lua explains these words and the conditions. After an error of Redis, claim again with the same
        holder: a segment may be leased to it already. `standing` tells what to record of this worker if it dies; by
        default nothing is known.
        """
        standing = standing or Standing()
        reply: Any = self._scripts.claim(
            keys=[*self._keys, keys.control(self._job)],
            args=[
                holder, LEASE_S * 1000, keys.POOL_TTL_S, self._digest, MAX_SEGMENT_DEATHS, int(expired_by * 1000),
                int(alone), standing.host, int(standing.completed), standing.live_hosts,
            ],
        )  # fmt: skip
        word, *claim = reply
        return SegmentClaim(*claim) if claim else str(word.decode())

    def renew(self, holders: Mapping[int, str]) -> set[int]:
        """Renew the leases of segments, each with its holder. Return the segments whose lease is lost."""
        return self._renew(LEASE_S * 1000, holders)

    def give_back(self, holders: Mapping[int, str]) -> None:
        """End the leases of segments, so that others can speak them at once; no death is counted."""
        self._renew(0, holders)

    def give_back_claim(self, holder: str) -> None:
        """End the lease of the segment that a claim without a reply has, if it has one."""
        self._scripts.renew(keys=self._keys[:2], args=[0, keys.POOL_TTL_S, "", holder])

    def end(self, outcome: SegmentOutcome, holder: str) -> bool:
        """Record the outcome of a segment that `holder` has spoken.

        Return False if it has another outcome, another worker holds it now, or the chapter is over.
        """
        said = json.dumps(outcome, ensure_ascii=False)
        args: list[str | int] = [_name(outcome.segment), said, keys.POOL_TTL_S, self._digest, holder]
        return bool(self._scripts.end(keys=self._keys, args=args))

    def results(self, first: int) -> list[SegmentOutcome]:
        """Return up to PAGE outcomes, from number `first` on, in the order in which they were recorded."""
        found: Any = self._scripts.redis.lrange(self._keys[2], first, first + PAGE - 1)
        return [SegmentOutcome(*json.loads(one)) for one in found]

    def close(self) -> None:
        """Delete the queue if the chapter is over."""
        if self._scripts.close(keys=[*self._keys, keys.control(self._job)]):
            with contextlib.suppress(ResponseError):  # a key of another type lists no chapter
                self._scripts.redis.zrem(self._narrating, self._job)

    def _renew(self, lease_ms: int, holders: Mapping[int, str]) -> set[int]:
        """Set the leases of segments to end in `lease_ms`; 0 ends them."""
        held = [item for index, holder in holders.items() for item in (_name(index), holder)]
        lost: Any = self._scripts.renew(keys=self._keys[:2], args=[lease_ms, keys.POOL_TTL_S, *held])
        return {int(name) for name in lost}


def holder_prefix(worker: str) -> str:
    """Return the start of the name of each claim of a worker."""
    return f"{worker}:"


def expire_segments(scripts: SegmentScripts, engine: str, worker: str) -> int:
    """Expire the leases of all segments that a dead worker holds. Return their number."""
    jobs = narrated_jobs(scripts.redis, engine)
    held = [scripts.expire(keys=[keys.pool(job), keys.unspoken(job)], args=[holder_prefix(worker)]) for job in jobs]
    return sum(map(int, held))


def narrated_jobs(redis: Redis, engine: str) -> list[str]:
    """Return the jobs of the chapters that workers with an engine narrate, the oldest first."""
    found: Any = redis.zrangebyscore(keys.narrating(engine), "-inf", "+inf")
    return [job.decode(errors="surrogateescape") for job in found]


def _name(index: int) -> str:
    """Return the name of a segment in Redis: six digits, because Redis sorts names as text."""
    return f"{index:06d}"
