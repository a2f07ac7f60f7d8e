"""How many jobs a worker takes at once: by priority, in quarantine, chapters, and batch work left to others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.queue import capacity as module
from voxspool_worker.queue.capacity import LEAVE_BATCH_S, MAX_BATCH_JOBS, MAX_CHAPTERS, Capacity

if TYPE_CHECKING:
    from voxspool.protocol.jobs import Priority


def run(name: str, deaths: int = 0, *, priority: str = "interactive") -> JobExecution:
    return JobExecution(f"voxspool-tone-{priority}", name, f"run-of-{name}", deaths)


def fill(capacity: Capacity, priority: Priority) -> int:
    """Begin jobs of one priority until the capacity takes no more; return how many."""
    count = 0
    while capacity.takes(priority):
        assert capacity.wait_until_open()
        capacity.begin(run(f"{priority}-{count}", priority=priority), chapter=False)
        count += 1
    return count


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.0)


@pytest.fixture
def wake_up() -> threading.Event:
    return threading.Event()


def test_no_more_jobs_are_taken_than_wanted(wake_up: threading.Event) -> None:
    capacity = Capacity(2, wake_up)
    assert fill(capacity, "interactive") == 2
    capacity.end(run("interactive-0"), chapter=False)
    assert fill(capacity, "interactive") == 1


@pytest.mark.parametrize("jobs", [1, 2, 8, 32])
def test_batch_jobs_keep_no_interactive_job_from_being_taken(wake_up: threading.Event, jobs: int) -> None:
    capacity = Capacity(jobs, wake_up)
    fill(capacity, "batch")
    assert not capacity.takes("batch")
    assert capacity.wait_until_open()
    assert fill(capacity, "interactive") == jobs


def test_batch_jobs_take_the_places_that_interactive_jobs_leave(wake_up: threading.Event) -> None:
    capacity = Capacity(4, wake_up)
    for number in range(3):
        capacity.begin(run(f"listened-to-{number}"), chapter=False)
    assert fill(capacity, "batch") == 1
    assert fill(capacity, "interactive") == 1
    assert not capacity.wait_until_open()
    capacity.end(run("listened-to-0"), chapter=False)
    assert not capacity.takes("batch"), "there are four jobs left"
    capacity.end(run("listened-to-1"), chapter=False)
    assert wake_up.is_set()
    assert fill(capacity, "batch") == 1


@pytest.mark.parametrize(("jobs", "rows", "batch"), [(4, 1, 4), (32, 1, MAX_BATCH_JOBS), (32, 16, 16), (8, 16, 8)])
def test_batch_jobs_are_as_many_as_have_work_for_the_rows(
    wake_up: threading.Event, jobs: int, rows: int, batch: int
) -> None:
    assert fill(Capacity(jobs, wake_up, rows=rows), "batch") == batch


def test_no_job_is_taken_while_all_places_are_used(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    fill(capacity, "batch")
    fill(capacity, "interactive")
    assert not capacity.wait_until_open()


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_the_end_of_a_job_wakes_the_main_thread_only_if_it_waits_for_that(
    wake_up: threading.Event, priority: Priority
) -> None:
    capacity = Capacity(2, wake_up)
    job = run("a", priority=priority)
    assert capacity.wait_until_open()
    capacity.begin(job, chapter=False)
    assert capacity.wait_until_open()
    capacity.end(job, chapter=False)
    assert not wake_up.is_set(), "another job of this priority could be taken all the time"
    fill(capacity, priority)
    assert capacity.wait_until_open() == (priority == "batch")
    capacity.end(run(f"{priority}-0", priority=priority), chapter=False)
    assert wake_up.is_set()


def test_a_job_in_which_a_worker_died_runs_alone_until_it_has_completed_a_segment(wake_up: threading.Event) -> None:
    capacity = Capacity(3, wake_up)
    capacity.begin(run("suspect", deaths=1), chapter=False)
    assert not capacity.wait_until_open()
    capacity.clear_suspicion(run("another"))
    assert not capacity.wait_until_open()
    capacity.clear_suspicion(run("suspect"))
    assert wake_up.is_set()
    assert capacity.wait_until_open()


def test_the_end_of_a_quarantined_job_ends_its_quarantine(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    capacity.begin(run("suspect", deaths=1), chapter=False)
    capacity.end(run("suspect"), chapter=False)
    assert capacity.wait_until_open()


def test_chapters_are_counted_apart(wake_up: threading.Event) -> None:
    capacity = Capacity(1, wake_up)
    for number in range(MAX_CHAPTERS):
        assert capacity.takes_chapters
        assert capacity.wait_until_open()
        chapter = run(f"chapter-{number}", deaths=1, priority="batch")
        capacity.begin(chapter, chapter=True)  # quarantined segment by segment
    assert not capacity.takes_chapters
    assert capacity.wait_until_open()
    assert capacity.takes("batch")
    assert capacity.takes("interactive")
    capacity.end(run("chapter-0", priority="batch"), chapter=True)
    assert wake_up.is_set()
    assert capacity.takes_chapters


def test_batch_work_is_left_to_others_for_a_while(wake_up: threading.Event) -> None:
    now_s = 100.0
    capacity = Capacity(1, wake_up, clock=lambda: now_s)
    capacity.leave_batch_to_others()
    assert not capacity.takes_chapters
    now_s += LEAVE_BATCH_S
    assert capacity.takes_chapters
