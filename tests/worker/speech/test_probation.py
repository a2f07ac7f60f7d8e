"""How long a worker waits before it takes jobs, on a real Redis with a clock of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.protocol import keys
from voxspool_worker.jobs.standing import Standing
from voxspool_worker.speech.probation import FIRST_WAIT_S, FREE_ENDS, LONGEST_WAIT_S, Probation

if TYPE_CHECKING:
    import redis

MARKS = keys.fruitless("a-host", "tone")


def start(db: redis.Redis, name: str = "w", host: str = "a-host", engine: str = "tone") -> Probation:
    probation = Probation(db, name, engine, Standing(host), lambda: 1000.0)
    probation.begin()
    return probation


def fruitless_ends(db: redis.Redis, count: int) -> None:
    """Let workers take a job and end without completing anything."""
    for number in range(count):
        start(db, f"broken-{number}").claimed()


@pytest.mark.parametrize(
    ("ends", "wait_s"),
    [(0, 0), (FREE_ENDS - 1, 0), (FREE_ENDS, FIRST_WAIT_S), (FREE_ENDS + 2, 4 * FIRST_WAIT_S), (30, LONGEST_WAIT_S)],
)
def test_each_worker_that_completed_nothing_doubles_the_wait_of_the_next(
    db: redis.Redis, caplog: pytest.LogCaptureFixture, ends: int, wait_s: float
) -> None:
    fruitless_ends(db, ends)
    caplog.clear()
    probation = start(db)
    assert probation.wait_s == wait_s
    assert bool(probation.said) == ("worker.backs_off" in caplog.text) == bool(wait_s)
    if wait_s:
        assert f"{ends} workers" in probation.said


def test_other_hosts_and_engines_do_not_wait(db: redis.Redis) -> None:
    fruitless_ends(db, 5)
    assert start(db, host="another-host").wait_s == start(db, engine="piper").wait_s == 0


def test_the_first_completed_segment_of_the_host_removes_all_marks(db: redis.Redis) -> None:
    fruitless_ends(db, 5)
    probation = start(db, "healthy")
    probation.claimed()
    probation.completed()
    assert db.hgetall(MARKS) == {}
    start(db, "broken-again").claimed()
    probation.completed()
    probation.claimed()
    assert list(db.hgetall(MARKS)) == [b"broken-again"], "only the first one counts"


def test_a_worker_that_took_no_job_or_ends_in_order_leaves_no_mark(db: redis.Redis) -> None:
    start(db, "idle")
    assert not db.exists(MARKS)
    ends = start(db, "ends")
    ends.claimed()
    ends.claimed()
    assert 0 < db.ttl(MARKS) <= keys.FRUITLESS_TTL_S
    assert db.hlen(MARKS) == 1
    ends.leave(db)
    assert not db.exists(MARKS)
