"""A worker's metrics in the format of Prometheus, served on loopback. The only module that imports prometheus_client.

Every name, type and label that a dashboard may use is defined here and listed in docs/metrics.md. Nothing is registered
globally: the worker's own numbers are read when Prometheus asks.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voxspool.errors import MissingExtraError, SettingsError
from voxspool.hints import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TypeAlias

    from prometheus_client.metrics_core import Metric

    from voxspool_worker.monitoring.metrics import Counts, Gauges, Histogram

    _Values: TypeAlias = float | Iterable[tuple[tuple[str, ...], float]]

HOST: Final = "127.0.0.1"
"""Loopback alone: a worker has no door to the network. What must cross it goes through a proxy that asks who it is."""


def serve(port: int) -> Callable[[Collector], None]:
    """Answer http://127.0.0.1:<port>/metrics from a thread; give the function that says what to show there.

    Until it is called the page is empty. Raises MissingExtraError, or SettingsError where the port cannot be had.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise MissingExtraError(missing("--metrics", "prometheus-client", "voxspool-worker", "metrics"))
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    try:
        start_http_server(port, addr=HOST, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on {HOST}:{port}: {error.strerror}; choose another port for --metrics",
            wrong_value=False,
        ) from error
    return registry.register


@dataclass(frozen=True, slots=True)
class Collector:
    """A worker's metrics, read anew at every scrape."""

    counts: Callable[[], Counts]
    gauges: Callable[[], Gauges]

    def collect(self) -> Iterator[Metric]:
        """Yield all of them."""
        yield from _counted(self.counts())
        yield from _now(self.gauges())


def _counted(counts: Counts) -> Iterator[Metric]:
    """Yield what the jobs came to."""
    yield _counter("jobs", "Runs of jobs that are over.", counts.jobs.items(), ("outcome", "code"))
    yield _histogram("first_chunk_seconds", "From the start of a run to its first audio.", counts.first_chunk_s)
    yield _histogram("real_time_factor", "Seconds of work a second of audio, of a run.", counts.real_time_factor)
    yield _counter("audio_seconds", "Audio that was published.", counts.audio_s)
    yield _counter("chunks", "Audio entries that were published.", counts.chunks)
    yield _counter("segments", "Segments that were completed.", counts.segments)
    yield _counter("characters", "Characters of the text that were spoken.", counts.characters)
    yield _counter("segments_spoken_again", "Segments that took more than one try.", counts.spoken_again)
    yield _counter("segments_faulty", "Segments whose best try has a fault still.", _by(counts.faults), ("fault",))
    yield _counter("voices_ready", "Voices that were made ready for a run.", _by(counts.voices), ("source",))
    yield _counter("voices_ready_seconds", "What making them ready took.", _by(counts.voices_s), ("source",))
    yield _counter("jobs_rescued", "Jobs of dead workers that this one brought back.", counts.rescued)
    yield _counter("redis_outages", "Times that Redis went away.", counts.outages)


def _now(gauges: Gauges) -> Iterator[Metric]:
    """Yield how the worker is at this moment, and what its engine has done."""
    who = (gauges.name, gauges.engine, gauges.model, gauges.device)
    yield _gauge("worker_info", "Who this is; always 1.", [(who, 1)], ("name", "engine", "model", "device"))
    yield _gauge("jobs_running", "Jobs that run.", gauges.running)
    yield _gauge("jobs_limit", "Jobs that may run at once.", gauges.jobs)
    yield _gauge("rows", "Seats in the engine's batch.", gauges.rows)
    yield _gauge("rows_in_use", "Seats that are taken.", gauges.rows_in_use)
    yield _counter("engine_steps", "Steps of the engine.", gauges.work.steps)
    yield _counter("engine_row_steps", "Seats that were taken, summed over the steps.", gauges.work.row_steps)
    yield _counter("engine_busy_seconds", "What the steps took.", gauges.work.busy_s)


def _by(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    """Return values under their only label."""
    return [((label,), value) for label, value in values.items()]


def _counter(name: str, said: str, values: _Values, labels: tuple[str, ...] = ()) -> Metric:
    """Describe what only grows; its samples are `<name>_total`."""
    return _metric("counter", name, said, "_total", values, labels)


def _gauge(name: str, said: str, values: _Values, labels: tuple[str, ...] = ()) -> Metric:
    """Describe what rises and falls."""
    return _metric("gauge", name, said, "", values, labels)


def _histogram(name: str, said: str, measured: Histogram) -> Metric:
    """Describe measurements; Prometheus counts what lies at or below each bound."""
    bounds = [*map(str, measured.bounds), "+Inf"]
    below = list(itertools.accumulate(measured.counts))
    buckets = [((bound,), count) for bound, count in zip(bounds, below, strict=True)]
    metric = _metric("histogram", name, said, "_bucket", buckets, ("le",))
    metric.add_sample(f"{metric.name}_count", {}, below[-1])
    metric.add_sample(f"{metric.name}_sum", {}, measured.sum)
    return metric


def _metric(kind: str, name: str, said: str, suffix: str, values: _Values, labels: tuple[str, ...]) -> Metric:
    """Describe a metric and give its samples, one for each combination of labels."""
    from prometheus_client.metrics_core import Metric

    metric = Metric(f"voxspool_{name}", said, kind)
    for chosen, value in [((), values)] if isinstance(values, (int, float)) else values:
        metric.add_sample(metric.name + suffix, dict(zip(labels, chosen, strict=True)), value)
    return metric
