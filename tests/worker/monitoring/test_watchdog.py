"""When the watchdog reports that a worker hangs, or that it has grown too large."""

from __future__ import annotations

import pytest

from voxspool.errors import SettingsError
from voxspool_worker.jobs.cancellation import CancelToken, Reason
from voxspool_worker.monitoring.watchdog import (
    CHECK_S,
    GROWTH,
    LEAST_GROWTH_BYTES,
    STEP_LIMIT_S,
    STILL_S,
    TOKEN_LIMIT_S,
    TURN_LIMIT_S,
    MemoryLimit,
    Watchdog,
    find_stall,
    resident_bytes,
)


def hangs(
    now_s: float,
    *,
    step: float | None = None,
    turned: float | None = None,
    tokens: tuple[CancelToken, ...] = (),
    back: float = 0,
) -> str | None:
    turned = now_s if turned is None else turned
    return find_stall(now_s, step_began=step, turned=turned, tokens=tokens, redis_back=back)


def test_a_healthy_worker_does_not_hang() -> None:
    token = CancelToken(60, lambda: 1000.0)
    assert hangs(1001.0, step=1000.5, tokens=(token,)) is None


def test_a_step_that_does_not_end_hangs() -> None:
    assert hangs(1000.0, step=1000.0 - STEP_LIMIT_S) is None
    assert "step of the engine" in (hangs(1000.1, step=1000.0 - STEP_LIMIT_S) or "")


def test_a_main_thread_that_does_not_return_to_its_loop_hangs() -> None:
    assert "main thread" in (hangs(1000.1, turned=1000.0 - TURN_LIMIT_S) or "")


def test_a_main_thread_that_waited_for_redis_has_its_whole_time_again_after_the_outage() -> None:
    assert hangs(1000.0, turned=900.0, back=1000.0) is None, "Redis has only just answered"
    assert hangs(1000.0 + TURN_LIMIT_S, turned=900.0, back=1000.0) is None
    assert hangs(1000.1 + TURN_LIMIT_S, turned=900.0, back=1000.0) is not None


def test_a_job_that_ignores_its_cancel_token_hangs_after_the_limit() -> None:
    token = CancelToken(10_000, lambda: 1000.0)
    assert hangs(2000.0, tokens=(token,)) is None, "it was not asked to end"
    token.end(Reason.CANCELLED)
    assert hangs(1000.0 + TOKEN_LIMIT_S, tokens=(token,)) is None
    assert "token" in (hangs(1000.1 + TOKEN_LIMIT_S, tokens=(token,)) or "")


def test_a_job_that_ignores_its_timeout_hangs_after_the_limit() -> None:
    token = CancelToken(10, lambda: 1000.0)
    assert hangs(1010.0 + TOKEN_LIMIT_S, tokens=(token,)) is None
    assert "token" in (hangs(1010.1 + TOKEN_LIMIT_S, tokens=(token,)) or "")


def test_a_job_that_waited_for_redis_has_its_whole_time_again_after_the_outage() -> None:
    token = CancelToken(10, lambda: 1000.0)
    assert hangs(1200.0, tokens=(token,), back=1190.0) is None
    assert hangs(1190.1 + TOKEN_LIMIT_S, tokens=(token,), back=1190.0) is not None


def test_the_default_limit_is_twice_the_first_size_and_at_least_a_fixed_amount_more() -> None:
    small, large = MemoryLimit(None, lambda: 100), MemoryLimit(None, lambda: 4 * LEAST_GROWTH_BYTES)
    assert small.limit_bytes == 100 + LEAST_GROWTH_BYTES
    assert large.limit_bytes == GROWTH * 4 * LEAST_GROWTH_BYTES


def test_the_size_is_returned_only_above_the_limit() -> None:
    sizes = iter([10, 99, 100, 101])
    growth = MemoryLimit(100, lambda: next(sizes))
    assert [growth.too_large_bytes for _ in range(3)] == [None, None, 101]


def test_a_limit_that_is_exceeded_before_the_first_job_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="VOXSPOOL_WORKER_MEMORY_MB is 1, but this worker uses 2 MB before its first job"
    ):
        MemoryLimit(2**20, lambda: 2 * 2**20)


def test_the_size_of_this_process_is_known() -> None:
    assert 10 * 2**20 < resident_bytes() < 100 * 2**30


class Reports:
    """A watchdog, and what it has reported."""

    def __init__(self, *, stall: str | None = None, size_bytes: int = 0) -> None:
        self.said: list[object] = []
        self.stall = stall
        self.size_bytes = 0
        memory = MemoryLimit(None, lambda: self.size_bytes)
        self.size_bytes = size_bytes
        self.watchdog = Watchdog(
            lambda: self.stall, memory, on_healthy=lambda: self.said.append("healthy"), on_stall=self.said.append,
            on_growth=self.said.append,
        )  # fmt: skip


def test_a_watchdog_reports_health_or_the_stall_and_the_size_of_a_process_that_has_grown() -> None:
    for stall, size_bytes, said in [
        (None, 0, ["healthy"]),
        ("a step hangs", 0, ["a step hangs"]),
        (None, 2**31, ["healthy", 2**31]),
    ]:
        reports = Reports(stall=stall, size_bytes=size_bytes)
        reports.watchdog.check()
        assert reports.said == said


def test_a_process_that_was_frozen_does_not_hang_because_its_threads_stood_still() -> None:
    reports = Reports()
    now_s = 1000.0
    reports.watchdog._clock = lambda: now_s
    reports.watchdog._checked_at = now_s
    now_s += STILL_S + 0.1
    reports.stall = "a step hangs"
    reports.watchdog.check()
    assert reports.said == ["healthy"]
    while now_s < 1000.0 + STILL_S + STEP_LIMIT_S:
        now_s += CHECK_S
        reports.watchdog.check()
    assert reports.said[-1] == "a step hangs", "it has had the time of every limit"


def test_a_check_that_fails_does_not_end_the_watchdog() -> None:
    reports = Reports()
    rounds = iter([False, False, True])
    checks = iter([ValueError("broken"), None])

    def stall() -> str | None:
        if error := next(checks):
            raise error
        return None

    reports.watchdog._stall = stall
    reports.watchdog.run(lambda _: next(rounds))
    assert reports.said == ["healthy"]
