"""The metrics of a worker for Prometheus, served on loopback. No other module imports prometheus_client.

This module defines the name, type and labels of every metric; docs/metrics.md lists them. No metric is registered in
the global registry: the numbers of the worker are read at each scrape.
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

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

    from voxspool_worker.monitoring.metrics import Counts, Gauges, Histogram

    _Values: TypeAlias = float | Iterable[tuple[tuple[str, ...], float]]

HOST: Final = "127.0.0.1"
"""Loopback only: a worker accepts no connection from the network. A proxy that authenticates may forward the page."""


def serve(port: int) -> Callable[[Collector], None]:
    """Serve http://127.0.0.1:<port>/metrics from a thread, and return the function that sets what is shown there.

    Until that function is called, the page is empty. Raises MissingExtraError if prometheus_client is not installed,
    and SettingsError if the port cannot be opened.
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
    """The metrics of a worker; Prometheus's registry calls `collect` at each scrape."""

    counts: Callable[[], Counts]
    gauges: Callable[[], Gauges]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their present values."""
        yield from _counted(self.counts())
        yield from _present(self.gauges())


def _counted(counts: Counts) -> Iterator[Metric]:
    """Yield what has been counted since the worker started."""
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


def _present(gauges: Gauges) -> Iterator[Metric]:
    """Yield the present state of the worker, and the counts of its engine."""
    worker = (gauges.name, gauges.engine, gauges.model, gauges.device)
    yield _gauge("worker_info", "Who this is; always 1.", [(worker, 1)], ("name", "engine", "model", "device"))
    yield _gauge("jobs_running", "Jobs that run.", gauges.running)
    yield _gauge("jobs_limit", "Jobs that may run at once.", gauges.jobs)
    yield _gauge("rows", "Seats in the engine's batch.", gauges.rows)
    yield _gauge("rows_in_use", "Seats that are taken.", gauges.rows_in_use)
    yield _counter("engine_steps", "Steps of the engine.", gauges.work.steps)
    yield _counter("engine_row_steps", "Seats that were taken, summed over the steps.", gauges.work.row_steps)
    yield _counter("engine_busy_seconds", "What the steps took.", gauges.work.busy_s)


def _by(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    """Return each value under the value of its only label."""
    return [((label,), value) for label, value in values.items()]


def _counter(name: str, documentation: str, values: _Values, labels: tuple[str, ...] = ()) -> Metric:
    """Return a counter. Its samples are called <name>_total."""
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"voxspool_{name}", documentation, labels=labels), values)


def _gauge(name: str, documentation: str, values: _Values, labels: tuple[str, ...] = ()) -> Metric:
    """Return a gauge."""
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"voxspool_{name}", documentation, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: _Values) -> Metric:
    """Add a sample for each combination of label values; a number is the only sample, without labels."""
    for label_values, value in [((), values)] if isinstance(values, (int, float)) else values:
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, documentation: str, measured: Histogram) -> Metric:
    """Return a histogram. Prometheus counts the measurements at or below each bound, ours those between two bounds."""
    from prometheus_client.core import HistogramMetricFamily

    bounds = [*map(str, measured.bounds), "+Inf"]
    buckets = list(zip(bounds, itertools.accumulate(measured.counts), strict=True))
    return HistogramMetricFamily(f"voxspool_{name}", documentation, buckets, measured.sum)
