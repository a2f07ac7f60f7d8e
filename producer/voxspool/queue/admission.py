"""Admission: refuse a job before Redis is full or a queue takes days to drain, and estimate when to try again.

Pure functions of Redis's memory, the length of the queue and the speed of the workers. Batch work is refused earlier
than interactive work, so that there is room for jobs that a person waits for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.protocol.environment import DEFAULT_MAX_WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.protocol.jobs import Priority
    from voxspool.workers import WorkerCard

MEMORY_SHARE: Final[dict[str, float]] = {"interactive": 0.95, "batch": 0.85}
"""Priority -> the share of Redis's `maxmemory` from which on jobs are refused. The rest is for the audio of accepted
jobs."""
MAX_WAITING: Final = DEFAULT_MAX_WAITING
"""The most jobs that may wait in one queue unless the settings say otherwise."""
RELIEF: Final = 0.1
"""The estimated time to try again is when a value is below its limit by this share. Otherwise all callers would come
back when there is room for one job."""
UNKNOWN_S: Final = 60
"""The time after which to try again, in seconds, if it cannot be estimated."""
LONGEST_S: Final = 3600
"""The longest time that an estimate tells a caller to wait, in seconds."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How full Redis and a queue are."""

    used_bytes: int
    limit_bytes: int
    """0: no limit."""
    mean_ttl_s: float
    """The mean remaining lifetime of the keys that have one, in seconds; 0: no key has one."""
    waiting: int
    """The number of jobs in the queue."""

    @classmethod
    def read(cls, memory: dict[str, Any], keyspace: dict[str, Any], waiting: int) -> Pressure:
        """Return the values in the sections `memory` and `keyspace` of Redis's INFO, with the length of the queue.

        A value that a server does not report, as some hosted ones do, counts as 0.
        """
        mean_ttl_ms = max((_count(database, "avg_ttl") for database in keyspace.values()), default=0)
        return cls(_count(memory, "used_memory"), _count(memory, "maxmemory"), mean_ttl_ms / 1000, waiting)


def _count(section: object, name: str) -> int:
    """Return a number of a section of INFO, as redis-py parses it; 0 if there is none."""
    value = section.get(name) if isinstance(section, dict) else None
    return value if isinstance(value, int) else 0


@dataclass(frozen=True, slots=True)
class Busy:
    """Why a job is refused now, and when to try again."""

    why: str
    retry_after_s: int


def turned_away(
    pressure: Pressure, priority: Priority, serving: Iterable[WorkerCard], max_waiting: int = MAX_WAITING
) -> Busy | None:
    """Return why a job is refused now; None if it is accepted. `serving` are the workers of its queue.

    `max_waiting` is the largest number of jobs that may wait in a queue.
    """
    share = MEMORY_SHARE[priority]
    if pressure.limit_bytes and pressure.used_bytes >= share * pressure.limit_bytes:
        used, limit = (round(count / 2**20) for count in (pressure.used_bytes, pressure.limit_bytes))
        why = f"Redis has {used:,} MB in use of {limit:,} MB"
        return Busy(why, _when_freed(pressure, (share - RELIEF) * pressure.limit_bytes))
    if pressure.waiting >= max_waiting:
        excess = pressure.waiting - (1 - RELIEF) * max_waiting
        return Busy(f"{pressure.waiting:,} jobs wait already", _when_drained(excess, serving))
    return None


def _when_freed(pressure: Pressure, wanted_bytes: float) -> int:
    """Estimate the time until memory is freed, in seconds, if keys expire evenly within twice their mean lifetime."""
    share = 1 - wanted_bytes / pressure.used_bytes
    return _bounded(2 * pressure.mean_ttl_s * share)


def _when_drained(jobs: float, serving: Iterable[WorkerCard]) -> int:
    """Estimate how long the workers of a queue take to end so many jobs, in seconds, from the jobs that they ended."""
    per_minute = sum(card.jobs_per_minute or 0 for card in serving)
    return _bounded(jobs / per_minute * 60 if per_minute else 0)


def _bounded(seconds: float) -> int:
    """Return a waiting time, limited to 1 s to LONGEST_S; UNKNOWN_S for an estimate that is not positive."""
    return round(min(LONGEST_S, max(1, seconds))) if seconds > 0 else UNKNOWN_S
