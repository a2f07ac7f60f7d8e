"""When a reader looks for a worker, and that it warns once."""

from __future__ import annotations

import warnings

import pytest

from voxspool.reading.waiting import FIRST_LOOK, LOOK_EVERY, NoWorkerWarning, Watch

QUEUED, RUNNING = "queued", "running"


def looks(watch: Watch, states: list[str]) -> list[int]:
    """Return the seconds after which it looks."""
    return [second for second, state in enumerate(states, 1) if watch.due(state)]


def test_it_looks_after_two_seconds_and_then_every_five() -> None:
    assert (FIRST_LOOK, LOOK_EVERY) == (2, 5)
    assert looks(Watch(), [QUEUED] * 13) == [2, 7, 12]


def test_it_looks_only_while_the_job_is_queued() -> None:
    assert looks(Watch(), [RUNNING] * 9) == []
    assert looks(Watch(), [QUEUED, RUNNING, QUEUED, QUEUED]) == [4]


def test_an_entry_starts_the_wait_again() -> None:
    watch = Watch()
    assert not watch.due(QUEUED)
    watch.heard()
    assert looks(watch, [QUEUED] * 2) == [2]


def test_it_warns_once_and_looks_no_more() -> None:
    watch = Watch()
    assert looks(watch, [QUEUED] * 2) == [2]
    watch.warn(None)
    assert looks(watch, [QUEUED] * 5) == [5], "a worker was there: it may go"
    with pytest.warns(NoWorkerWarning, match="^nobody$"):
        watch.warn("nobody")
    assert looks(watch, [QUEUED] * 30) == []


def test_a_warning_names_the_line_that_reads() -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        Watch().warn("nobody")
    (warning,) = given
    assert warning.filename == __file__


def test_a_filter_silences_it(recwarn: pytest.WarningsRecorder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoWorkerWarning)
        Watch().warn("nobody")
    assert list(recwarn) == []
