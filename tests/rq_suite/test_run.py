"""The comparison of RQ's tests with the table: every way in which they can differ is said, and nothing else is."""

from __future__ import annotations

import pytest

import expectations
from expectations import KILLS, NO_WORKER, TIMING, Expectations
from run import Outcome, compare

FORK = "fork"


def table(**listed: str) -> Expectations:
    """Return a table of one whole module and one that is listed in part: test -> `passes`, or why it does not apply."""
    return Expectations(
        version="3.0.0",
        whole=["whole"],
        parts=["part"],
        not_run={},
        passes={f"whole.Case.{test}" for test, said in listed.items() if said == "passes"},
        reasons={f"whole.Case.{test}": said for test, said in listed.items() if said != "passes"},
        sentences={},
    )


def found(outcome: str = "passed", *, worker: bool = True) -> Outcome:
    return Outcome(outcome, worker, worked=worker, said="what failed")


@pytest.mark.parametrize(
    ("listed", "outcome", "said"),
    [
        ("passes", found(), None),
        ("passes", found("failed"), "what failed"),
        ("passes", found("skipped"), "skipped"),
        ("passes", found(worker=False), "passing"),
        (FORK, found("failed"), None),
        (FORK, found("skipped"), None),
        (FORK, found(worker=False), None),
        (FORK, found(), "does not apply (fork)"),
        (TIMING, found(), None),
        (TIMING, found("failed"), None),
        (NO_WORKER, found(worker=False), None),
        (NO_WORKER, found("failed"), "makes one"),
    ],
)
def test_a_listed_test_must_do_what_is_listed(listed: str, outcome: Outcome, said: str | None) -> None:
    surprises = list(compare(table(one=listed), {"whole.Case.one": outcome}))
    assert len(surprises) == bool(said)
    assert all(said in surprise for surprise in surprises if said)


@pytest.mark.parametrize(
    ("test", "worker", "expected"),
    [
        ("whole.Case.new", True, True),
        ("whole.Case.new", False, True),
        ("part.Case.new", True, True),
        ("part.Case.new", False, False),
    ],
)
def test_a_new_test_must_be_listed_where_it_speaks_of_a_worker(test: str, *, worker: bool, expected: bool) -> None:
    surprises = list(compare(table(), {test: found(worker=worker)}))
    assert surprises == ([f"{test} is not listed: passed, what failed"] if expected else [])


def test_a_listed_test_that_is_gone_is_named_unless_it_is_never_run() -> None:
    surprises = list(compare(table(gone="passes", gone_too=FORK, dangerous=KILLS), {}))
    assert surprises == ["whole.Case.gone is listed, and did not run", "whole.Case.gone_too is listed, and did not run"]


def test_every_reason_of_the_table_says_what_it_means() -> None:
    listed = expectations.load()
    assert listed.passes.isdisjoint(listed.reasons)
    assert {KILLS, NO_WORKER} <= set(listed.sentences)
    assert all(len(sentence) > 20 for sentence in listed.sentences.values())
    assert set(listed.reasons.values()) == set(listed.sentences)
