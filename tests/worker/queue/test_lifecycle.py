"""The flags of a worker process, and the exit code that follows from them."""

from __future__ import annotations

import pytest

from voxspool_worker.jobs.cancellation import EndedEarlyError
from voxspool_worker.queue.lifecycle import EXIT_ENGINE_LOST, EXIT_RESTART, Lifecycle


@pytest.mark.parametrize(
    ("flags", "exit_code"),
    [
        ({"stopping"}, 0),
        ({"burst"}, 0),
        (set(), EXIT_ENGINE_LOST),
        ({"stopping", "restart"}, EXIT_RESTART),
        ({"burst", "failed"}, EXIT_ENGINE_LOST),
    ],
)
def test_the_exit_code_tells_a_supervisor_what_happened(flags: set[str], exit_code: int) -> None:
    lifecycle = Lifecycle()
    for flag in flags:
        setattr(lifecycle, flag, True)
    assert lifecycle.exit_code == exit_code


def test_a_lost_engine_and_a_restart_stop_the_main_thread_at_once() -> None:
    for act in (Lifecycle.lose_engine, Lifecycle.request_restart):
        lifecycle = Lifecycle()
        act(lifecycle)
        assert lifecycle.stopping
        assert lifecycle.wake_up.is_set()


def test_a_wait_for_memory_ends_when_the_worker_stops() -> None:
    lifecycle = Lifecycle()
    lifecycle.wait_for_memory(0.0)
    lifecycle.stopping = True
    with pytest.raises(EndedEarlyError):
        lifecycle.wait_for_memory(0.0)
