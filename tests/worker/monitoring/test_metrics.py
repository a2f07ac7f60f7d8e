"""The counters of a worker, and the averages over its last jobs."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.protocol.stream import End, Mark
from voxspool_worker.engines.base import Prepared
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.monitoring.metrics import RECENT_JOBS, Histogram, Metrics
from voxspool_worker.queue.outcomes import outcome_of
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.publisher import AlreadyRunningError, LostWritesError
from voxspool_worker.speech.scheduler import EngineLostError, Work


def ended(first_chunk_s: float, factor: float) -> End:
    return End(24_000, 1.0, 1, first_chunk_s, factor)


def mark(*, tries: int = 1, fault: str = "") -> Mark:
    return Mark(0, 10, 0, 5, 12, 0, tries, fault)


@given(st.lists(st.floats(0, 20)))
def test_a_bucket_counts_the_values_up_to_its_bound(measured: list[float]) -> None:
    histogram = Histogram((1.0, 2.5, 10.0))
    for one in [*measured, 2.5]:
        histogram.add(one)
    below = [sum(one <= bound for one in [*measured, 2.5]) for bound in histogram.bounds]
    assert [sum(histogram.counts[: place + 1]) for place in range(3)] == below
    assert sum(histogram.counts) == len(measured) + 1
    assert histogram.sum == pytest.approx(sum(measured) + 2.5)


def test_before_the_first_job_there_are_no_averages() -> None:
    metrics = Metrics()
    assert (metrics.recent().first_chunk_s, metrics.recent().real_time_factor) == (None, None)
    assert metrics.counts().voice_hit_rate is None
    assert metrics.counts().failed == 0


def test_recent_is_the_median_and_the_mean_of_the_last_jobs_only() -> None:
    metrics = Metrics()
    metrics.job_ended(ended(100.0, 100.0))
    for _ in range(RECENT_JOBS - 2):
        metrics.job_ended(ended(0.5, 0.1))
    metrics.job_ended(ended(9.0, 5.1))
    metrics.job_ended(ended(9.0, 0.1))
    assert metrics.recent().first_chunk_s == 0.5
    assert metrics.recent().real_time_factor == pytest.approx(0.2)


def test_a_job_without_speech_is_not_measured() -> None:
    metrics = Metrics()
    metrics.job_ended(End(0, 0.0, 0, None, None))
    assert metrics.recent().real_time_factor is None
    assert sum(metrics.counts().real_time_factor.counts) == 0


def test_the_hit_rate_counts_only_voices_that_have_to_be_computed() -> None:
    metrics = Metrics()
    for source, seconds in [("computed", 1.5), ("memory", 0.0), ("disk", 0.01), ("redis", 0.02), ("built-in", 0.0)]:
        metrics.voice_ready(Prepared(source, seconds))
    metrics.voice_ready(Prepared("computed", 0.5))
    assert metrics.counts().voice_hit_rate == 3 / 5
    assert metrics.counts().voices_s["computed"] == 2.0


def test_repeated_and_faulty_segments_are_counted() -> None:
    metrics = Metrics()
    for one in (mark(), mark(tries=2), mark(tries=3, fault="rate"), mark(fault="noise"), mark(fault="noise")):
        metrics.segment_done(one)
    counts = metrics.counts()
    assert (counts.segments, counts.characters, counts.spoken_again) == (5, 35, 2)
    assert counts.faults == {"rate": 1, "noise": 2}


def test_an_outage_is_counted_once_even_if_many_commands_fail() -> None:
    metrics = Metrics()
    metrics.redis_here()
    for _ in range(5):
        metrics.redis_away()
    assert metrics.counts().outages == 1
    metrics.redis_here()
    metrics.redis_away()
    assert metrics.counts().outages == 2


def test_returned_counts_do_not_change_afterwards() -> None:
    metrics = Metrics()
    metrics.first_audio(0.1)
    before = metrics.counts()
    metrics.first_audio(0.1)
    metrics.run_over("ended")
    assert sum(before.first_chunk_s.counts) == 1
    assert not before.jobs


def test_counts_from_several_threads_are_all_added() -> None:
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
def test_the_error_of_a_run_determines_its_outcome(error: Exception | None, outcome: tuple[str, str]) -> None:
    assert outcome_of(error) == outcome


def test_every_reason_to_end_early_has_an_outcome() -> None:
    assert all(outcome_of(EndedEarlyError(reason)) != ("failed", "internal") for reason in Reason)


def test_mean_rows_is_the_mean_over_the_steps_between_two_measurements() -> None:
    assert Work(30, 70, 2.0).mean_rows(Work(10, 20, 1.0)) == 2.5
    assert Work(10, 20, 1.0).mean_rows(Work(10, 20, 1.0)) is None
