"""Amounts as people read them."""

from __future__ import annotations

import pytest

from voxspool.amounts import clock, counted, duration, real_time


@pytest.mark.parametrize(
    ("number", "written"), [(0, "0 chapters"), (1, "1 chapter"), (2, "2 chapters"), (12_000, "12,000 chapters")]
)
def test_a_count_has_the_right_plural(number: int, written: str) -> None:
    assert counted(number, "chapter") == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.4, "0 s"),
        (48.4, "48 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5_940, "99 min"),
        (6_000, "1 h 40 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@pytest.mark.parametrize(("seconds", "written"), [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3_723, "1:02:03")])
def test_a_position_is_written_as_on_a_clock(seconds: float, written: str) -> None:
    assert clock(seconds) == written


@pytest.mark.parametrize(
    ("speed", "written"),
    [(6.66, "6.7x real time"), (0.5, "0.5x real time"), (25.4, "25x real time"), (140.2, "140x real time")],
)
def test_a_speed_is_written_as_a_multiple_of_real_time(speed: float, written: str) -> None:
    assert real_time(speed) == written
