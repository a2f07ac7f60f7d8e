"""The capacity of a worker: slots, the quarantine, chapters of books, and batch work left to others."""

from __future__ import annotations

import threading

import pytest

from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue import capacity as module
from voxspool_worker.queue.capacity import LEAVE_BATCH_S, MAX_CHAPTERS, Capacity


def run(name: str, deaths: int = 0) -> JobExecution:
    return JobExecution("voxspool-tone-batch", name, f"run-of-{name}", deaths)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)


@pytest.fixture
def wake_up() -> threading.Event:
    return threading.Event()


def test_no_more_slots_are_reserved_than_there_are(wake_up: threading.Event) -> None:
    capacity = Capacity(2, wake_up)
    assert [capacity.reserve() for _ in range(3)] == [True, True, False]
    capacity.release()
    assert capacity.reserve()


def test_the_end_of_a_job_wakes_the_main_thread_only_if_it_waits_for_a_slot(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    assert capacity.reserve()
    capacity.begin(run("a"), chapter=False)
    capacity.end(run("a"), chapter=False)
    assert not wake_up.is_set()
    assert capacity.reserve()
    capacity.begin(run("b"), chapter=False)
    assert not capacity.reserve()
    capacity.end(run("b"), chapter=False)
    assert wake_up.is_set()


def test_a_job_in_which_a_worker_died_runs_alone_until_it_has_completed_a_segment(wake_up: threading.Event) -> None:
    capacity = Capacity(3, wake_up)
    assert capacity.reserve()
    capacity.begin(run("suspect", deaths=1), chapter=False)
    assert not capacity.reserve()
    capacity.clear_suspicion(run("another"))
    assert not capacity.reserve()
    capacity.clear_suspicion(run("suspect"))
    assert wake_up.is_set()
    assert capacity.reserve()


def test_the_end_of_a_quarantined_job_ends_its_quarantine(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    assert capacity.reserve()
    capacity.begin(run("suspect", deaths=1), chapter=False)
    capacity.end(run("suspect"), chapter=False)
    assert capacity.reserve()


def test_chapters_use_no_slot_and_are_counted_separately(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    for number in range(MAX_CHAPTERS):
        assert capacity.takes_chapters
        assert capacity.reserve()
        capacity.begin(run(f"chapter-{number}", deaths=1), chapter=True)  # quarantined segment by segment
    assert not capacity.takes_chapters
    assert capacity.reserve()
    capacity.end(run("chapter-0"), chapter=True)
    assert wake_up.is_set()
    assert capacity.takes_chapters


def test_batch_work_is_left_to_others_for_a_while(wake_up: threading.Event) -> None:
    now_s = 100.0
    capacity = Capacity(1, wake_up, clock=lambda: now_s)
    capacity.leave_batch_to_others()
    assert not capacity.takes_chapters
    now_s += LEAVE_BATCH_S
    assert capacity.takes_chapters
