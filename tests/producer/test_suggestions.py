from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.suggestions import MOST_LISTED, did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("pipper", ["tone", "piper"], " (did you mean piper?)"),
        ("bob2", ["bob3", "bob1"], " (did you mean bob3 or bob1?)"),
        ("a", ["a"], " (did you mean a?)"),
        ("xyz", ["tone", "piper"], " (there is: piper, tone)"),
        ("xyz", ["tone", "tone"], " (there is: tone)"),
        ("", ["tone"], " (there is: tone)"),
        ("xyz", [], ""),
    ],
)
def test_a_hint_has_the_similar_names_else_the_known_ones_else_nothing(name: str, known: list[str], said: str) -> None:
    assert did_you_mean(name, known) == said
    assert did_you_mean(name, iter(known)) == said


def test_at_most_two_similar_names_are_listed() -> None:
    assert did_you_mean("voice-0", [f"voice-{n}" for n in range(1, 10)]).count("voice-") == 2


@pytest.mark.parametrize(("count", "more"), [(8, ""), (9, " and 1 more"), (100, " and 92 more")])
def test_a_long_list_is_cut_and_the_rest_is_counted(count: int, more: str) -> None:
    said = did_you_mean("?", [f"{n:03}" for n in range(count)])
    assert said == f" (there is: 000, 001, 002, 003, 004, 005, 006, 007{more})"
    assert MOST_LISTED == 8


@given(st.text(max_size=10), st.lists(st.text(max_size=10), max_size=12))
def test_a_hint_is_in_brackets_or_empty(name: str, known: list[str]) -> None:
    said = did_you_mean(name, known)
    assert (said == "") == (not known)
    if name and name in known:
        assert said.startswith(f" (did you mean {name}")
