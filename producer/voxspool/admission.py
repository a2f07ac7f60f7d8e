"""Accept a job now, or say when to try again: before Redis is full, before a queue takes days to drain.

Pure functions: the memory of Redis, the queue and the speed of the workers decide. Batch work is refused earlier than
interactive work, so that there is room for somebody who waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.protocol.jobs import Priority
    from voxspool.workers import WorkerCard

MEMORY_SHARE: Final[dict[str, float]] = {"interactive": 0.95, "batch": 0.85}
"""Up to which share of Redis's `maxmemory` a job is let in. What is left is for the audio of those that are in."""
MAX_WAITING: Final = 10_000
"""How many jobs may wait in one queue: hours of work, and at most some 100 MB of text."""
RELIEF: Final = 0.1
"""How much lower it should be when somebody tries again, of either limit: else all would try at once."""
UNKNOWN_S: Final = 60
"""When to try again, where nothing says how long it takes."""
LONGEST_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Pressure:
    """What Redis says of itself and of a queue."""

    used_bytes: int
    limit_bytes: int
    """0: no limit."""
    mean_ttl_s: float
    """How long the keys that have a lifetime live on, on the mean; 0: there is none."""
    waiting: int
    """Jobs in the queue."""

    @classmethod
    def read(cls, memory: dict[str, Any], keyspace: dict[str, Any], waiting: int) -> Pressure:
        """Read the sections `memory` and `keyspace` of INFO."""
        mean_ttl_ms = max((database["avg_ttl"] for database in keyspace.values()), default=0)
        return cls(memory["used_memory"], memory["maxmemory"], mean_ttl_ms / 1000, waiting)


@dataclass(frozen=True, slots=True)
class Busy:
    """Why a job is not let in."""

    why: str
    retry_after_s: int


def turned_away(pressure: Pressure, priority: Priority, serving: Iterable[WorkerCard]) -> Busy | None:
    """Return why a job is not accepted now, and when it may be; None if it is accepted."""
    share = MEMORY_SHARE[priority]
    if pressure.limit_bytes and pressure.used_bytes >= share * pressure.limit_bytes:
        used, limit = (round(count / 2**20) for count in (pressure.used_bytes, pressure.limit_bytes))
        why = f"Redis has {used:,} MB in use of {limit:,} MB"
        return Busy(why, _when_freed(pressure, (share - RELIEF) * pressure.limit_bytes))
    if pressure.waiting >= MAX_WAITING:
        return Busy(f"{pressure.waiting:,} jobs wait already", _when_drained(pressure.waiting, serving))
    return None


def _when_freed(pressure: Pressure, wanted_bytes: float) -> int:
    """Estimate when memory is given back: keys go evenly within twice their mean time to live."""
    share = 1 - wanted_bytes / pressure.used_bytes
    return _bounded(2 * pressure.mean_ttl_s * share)


def _when_drained(waiting: int, serving: Iterable[WorkerCard]) -> int:
    """Estimate when a queue is shorter, by how many jobs its workers end in a minute."""
    per_minute = sum(card.jobs_per_minute or 0 for card in serving)
    return _bounded((waiting - (1 - RELIEF) * MAX_WAITING) / per_minute * 60 if per_minute else 0)


def _bounded(seconds: float) -> int:
    """Return a time to wait that is one."""
    return min(LONGEST_S, max(1, round(seconds))) if seconds > 0 else UNKNOWN_S
