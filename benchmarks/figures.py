"""Figures: measured samples by round, with statistics and the target for each.

The p50 of a figure is the median of the p50 of its rounds, and p99 likewise, so one disturbed round does not affect
them. With fewer than a hundred samples per round, p99 is close to the maximum. `n` is the number of all samples.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OURS: Final = "voxspool"
RQ: Final = "rq SimpleWorker"

Samples: TypeAlias = "Mapping[str, Sequence[float]]"
"""Results of one round: name of a figure -> its samples."""

AIMS: Final[dict[str, tuple[float, float | None]]] = {
    "enqueue to start": (2.5, 5.0),
    "cost of a job": (2.5, None),
    "commands a job": (50.0, None),
    "publish to 1 consumer": (0.5, 1.5),
    "import voxspool": (150.0, None),
    "jobs failed": (0.0, None),
    "lost samples": (0.0, None),
    "doubled samples": (0.0, None),
    "audio again, after kill -9": (11.0, 11.0),
}
"""Name of a figure -> the targets of voxspool: maximum p50 and p99. RQ has no targets."""

UNITS: Final = {
    "commands a job": "commands",
    "commands sent a job": "commands",
    "round trips a job": "reads",
    "jobs a second": "1/s",
    "jobs enqueued a second": "1/s",
    "stream a minute of audio": "MB",
    "used memory a minute of audio": "MB",
    "piper real-time factor": "s/s",
    "speed": "chars/s",
    "CPU after leaving": "s",
    "first chunk": "s",
    "sentence": "s/s",
    "passage": "s/s",
    "narration": "s/s",
    "chunk": "s",
    "decode": "tokens/s",
    "load": "s",
    "jobs ended": "jobs",
    "jobs failed": "jobs",
    "jobs resumed": "jobs",
    "lost samples": "samples",
    "doubled samples": "samples",
    "readings": "readings",
    "audio again": "s",
    "redis memory": "MB",
    "worker memory": "MB",
    "characters a second": "1/s",
    "peak memory": "GB",
}
"""Name of a figure -> its unit, if it is not milliseconds. Real-time factors have the unit s/s."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity of one system."""

    name: str
    who: str
    """The system: OURS, RQ, or one of the XTTS benchmark."""
    rounds: Sequence[Sequence[float]]
    """The samples of each round."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Further data for the JSON file."""

    @property
    def unit(self) -> str:
        """The unit of the samples."""
        return UNITS.get(self.name.partition(",")[0], "ms")

    @property
    def n(self) -> int:
        """Number of samples in all rounds."""
        return sum(len(samples) for samples in self.rounds)

    @property
    def p50(self) -> float:
        """The median."""
        return self._percentile(50)

    @property
    def p99(self) -> float | None:
        """The 99th percentile; None if every round has one sample only."""
        return self._percentile(99) if self.n > len(self.rounds) else None

    @property
    def aim(self) -> tuple[float, float | None] | None:
        """The targets: maximum p50 and p99; None if there are none."""
        return AIMS.get(self.name) if self.who == OURS else None

    @property
    def reached(self) -> bool | None:
        """True if all targets are reached, False if one is missed, None if there are no targets."""
        if self.aim is None:
            return None
        p50, p99 = self.aim
        return self.p50 <= p50 and (p99 is None or self.p99 is None or self.p99 <= p99)

    def as_json(self) -> dict[str, Any]:
        """Return the figure without the single samples, for the JSON file."""
        return {
            "name": self.name,
            "who": self.who,
            "unit": self.unit,
            "p50": self.p50,
            "p99": self.p99,
            "n": self.n,
            "rounds_p50": [float(np.percentile(samples, 50)) for samples in self.rounds],
            "aim": dict(zip(("p50", "p99"), self.aim, strict=True)) if self.aim else None,
            "reached": self.reached,
            "detail": dict(self.detail),
        }

    def _percentile(self, percent: int) -> float:
        """Return a percentile: its median over all rounds."""
        return statistics.median(float(np.percentile(samples, percent)) for samples in self.rounds)


def alternate(rounds: int, systems: Mapping[str, Callable[[], Samples]]) -> list[Figure]:
    """Measure the systems in turn, round after round, so that other load on the machine affects all of them equally."""
    measured: dict[tuple[str, str], list[Sequence[float]]] = {}
    for _ in range(rounds):
        for who, measure in systems.items():
            for name, samples in measure().items():
                measured.setdefault((name, who), []).append(samples)
    return [Figure(name, who, samples) for (name, who), samples in sorted(measured.items())]
