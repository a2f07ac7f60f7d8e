"""Whole numbers in what anybody may have written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.protocol.numbers import MOST_DIGITS, count_or_zero, parse_count

NONE = ["", " 1", "1 ", "-1", "+1", "1.0", "1e3", "1_000", "0x1", "nan", "²", "٣", "１"]


@given(st.integers(0, 10**MOST_DIGITS - 1))
def test_a_count_is_read_from_text_and_bytes(number: int) -> None:
    assert parse_count(str(number)) == count_or_zero(str(number)) == count_or_zero(str(number).encode()) == number


@pytest.mark.parametrize("text", NONE)
def test_other_text_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number of at most 20 digits"):
        parse_count(text)
    assert count_or_zero(text) == count_or_zero(text.encode()) == 0


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"1\xff"])
def test_a_missing_or_broken_value_counts_as_zero(value: bytes | None) -> None:
    assert count_or_zero(value) == 0


@pytest.mark.parametrize("digits", [MOST_DIGITS + 1, 5000])
def test_a_number_that_is_too_long_is_refused_or_cut_and_never_read_whole(digits: int) -> None:
    with pytest.raises(ValueError, match="at most 20 digits") as caught:
        parse_count("9" * digits)
    assert len(str(caught.value)) < 100
    assert count_or_zero("9" * digits) == 10**MOST_DIGITS - 1
