"""What was measured: a figure with its samples by round, and the aim beside it.

A figure's p50 is the median over the rounds of each round's own p50, and so for p99: one disturbed round does not move
it. A round of less than a hundred samples has its slowest for p99, nearly; `n` counts the samples of all rounds.
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
"""What one round gives: a figure's name -> its samples."""

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
"""A figure's name -> the most that its p50, and its p99, should be. An aim is ours; RQ's figures stand beside it."""

UNITS: Final = {
    "commands a job": "commands",
    "commands sent a job": "commands",
    "round trips a job": "reads",
    "jobs a second": "1/s",
    "stream a minute of audio": "MB",
    "used memory a minute of audio": "MB",
    "piper real-time factor": "s/s",
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
    "peak memory": "GB",
}
"""A figure's name -> its unit, where that is not milliseconds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured, of one side."""

    name: str
    who: str
    rounds: Sequence[Sequence[float]]
    detail: Mapping[str, Any] = field(default_factory=dict)
    """More than a number: what lies behind it."""

    @property
    def unit(self) -> str:
        """Milliseconds, unless said otherwise."""
        return UNITS.get(self.name.partition(",")[0], "ms")

    @property
    def n(self) -> int:
        """How many samples there are."""
        return sum(len(samples) for samples in self.rounds)

    @property
    def p50(self) -> float:
        """The median, over rounds."""
        return self._percentile(50)

    @property
    def p99(self) -> float | None:
        """The 99th percentile, over rounds; None where a round is one sample."""
        return self._percentile(99) if self.n > len(self.rounds) else None

    @property
    def aim(self) -> tuple[float, float | None] | None:
        """The most that p50 and p99 should be."""
        return AIMS.get(self.name) if self.who == OURS else None

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached; None where there is none."""
        if self.aim is None:
            return None
        p50, p99 = self.aim
        return self.p50 <= p50 and (p99 is None or self.p99 is None or self.p99 <= p99)

    def as_json(self) -> dict[str, Any]:
        """Return all of it but the single samples."""
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
        """Return the median over rounds of a percentile."""
        return statistics.median(float(np.percentile(samples, percent)) for samples in self.rounds)


def alternate(rounds: int, sides: Mapping[str, Callable[[], Samples]]) -> list[Figure]:
    """Measure the sides in turn, round after round, so that what else the machine does hits them alike."""
    taken: dict[tuple[str, str], list[Sequence[float]]] = {}
    for _ in range(rounds):
        for who, measure in sides.items():
            for name, samples in measure().items():
                taken.setdefault((name, who), []).append(samples)
    return [Figure(name, who, samples) for (name, who), samples in sorted(taken.items())]
