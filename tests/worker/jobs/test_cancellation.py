"""The cancel token of a job: one reason to end early, set by any thread, and a deadline by a clock of the test."""

from __future__ import annotations

import math
import threading

import pytest

from tests.support.manual_clock import ManualClock
from voxspool_worker.jobs.cancellation import CancelToken, EndedEarlyError, Reason, RowClock

DEADLINE_S = 3600.0


def reason_of(token: CancelToken) -> Reason | None:
    """Check the token as a job does; return the reason to end, or None."""
    try:
        token.check()
    except EndedEarlyError as ended:
        return ended.reason
    return None


def test_a_job_continues_until_it_is_asked_to_end() -> None:
    assert reason_of(CancelToken(60.0)) is None


def test_time_in_which_nothing_can_be_done_is_not_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    token = CancelToken(10.0, clock)
    clock.now_s += 9
    monkeypatch.setattr(token._asked, "wait", clock.advance)
    token.stand_still(DEADLINE_S)
    assert token.remaining_s == pytest.approx(1.0)
    clock.now_s += 0.995
    assert reason_of(token) is None


def test_a_clock_that_several_stopped_runs_when_all_have_started_it() -> None:
    clock = ManualClock()
    token = CancelToken(10.0, clock)
    clock.now_s += 4
    token.stop_clock()
    token.stop_clock()
    for _ in range(2):
        clock.now_s += DEADLINE_S
        assert token.remaining_s == math.inf
        assert reason_of(token) is None
        assert token.ended_at(clock.now_s) == clock.now_s
        token.start_clock()
    assert token.remaining_s == pytest.approx(6.0)
    clock.now_s += 6
    assert reason_of(token) is Reason.TIMED_OUT


def test_a_job_whose_time_is_up_ends_although_its_clock_was_stopped_since() -> None:
    clock = ManualClock()
    token = CancelToken(10.0, clock)
    clock.now_s += 11
    token.stop_clock()
    clock.now_s += 5
    assert token.remaining_s == 0.0
    assert reason_of(token) is Reason.TIMED_OUT
    assert token.ended_at(clock.now_s) == clock.now_s - 6, "the watchdog counts from then"


def test_a_job_uses_up_its_time_only_while_it_has_a_row() -> None:
    clock = ManualClock()
    token = CancelToken(10.0, clock)
    clock.now_s += 1
    with RowClock(token) as rows:
        clock.now_s += DEADLINE_S
        rows.add(1)
        clock.now_s += 2
        rows.add(1)
        clock.now_s += 2
        rows.add(-1)
        clock.now_s += 2
        rows.add(-1)
        clock.now_s += DEADLINE_S
    assert token.remaining_s == pytest.approx(3.0)
    clock.now_s += 1
    assert token.remaining_s == pytest.approx(2.0)


def test_rows_that_are_freed_after_the_end_of_the_block_stop_no_clock() -> None:
    clock = ManualClock()
    token = CancelToken(10.0, clock)
    with RowClock(token) as rows:
        rows.add(2)
        clock.now_s += 1
    rows.add(-2)
    rows.add(1)
    clock.now_s += 1
    assert token.remaining_s == pytest.approx(8.0)


def test_a_job_that_stands_still_is_woken_to_end() -> None:
    token = CancelToken(60.0)
    token.end(Reason.CANCELLED)
    with pytest.raises(EndedEarlyError, match="cancelled"):
        token.stand_still(DEADLINE_S)  # returns at once: otherwise the test would take an hour


@pytest.mark.parametrize("reason", Reason)
def test_every_check_raises_the_reason_and_its_author(reason: Reason) -> None:
    token = CancelToken(60.0)
    token.end(reason, by="somebody")
    for _ in range(2):
        with pytest.raises(EndedEarlyError, match=reason.value) as ended:
            token.check()
        assert ended.value.reason is reason
        assert ended.value.by == "somebody"


def test_only_the_first_reason_counts() -> None:
    token = CancelToken(60.0)
    token.end(Reason.CANCELLED, by="ann")
    token.end(Reason.HANDED_BACK, by="bob")
    with pytest.raises(EndedEarlyError) as ended:
        token.check()
    assert (ended.value.reason, ended.value.by) == (Reason.CANCELLED, "ann")


def test_a_job_times_out_at_its_deadline_and_not_before() -> None:
    clock = ManualClock()
    token = CancelToken(5.0, clock)
    assert token.remaining_s == 5.0
    clock.now_s += 4.9
    assert reason_of(token) is None
    assert token.remaining_s == pytest.approx(0.1)
    clock.now_s += 0.1
    assert reason_of(token) is Reason.TIMED_OUT
    clock.now_s += 100.0
    assert token.remaining_s == 0.0
    assert reason_of(token) is Reason.TIMED_OUT


def test_a_reason_that_was_set_before_the_deadline_counts() -> None:
    clock = ManualClock()
    token = CancelToken(5.0, clock)
    token.end(Reason.HANDED_BACK)
    clock.now_s += 10.0
    assert reason_of(token) is Reason.HANDED_BACK


def test_a_clock_that_jumps_forward_ends_a_job_and_one_that_jumps_back_does_not() -> None:
    clock = ManualClock()
    token = CancelToken(5.0, clock)
    assert reason_of(token) is None
    clock.now_s -= 3600.0
    assert reason_of(token) is None
    clock.now_s += 7200.0
    assert reason_of(token) is Reason.TIMED_OUT


def test_the_wake_function_is_called_when_the_job_must_end() -> None:
    token, woken = CancelToken(60.0), threading.Event()
    token.on_end(woken.set)
    assert not woken.is_set()
    token.end(Reason.CANCELLED)
    assert woken.is_set()


def test_a_wake_function_that_is_set_after_the_end_is_called_at_once() -> None:
    token, woken = CancelToken(60.0), threading.Event()
    token.end(Reason.CANCELLED)
    token.on_end(woken.set)
    assert woken.is_set()


def test_only_the_last_wake_function_is_called() -> None:
    token, first, second = CancelToken(60.0), threading.Event(), threading.Event()
    token.on_end(first.set)
    token.on_end(second.set)
    token.end(Reason.CANCELLED)
    assert second.is_set()
    assert not first.is_set()


def test_a_wake_function_may_check_the_token() -> None:
    token = CancelToken(60.0)
    seen: list[Reason | None] = []
    token.on_end(lambda: seen.append(reason_of(token)))
    token.end(Reason.LEASE_LOST)
    assert seen == [Reason.LEASE_LOST]


def test_if_several_threads_end_a_job_one_reason_counts() -> None:
    token, start = CancelToken(60.0), threading.Barrier(8)

    def end(number: int) -> None:
        start.wait(10)
        token.end(Reason.CANCELLED, by=str(number))

    threads = [threading.Thread(target=end, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    heard = set()
    for thread in threads:
        thread.join(10)
        with pytest.raises(EndedEarlyError) as ended:
            token.check()
        heard.add(ended.value.by)
    assert len(heard) == 1
