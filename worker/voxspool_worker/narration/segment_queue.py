"""The segments of a chapter, shared between workers: which are unspoken, who speaks which, and the outcomes.

Redis holds only numbers and words: the text is in the job, the audio in the segment store. Each decision is one script,
so any number of workers may ask at once; a worker that dies loses its leases and nothing else. It uses no engine, no
store and no threads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from voxspool.protocol import keys
from voxspool_worker import lua

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis import Redis

LEASE_S: Final = 9
"""How long a segment is held without a renewal; three beats of 3 s, as a job's lease."""
MAX_DEATHS: Final = 2
"""A segment that so many workers died of is set aside."""
PAGE: Final = 500
"""How many segments, or results, go into one command."""


WORDS: Final = ("spoken", "found", "engine", "poison")
"""What may come of a segment: it was spoken; the store had it; the engine failed; workers died."""


class Outcome(NamedTuple):
    """What came of a segment: what its mark says."""

    segment: int
    """Counts from 0."""
    word: str
    """One of WORDS; or the code of an error that ends the chapter, as `store`."""
    samples: int = 0
    seed: int = 0
    tries: int = 1
    fault: str = ""
    """What is wrong with it; of an error, its sentence."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A segment that is ours for a while."""

    index: int
    deaths: int
    """How many died of it, or beside it."""


class Scripts:
    """The pool's scripts on a connection; loaded once for all chapters of a worker."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.take = lua.load(redis, "take_pool")
        self.claim = lua.load(redis, "claim_segment")
        self.renew = lua.load(redis, "renew_segments")
        self.end = lua.load(redis, "end_segment")
        self.close = lua.load(redis, "close_pool")


class SegmentQueue:
    """One chapter's segments. From any thread."""

    def __init__(self, scripts: Scripts, job: str, engine: str, plan: str) -> None:
        """Prepare; `plan` is the digest of the plan that indices are of."""
        self._scripts = scripts
        self._job = job
        self._narrating = keys.narrating(engine)
        self._plan = plan
        self._keys = [keys.pool(job), keys.unspoken(job), keys.results(job)]

    def take(self) -> None:
        """Take it over for a run of the chapter; results of an earlier one stand, where its plan was the same."""
        self._scripts.take(keys=self._keys, args=[self._plan, keys.POOL_TTL_S])

    def offer(self, indices: Iterable[int]) -> None:
        """Let these segments be spoken, by anybody."""
        names = [_name(index) for index in indices]
        for first in range(0, len(names), PAGE):
            self._scripts.redis.zadd(self._keys[1], dict.fromkeys(names[first : first + PAGE], 0), nx=True)
        self._scripts.redis.expire(self._keys[1], keys.POOL_TTL_S)

    def announce(self) -> bool:
        """Announce that the chapter is being narrated. Return False if Redis has lost the queue."""
        redis = self._scripts.redis
        redis.zadd(self._narrating, {self._job: redis.time()[0]}, nx=True)
        redis.expire(self._narrating, keys.POOL_TTL_S)
        return bool(redis.exists(self._keys[0]))

    def claim(self, holder: str, *, count_deaths: bool, alone: bool) -> Claimed | str:
        """Take a segment; else say why there is none: `none`, `suspect`, `over` or `other` (see the script)."""
        reply: Any = self._scripts.claim(
            keys=[*self._keys, keys.control(self._job)],
            args=[
                holder, LEASE_S * 1000, keys.POOL_TTL_S, self._plan, MAX_DEATHS, int(count_deaths), int(alone),
            ],
        )  # fmt: skip
        said, *claimed = reply
        return Claimed(*claimed) if claimed else str(said.decode())

    def renew(self, holders: Mapping[int, str]) -> set[int]:
        """Renew leases; give those that are lost."""
        return self._renew(LEASE_S * 1000, holders)

    def give_back(self, holders: Mapping[int, str]) -> None:
        """Let others speak these at once: nobody died of them."""
        self._renew(0, holders)

    def end(self, outcome: Outcome) -> bool:
        """Record the outcome of a segment. Return False if it was known already, or the chapter is over."""
        args: list[str | int] = [_name(outcome.segment), json.dumps(outcome, ensure_ascii=False), keys.POOL_TTL_S]
        return bool(self._scripts.end(keys=self._keys, args=args))

    def results(self, first: int) -> list[Outcome]:
        """Return up to PAGE results from the one at place `first` on, in the order in which they came."""
        found: Any = self._scripts.redis.lrange(self._keys[2], first, first + PAGE - 1)
        return [Outcome(*json.loads(one)) for one in found]

    def close(self) -> None:
        """Take it away, if the chapter is over."""
        if self._scripts.close(keys=[*self._keys, keys.control(self._job)]):
            self._scripts.redis.zrem(self._narrating, self._job)

    def _renew(self, lease_ms: int, holders: Mapping[int, str]) -> set[int]:
        """Renew leases, or end them."""
        held = [item for index, holder in holders.items() for item in (_name(index), holder)]
        lost: Any = self._scripts.renew(keys=self._keys[:2], args=[lease_ms, keys.POOL_TTL_S, *held])
        return {int(name) for name in lost}


def narrated(redis: Redis, engine: str) -> list[str]:
    """Return the chapters that workers with an engine narrate, the oldest first."""
    found: Any = redis.zrangebyscore(keys.narrating(engine), "-inf", "+inf")
    return [job.decode(errors="surrogateescape") for job in found]


def _name(index: int) -> str:
    """Name a segment so that Redis, which sorts by letters, has them in order."""
    return f"{index:06d}"
