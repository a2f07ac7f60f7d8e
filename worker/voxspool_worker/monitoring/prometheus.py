"""Serve the metrics of a worker to Prometheus, on loopback. No other module imports prometheus_client.

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
    """Converts the metrics of a worker; Prometheus's registry calls `collect` at each scrape."""

    counts: Callable[[], Counts]
    gauges: Callable[[], Gauges]

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their present values."""
        yield from _counted(self.counts())
        yield from _present(self.gauges())


def _counted(counts: Counts) -> Iterator[Metric]:
    """Yield the counters."""
    yield _counter("jobs", "Finished runs of jobs.", counts.jobs.items(), ("outcome", "code"))
    yield _histogram("first_chunk_seconds", "Time from the start of a run to its first audio.", counts.first_chunk_s)
    yield _histogram("real_time_factor", "Seconds of work per second of audio, of a run.", counts.real_time_factor)
    yield _counter("audio_seconds", "Seconds of published audio.", counts.audio_s)
    yield _counter("chunks", "Published audio entries.", counts.chunks)
    yield _counter("segments", "Completed segments.", counts.segments)
    yield _counter("characters", "Spoken characters of text.", counts.characters)
    yield _counter("segments_spoken_again", "Segments that needed more than one try.", counts.spoken_again)
    yield _counter("segments_faulty", "Segments whose best try still has a fault.", _by(counts.faults), ("fault",))
    yield _counter("voices_ready", "Voices prepared for a run.", _by(counts.voices), ("source",))
    yield _counter("voices_ready_seconds", "Time spent preparing voices.", _by(counts.voices_s), ("source",))
    yield _counter("jobs_rescued", "Jobs of dead workers that this worker recovered.", counts.rescued)
    yield _counter("redis_outages", "Times that Redis became unreachable.", counts.outages)


def _present(gauges: Gauges) -> Iterator[Metric]:
    """Yield the present state of the worker, and the counts of its engine."""
    worker = (gauges.name, gauges.engine, gauges.model, gauges.device)
    identity = ("name", "engine", "model", "device")
    yield _gauge("worker_info", "Labels that identify the worker; the value is always 1.", [(worker, 1)], identity)
    yield _gauge("jobs_running", "Running jobs.", gauges.running)
    yield _gauge("jobs_limit", "Jobs that may run at once.", gauges.jobs)
    yield _gauge("rows", "Rows in the engine's batch.", gauges.rows)
    yield _gauge("rows_in_use", "Rows in use.", gauges.rows_in_use)
    yield _counter("engine_steps", "Steps of the engine.", gauges.work.steps)
    yield _counter("engine_row_steps", "Rows in use, summed over all steps.", gauges.work.row_steps)
    yield _counter("engine_busy_seconds", "Time spent in steps of the engine.", gauges.work.busy_s)


def _by(values: Mapping[str, float]) -> list[tuple[tuple[str], float]]:
    """Return samples with one label: the value of the label in a tuple, and the sample's value."""
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
    """Add `values` to a family and return it: a number without labels, or one per combination of label values."""
    for label_values, value in [((), values)] if isinstance(values, (int, float)) else values:
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, documentation: str, measured: Histogram) -> Metric:
    """Return a histogram with cumulative counts, as Prometheus needs them; `Histogram` counts each interval."""
    from prometheus_client.core import HistogramMetricFamily

    bounds = [*map(str, measured.bounds), "+Inf"]
    buckets = list(zip(bounds, itertools.accumulate(measured.counts), strict=True))
    return HistogramMetricFamily(f"voxspool_{name}", documentation, buckets, measured.sum)
