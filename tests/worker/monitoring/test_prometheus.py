"""The metrics of a worker as Prometheus reads them, and as docs/metrics.md lists them."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from voxspool.errors import MissingExtraError, SettingsError
from voxspool.protocol.stream import End, Mark
from voxspool_worker.engines.base import Prepared
from voxspool_worker.engines.xtts.output_check import FAULTS
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.monitoring.metrics import Gauges, Metrics
from voxspool_worker.monitoring.prometheus import Collector, serve
from voxspool_worker.narration.audio_checks import NOTHING_DBFS, AudioMeasurements
from voxspool_worker.narration.audio_checks import faults as audio_faults
from voxspool_worker.queue.outcomes import outcome_of
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.publisher import AlreadyRunningError
from voxspool_worker.speech.scheduler import Work

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
EXPOSITION = Path(__file__).with_name("exposition.txt")
"""The page that Prometheus reads. A change of it breaks dashboards, unless only a line with HELP changes."""
GAUGES = Gauges("a-worker", "tone", "sine-1", "cpu", 8, 2, 4, 3, Work(10, 25, 0.5))


def ended(first_chunk_s: float, factor: float) -> End:
    return End(24_000, 1.0, 1, first_chunk_s, factor)


def mark(*, tries: int = 1, fault: str = "") -> Mark:
    return Mark(0, 10, 0, 5, 12, 0, tries, fault)


def exposed(metrics: Metrics) -> dict[str, Metric]:
    """Return the metrics that Prometheus reads, by name."""
    registry = CollectorRegistry()
    registry.register(Collector(metrics.counts, lambda: GAUGES))
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, /, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return float(found)


def counted() -> Metrics:
    """Return metrics in which every number differs from 0."""
    metrics = Metrics()
    metrics.run_over("ended")
    metrics.run_over("failed", "timeout")
    metrics.first_audio(0.03)
    metrics.first_audio(99.0)
    metrics.job_ended(ended(0.03, 0.5))
    metrics.audio(1.5)
    metrics.segment_done(mark(tries=2, fault="cap"))
    metrics.voice_ready(Prepared("disk", 0.25))
    metrics.job_rescued()
    metrics.redis_away()
    return metrics


def test_every_count_is_served_under_its_metric_name() -> None:
    shown = exposed(counted())
    assert value(shown, "voxspool_jobs_total", outcome="ended", code="") == 1
    assert value(shown, "voxspool_jobs_total", outcome="failed", code="timeout") == 1
    assert value(shown, "voxspool_first_chunk_seconds_bucket", le="0.025") == 0
    assert value(shown, "voxspool_first_chunk_seconds_bucket", le="0.05") == 1
    assert value(shown, "voxspool_first_chunk_seconds_bucket", le="+Inf") == 2
    assert value(shown, "voxspool_first_chunk_seconds_count") == 2
    assert value(shown, "voxspool_first_chunk_seconds_sum") == pytest.approx(99.03)
    assert value(shown, "voxspool_real_time_factor_sum") == 0.5
    assert value(shown, "voxspool_audio_seconds_total") == 1.5
    assert value(shown, "voxspool_chunks_total") == 1
    assert value(shown, "voxspool_segments_total") == 1
    assert value(shown, "voxspool_characters_total") == 7
    assert value(shown, "voxspool_segments_spoken_again_total") == 1
    assert value(shown, "voxspool_segments_faulty_total", fault="cap") == 1
    assert value(shown, "voxspool_voices_ready_total", source="disk") == 1
    assert value(shown, "voxspool_voices_ready_seconds_total", source="disk") == 0.25
    assert value(shown, "voxspool_jobs_rescued_total") == 1
    assert value(shown, "voxspool_redis_outages_total") == 1
    assert value(shown, "voxspool_worker_info", name="a-worker", engine="tone", model="sine-1", device="cpu") == 1
    assert value(shown, "voxspool_jobs_running") == 2
    assert value(shown, "voxspool_jobs_limit") == 8
    assert value(shown, "voxspool_rows") == 4
    assert value(shown, "voxspool_rows_in_use") == 3
    assert value(shown, "voxspool_engine_steps_total") == 10
    assert value(shown, "voxspool_engine_row_steps_total") == 25
    assert value(shown, "voxspool_engine_busy_seconds_total") == 0.5


def test_the_page_does_not_change() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(counted().counts, lambda: GAUGES))
    assert generate_latest(registry).decode() == EXPOSITION.read_text(encoding="utf-8")


def test_the_table_in_the_docs_lists_exactly_the_served_metrics() -> None:
    families = Collector(lambda: told().counts(), lambda: GAUGES).collect()
    shown = [
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            sorted({label for sample in family.samples for label in sample.labels} - {"le"}),
            family.documentation,
        )
        for family in families
    ]
    rows = re.findall(r"^\| `(voxspool_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", DOCS, re.MULTILINE)
    documented = [(name, kind, sorted(re.findall(r"`(\w+)`", labels)), said) for name, kind, labels, said in rows]
    assert documented == shown


def test_the_alerts_in_the_operations_guide_use_served_metrics() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    used = set(re.findall(r"voxspool_[a-z_]+", guide.split("```yaml")[1].split("```")[0]))
    shown = {sample.name for family in exposed(told()).values() for sample in family.samples}
    assert used - shown == set()
    assert len(used) >= 5


def test_the_docs_list_all_outcomes() -> None:
    (row,) = re.findall(r"^\| `outcome` \| (.*) \|$", DOCS, re.MULTILINE)
    raised = [EndedEarlyError(reason) for reason in Reason]
    outcomes = {outcome_of(error)[0] for error in (*raised, AlreadyRunningError("x"), SpeechGivenUpError("x", "x"))}
    assert set(re.findall(r"`(\w+)`", row)) == outcomes | {"ended"}


def test_the_docs_list_all_faults() -> None:
    (row,) = re.findall(r"^\| `fault` \| (.*) \|$", DOCS, re.MULTILINE)
    all_at_once = AudioMeasurements(1e6, level_dbfs=99.0, peak_dbfs=0.0, silent_share=1.0, clipped_share=1.0)
    nothing = AudioMeasurements(0.0, level_dbfs=NOTHING_DBFS, peak_dbfs=NOTHING_DBFS, silent_share=1.0, clipped_share=0)
    in_audio = {*audio_faults(all_at_once, "Hello.", 1.0), *audio_faults(nothing, "Hello.", 1.0)}
    assert set(re.findall(r"`([a-z]+)`", row)) == in_audio | set(FAULTS) - {""}


def told() -> Metrics:
    """Return metrics in which every label has a value."""
    metrics = Metrics()
    metrics.run_over("ended")
    metrics.segment_done(mark(fault="cap"))
    metrics.voice_ready(Prepared())
    return metrics


def test_a_port_in_use_raises_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127.0.0.1:{port}: Address already in use; choose another port"):
            serve(port)


def test_without_the_extra_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"worker\[metrics\]"):
        serve(9)


def test_nothing_is_registered_in_the_global_registry() -> None:
    from prometheus_client import REGISTRY

    exposed(told())
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("voxspool")]
