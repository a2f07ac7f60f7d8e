"""Count what a worker has done since it started. Its card shows the numbers and, with --metrics, `prometheus` does.

All counters are behind one lock; any thread may report. The worker creates the metrics and passes them on. No library
is used, so a report costs no more than an addition.
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
"""Histogram bounds for the time to first audio, in seconds: from the engine `tone` to a slow model and a long queue."""
FACTOR_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
"""Histogram bounds for the real-time factor; above 1, speech is slower than playback."""
RECENT_JOBS: Final = 50
"""Number of most recent jobs in the averages on the worker card."""
CACHED: Final = ("memory", "disk", "redis")
"""Sources of a voice that was computed before. A `built-in` voice is never computed."""


class Histogram:
    """A histogram: the number of measurements in each interval, and the sum of all."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """For each bound, the number of values above the previous bound and up to this one; last, those above all."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Add a measurement."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class Counts:
    """The counters of a worker; their values never decrease."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(outcome, code) -> number of finished runs. The code is empty unless the outcome is `failed`."""
    first_chunk_s: Histogram = field(default_factory=lambda: Histogram(FIRST_CHUNK_BOUNDS_S))
    real_time_factor: Histogram = field(default_factory=lambda: Histogram(FACTOR_BOUNDS))
    audio_s: float = 0.0
    chunks: int = 0
    segments: int = 0
    characters: int = 0
    spoken_again: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    voices: Counter[str] = field(default_factory=Counter)
    """Source -> how often a voice was prepared from it."""
    voices_s: dict[str, float] = field(default_factory=dict)
    """Source -> time spent preparing voices from it, in seconds."""
    rescued: int = 0
    outages: int = 0

    @property
    def failed(self) -> int:
        """Number of runs that failed, with any code."""
        return sum(count for (outcome, _), count in self.jobs.items() if outcome == "failed")

    @property
    def voice_hit_rate(self) -> float | None:
        """Share of the voices found in a cache, without the built-in ones; None before the first voice."""
        found = sum(self.voices[source] for source in CACHED)
        asked = found + self.voices["computed"]
        return found / asked if asked else None


@dataclass(frozen=True, slots=True)
class Recent:
    """Averages over the last RECENT_JOBS jobs that ended and produced speech; None if there is no such job."""

    first_chunk_s: float | None
    """Median time to first audio, in seconds."""
    real_time_factor: float | None
    """Mean real-time factor."""
    jobs_per_minute: float | None
    """Rate at which these jobs ended; None for a single job."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The present state of a worker."""

    name: str
    engine: str
    model: str
    device: str
    jobs: int
    """Number of jobs that may run at once."""
    running: int
    rows: int
    rows_in_use: int
    work: Work


class Metrics:
    """Counts the events of all jobs: the implementation of `Observer`. Any thread may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts()
        self._ended: deque[tuple[float, End]] = deque(maxlen=RECENT_JOBS)
        """The time by `clock` and the entry of each of the last jobs."""
        self._away = False

    def counts(self) -> Counts:
        """Return a consistent copy of all counts."""
        with self._lock:
            return copy.deepcopy(self._counts)

    def recent(self) -> Recent:
        """Return the averages over the last jobs."""
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
        """Count a voice that was prepared for a job."""
        with self._lock:
            self._counts.voices[prepared.source] += 1
            spent_s = self._counts.voices_s.get(prepared.source, 0.0)
            self._counts.voices_s[prepared.source] = spent_s + prepared.seconds

    def first_audio(self, after_s: float) -> None:
        """Record the time from the start of a run to its first audio, in seconds."""
        with self._lock:
            self._counts.first_chunk_s.add(after_s)

    def audio(self, duration_s: float) -> None:
        """Count a published audio entry of `duration_s` seconds."""
        with self._lock:
            self._counts.chunks += 1
            self._counts.audio_s += duration_s

    def segment_done(self, mark: Mark) -> None:
        """Count a complete segment."""
        with self._lock:
            self._counts.segments += 1
            self._counts.characters += mark.end - mark.start
            self._counts.spoken_again += mark.tries > 1
            if mark.fault:
                self._counts.faults[mark.fault] += 1

    def job_ended(self, end: End) -> None:
        """Record the speed of a complete job; a job that spoke nothing has none."""
        if end.real_time_factor is None:
            return
        with self._lock:
            self._counts.real_time_factor.add(end.real_time_factor)
            self._ended.append((self._clock(), end))

    def run_over(self, outcome: str, code: str = "") -> None:
        """Count a finished run, with any outcome."""
        with self._lock:
            self._counts.jobs[outcome, code] += 1

    def job_rescued(self) -> None:
        """Count a job of a dead worker that this worker recovered."""
        with self._lock:
            self._counts.rescued += 1

    def redis_away(self) -> None:
        """Report that Redis cannot be reached; the first report since it last answered counts as an outage."""
        with self._lock:
            self._counts.outages += not self._away
            self._away = True

    def redis_here(self) -> None:
        """Report that Redis answers."""
        with self._lock:
            self._away = False
