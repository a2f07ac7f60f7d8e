"""The range of plausible durations: usual speech lies inside, speech with missing or repeated words outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool_worker.text.duration import plausible_duration, plausible_duration_at_any_pace

SENTENCE = "The keeper counted every lamp before the night began."
"""53 characters: 3.3 s in English."""


def test_english_has_sixteen_characters_per_second() -> None:
    assert plausible_duration(SENTENCE, 16).expected_s == pytest.approx(53 / 16)
    assert plausible_duration("70", 16).expected_s == pytest.approx(12 / 16), "a digit counts as six"
    assert plausible_duration_at_any_pace(SENTENCE).expected_s == pytest.approx(53 / 16)


def test_a_slower_language_may_take_longer() -> None:
    fast, slow = plausible_duration(SENTENCE, 16), plausible_duration(SENTENCE, 8)
    assert slow.min_s == pytest.approx(2 * fast.min_s)
    assert slow.max_s - 2 == pytest.approx(2 * (fast.max_s - 2))


def test_a_short_text_has_no_minimum_duration() -> None:
    for plausible in (plausible_duration("x" * 24, 16), plausible_duration_at_any_pace("x" * 24)):
        assert plausible.min_s == 0
    for plausible in (plausible_duration("x" * 25, 16), plausible_duration_at_any_pace("x" * 25)):
        assert plausible.min_s > 0


@pytest.mark.parametrize(("text", "chars"), [("2026", 24), ("BBC", 9), ("北京", 8), ("Bbc", 3)])
def test_digits_capitals_and_wide_characters_count_as_several_characters(text: str, chars: int) -> None:
    assert plausible_duration_at_any_pace(text).max_s == pytest.approx(2 + 2.5 * chars / 16)


@given(st.text())
def test_in_english_the_wide_range_contains_the_narrow_one(text: str) -> None:
    narrow, wide = plausible_duration(text, 16), plausible_duration_at_any_pace(text)
    assert wide.min_s <= narrow.min_s
    assert narrow.max_s <= wide.max_s
