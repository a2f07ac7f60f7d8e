"""What metrics make of what they are told, and that docs/metrics.md names what Prometheus is shown."""

from __future__ import annotations

import re
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from voxspool.errors import MissingExtraError, SettingsError
from voxspool.protocol.stream import End, Mark
from voxspool_worker.engines.base import Prepared
from voxspool_worker.engines.xtts.output_check import FAULTS
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.monitoring.metrics import RECENT_JOBS, Gauges, Histogram, Metrics
from voxspool_worker.monitoring.prometheus import Collector, serve
from voxspool_worker.narration.audio_checks import NOTHING_DBFS, AudioMeasurements
from voxspool_worker.narration.audio_checks import faults as audio_faults
from voxspool_worker.queue.outcomes import outcome_of
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.publisher import AlreadyRunningError, LostWritesError
from voxspool_worker.speech.scheduler import EngineLostError, Work

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

DOCS = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
GAUGES = Gauges("a-worker", "tone", "sine-1", "cpu", 8, 2, 4, 3, Work(10, 25, 0.5))


def ended(first_chunk_s: float, factor: float) -> End:
    return End(24_000, 1.0, 1, first_chunk_s, factor)


def mark(*, tries: int = 1, fault: str = "") -> Mark:
    return Mark(0, 10, 0, 5, 12, 0, tries, fault)


def exposed(metrics: Metrics) -> dict[str, Metric]:
    """Read what Prometheus would, by the name of its first sample."""
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


# Counting


@given(st.lists(st.floats(0, 20)))
def test_a_bucket_holds_what_lies_at_or_below_its_bound(measured: list[float]) -> None:
    histogram = Histogram((1.0, 2.5, 10.0))
    for one in [*measured, 2.5]:
        histogram.add(one)
    below = [sum(one <= bound for one in [*measured, 2.5]) for bound in histogram.bounds]
    assert [sum(histogram.counts[: place + 1]) for place in range(3)] == below
    assert sum(histogram.counts) == len(measured) + 1
    assert histogram.sum == pytest.approx(sum(measured) + 2.5)


def test_before_the_first_job_there_is_nothing_to_sum_up() -> None:
    metrics = Metrics()
    assert (metrics.recent().first_chunk_s, metrics.recent().real_time_factor) == (None, None)
    assert metrics.counts().voice_hit_rate is None
    assert metrics.counts().failed == 0


def test_recent_is_the_median_and_the_mean_of_the_last_jobs_alone() -> None:
    metrics = Metrics()
    metrics.job_ended(ended(100.0, 100.0))
    for _ in range(RECENT_JOBS - 2):
        metrics.job_ended(ended(0.5, 0.1))
    metrics.job_ended(ended(9.0, 5.1))
    metrics.job_ended(ended(9.0, 0.1))
    assert metrics.recent().first_chunk_s == 0.5
    assert metrics.recent().real_time_factor == pytest.approx(0.2)


def test_a_job_that_said_nothing_is_no_measurement() -> None:
    metrics = Metrics()
    metrics.job_ended(End(0, 0.0, 0, None, None))
    assert metrics.recent().real_time_factor is None
    assert sum(metrics.counts().real_time_factor.counts) == 0


def test_the_hit_rate_is_of_the_voices_that_have_to_be_computed() -> None:
    metrics = Metrics()
    for source, seconds in [("computed", 1.5), ("memory", 0.0), ("disk", 0.01), ("redis", 0.02), ("built-in", 0.0)]:
        metrics.voice_ready(Prepared(source, seconds))
    metrics.voice_ready(Prepared("computed", 0.5))
    assert metrics.counts().voice_hit_rate == 3 / 5
    assert metrics.counts().voices_s["computed"] == 2.0


def test_what_the_guard_did_is_counted() -> None:
    metrics = Metrics()
    for one in (mark(), mark(tries=2), mark(tries=3, fault="rate"), mark(fault="noise"), mark(fault="noise")):
        metrics.segment_done(one)
    counts = metrics.counts()
    assert (counts.segments, counts.characters, counts.spoken_again) == (5, 35, 2)
    assert counts.faults == {"rate": 1, "noise": 2}


def test_an_outage_is_counted_once_however_many_commands_fail() -> None:
    metrics = Metrics()
    metrics.redis_here()
    for _ in range(5):
        metrics.redis_away()
    assert metrics.counts().outages == 1
    metrics.redis_here()
    metrics.redis_away()
    assert metrics.counts().outages == 2


def test_counts_that_were_given_do_not_change_afterwards() -> None:
    metrics = Metrics()
    metrics.first_audio(0.1)
    before = metrics.counts()
    metrics.first_audio(0.1)
    metrics.run_over("ended")
    assert sum(before.first_chunk_s.counts) == 1
    assert not before.jobs


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def speak() -> None:
        for _ in range(2000):
            metrics.audio(0.5)

    threads = [threading.Thread(target=speak) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (metrics.counts().chunks, metrics.counts().audio_s) == (16_000, 8_000.0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EndedEarlyError(Reason.CANCELLED), ("cancelled", "")),
        (EndedEarlyError(Reason.TIMED_OUT), ("failed", "timeout")),
        (EndedEarlyError(Reason.HANDED_BACK), ("handed_back", "")),
        (EndedEarlyError(Reason.LEASE_LOST), ("lost", "")),
        (EngineLostError("broken"), ("handed_back", "")),
        (LostWritesError("gone"), ("handed_back", "")),
        (AlreadyRunningError("another"), ("held", "")),
        (SpeechGivenUpError("unknown-voice", "no such voice"), ("failed", "unknown-voice")),
        (KeyError("x"), ("failed", "internal")),
        (None, ("failed", "internal")),
    ],
    ids=repr,
)
def test_a_run_that_raised_is_counted_as_what_it_raised_says(error: Exception | None, outcome: tuple[str, str]) -> None:
    assert outcome_of(error) == outcome


def test_every_reason_to_end_early_has_an_outcome() -> None:
    assert all(outcome_of(EndedEarlyError(reason)) != ("failed", "internal") for reason in Reason)


def test_the_mean_of_the_rows_is_of_the_steps_between_two_moments() -> None:
    assert Work(30, 70, 2.0).mean_rows(Work(10, 20, 1.0)) == 2.5
    assert Work(10, 20, 1.0).mean_rows(Work(10, 20, 1.0)) is None


# For Prometheus


def test_every_number_is_shown_under_its_name() -> None:
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
    shown = exposed(metrics)
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


def test_the_documented_table_is_what_is_shown() -> None:
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


def test_the_documented_outcomes_are_all() -> None:
    (row,) = re.findall(r"^\| `outcome` \| (.*) \|$", DOCS, re.MULTILINE)
    raised = [EndedEarlyError(reason) for reason in Reason]
    outcomes = {outcome_of(error)[0] for error in (*raised, AlreadyRunningError("x"), SpeechGivenUpError("x", "x"))}
    assert set(re.findall(r"`(\w+)`", row)) == outcomes | {"ended"}


def test_the_documented_faults_are_all_that_the_code_can_find() -> None:
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


def test_a_port_that_is_taken_is_one_line_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127.0.0.1:{port}: Address already in use; choose another port"):
            serve(port)


def test_without_the_extra_its_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"worker\[metrics\]"):
        serve(9)


def test_nothing_is_registered_where_others_would_see_it() -> None:
    from prometheus_client import REGISTRY

    exposed(told())
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("voxspool")]
