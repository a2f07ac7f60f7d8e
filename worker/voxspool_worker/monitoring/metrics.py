"""What a worker has done since it started, in numbers: shown by its card and, if asked for, to Prometheus.

Plain Python behind one lock; any thread may report. The worker creates the metrics and passes them on. Only it and
`prometheus`, which writes them in Prometheus's format, import this module. No library: a report costs an addition.
"""

from __future__ import annotations

import bisect
import copy
import statistics
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool.protocol.stream import End, Mark
    from voxspool_worker.engines.base import Prepared
    from voxspool_worker.speech.scheduler import Work

FIRST_CHUNK_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Between tone's milliseconds and a model that has a long queue before it, in seconds."""
FACTOR_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
"""Above 1, a listener waits."""
RECENT_JOBS: Final = 50
"""Number of most recent jobs in the averages on the worker card."""
CACHED: Final = ("memory", "disk", "redis")
"""Sources of a voice that was computed before; `built-in` never has to be."""


class Histogram:
    """A histogram: the number of measurements in each interval, and the sum of all."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """A count for each bound, of what lies between the one before and it; last, of what lies above all."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Take a measurement."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class Counts:
    """The counters: values that never fall."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(outcome, code) -> runs that are over. The code is empty but for `failed`."""
    first_chunk_s: Histogram = field(default_factory=lambda: Histogram(FIRST_CHUNK_BOUNDS_S))
    real_time_factor: Histogram = field(default_factory=lambda: Histogram(FACTOR_BOUNDS))
    audio_s: float = 0.0
    chunks: int = 0
    segments: int = 0
    characters: int = 0
    spoken_again: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    voices: Counter[str] = field(default_factory=Counter)
    """Source -> how often a voice was made ready from there."""
    voices_s: dict[str, float] = field(default_factory=dict)
    """Source -> the seconds that it took."""
    rescued: int = 0
    outages: int = 0

    @property
    def failed(self) -> int:
        """Runs that failed, whatever the code."""
        return sum(count for (outcome, _), count in self.jobs.items() if outcome == "failed")

    @property
    def voice_hit_rate(self) -> float | None:
        """The share of voices that were found, of all that had to be computed once; None before the first."""
        found = sum(self.voices[source] for source in CACHED)
        asked = found + self.voices["computed"]
        return found / asked if asked else None


@dataclass(frozen=True, slots=True)
class Recent:
    """The last RECENT_JOBS jobs that ended with something said."""

    first_chunk_s: float | None
    """The median."""
    real_time_factor: float | None
    """The mean."""
    jobs_per_minute: float | None
    """Number of these jobs that ended in a minute."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The present state of a worker."""

    name: str
    engine: str
    model: str
    device: str
    jobs: int
    """How many jobs may run at once."""
    running: int
    rows: int
    rows_in_use: int
    work: Work


class Metrics:
    """Counts what it is told. The pipeline's Observer; from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts()
        self._ended: deque[tuple[float, End]] = deque(maxlen=RECENT_JOBS)
        """When, by `clock`, and what."""
        self._away = False

    def counts(self) -> Counts:
        """Return a copy of all counts, of one moment."""
        with self._lock:
            return copy.deepcopy(self._counts)

    def recent(self) -> Recent:
        """Sum up the last jobs."""
        with self._lock:
            times, ended = [at for at, _ in self._ended], [end for _, end in self._ended]
        first = [end.first_chunk_s for end in ended if end.first_chunk_s is not None]
        factors = [end.real_time_factor for end in ended if end.real_time_factor is not None]
        return Recent(
            statistics.median(first) if first else None,
            statistics.fmean(factors) if factors else None,
            60 * (len(times) - 1) / (times[-1] - times[0]) if times and times[-1] > times[0] else None,
        )

    def voice_ready(self, prepared: Prepared) -> None:
        """A job's voice was made ready."""
        with self._lock:
            self._counts.voices[prepared.source] += 1
            spent_s = self._counts.voices_s.get(prepared.source, 0.0)
            self._counts.voices_s[prepared.source] = spent_s + prepared.seconds

    def first_audio(self, after_s: float) -> None:
        """A run published its first audio."""
        with self._lock:
            self._counts.first_chunk_s.add(after_s)

    def audio(self, duration_s: float) -> None:
        """An audio entry was published."""
        with self._lock:
            self._counts.chunks += 1
            self._counts.audio_s += duration_s

    def segment_done(self, mark: Mark) -> None:
        """A mark entry was published."""
        with self._lock:
            self._counts.segments += 1
            self._counts.characters += mark.end - mark.start
            self._counts.spoken_again += mark.tries > 1
            if mark.fault:
                self._counts.faults[mark.fault] += 1

    def job_ended(self, end: End) -> None:
        """An end entry was published."""
        if end.real_time_factor is None:
            return  # nothing was said: there is nothing to measure
        with self._lock:
            self._counts.real_time_factor.add(end.real_time_factor)
            self._ended.append((self._clock(), end))

    def run_over(self, outcome: str, code: str = "") -> None:
        """A run is over, however it went."""
        with self._lock:
            self._counts.jobs[outcome, code] += 1

    def job_rescued(self) -> None:
        """A dead worker's job was brought back."""
        with self._lock:
            self._counts.rescued += 1

    def redis_away(self) -> None:
        """A command found no Redis: an outage, unless it is the one that goes on."""
        with self._lock:
            self._counts.outages += not self._away
            self._away = True

    def redis_here(self) -> None:
        """Redis answers."""
        with self._lock:
            self._away = False
