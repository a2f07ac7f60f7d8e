"""When a change of the difference between Redis's clock and the monotonic clock is a jump."""

from __future__ import annotations

import pytest

from voxspool_worker.queue.redis_clock import EXACT_S, JUMP_S, RedisClock


@pytest.fixture
def clock() -> RedisClock:
    """A clock that was compared at the monotonic time 100, when Redis had 5000."""
    clock = RedisClock()
    assert clock.at(100.0) == 0.0
    assert clock.compare(5000.0, 100.0, 100.0), "before the first comparison nothing is known"
    return clock


def test_the_time_of_redis_follows_from_the_monotonic_clock(clock: RedisClock) -> None:
    assert clock.at(103.5) == pytest.approx(5003.5)


@pytest.mark.parametrize("change_s", [0.0, 0.9 * JUMP_S, -0.9 * JUMP_S])
def test_a_small_change_is_no_jump_and_is_followed(clock: RedisClock, change_s: float) -> None:
    assert not clock.compare(5003.0 + change_s, 103.0, 103.0)
    assert clock.at(103.0) == pytest.approx(5003.0 + change_s)


@pytest.mark.parametrize("change_s", [1.1 * JUMP_S, -1.1 * JUMP_S, 86_400.0, -86_400.0])
def test_a_large_change_is_a_jump_once(clock: RedisClock, change_s: float) -> None:
    assert clock.compare(5003.0 + change_s, 103.0, 103.0)
    assert clock.at(103.0) == pytest.approx(5003.0 + change_s)
    assert not clock.compare(5006.0 + change_s, 106.0, 106.0)


def test_a_slow_reply_is_no_jump_and_changes_nothing(clock: RedisClock) -> None:
    asked_s = 103.0
    for redis_s in (5003.0, 5006.0, 5009.0):  # Redis may have read its clock at any time until the reply
        assert not clock.compare(redis_s, asked_s, asked_s + 6.0)
    assert clock.at(103.0) == pytest.approx(5003.0)


def test_a_slow_reply_shows_a_jump(clock: RedisClock) -> None:
    assert clock.compare(9000.0, 103.0, 109.0)


def test_the_time_is_never_too_late(clock: RedisClock) -> None:
    assert not clock.compare(5003.0, 103.0, 103.0 + 0.9 * EXACT_S)
    assert clock.at(103.0 + 0.9 * EXACT_S) == pytest.approx(5003.0)
