"""When a job is refused, and the estimated time after which to try again."""

from __future__ import annotations

import pytest

from voxspool import WorkerCard
from voxspool.queue.admission import LONGEST_S, MAX_WAITING, MEMORY_SHARE, UNKNOWN_S, Pressure, turned_away

GB = 2**30


def card(jobs_per_minute: float | None) -> WorkerCard:
    return WorkerCard(
        name="w", engine="tone", model="m", device="cpu", sample_rate=24_000, voices={}, queues=[], jobs=8, running=0,
        rows=8, rows_in_use=0, host="h", pid=1, jobs_per_minute=jobs_per_minute,
    )  # fmt: skip


def pressure(*, used: float = 0.0, limit: float = 1.0, ttl_s: float = 0.0, waiting: int = 0) -> Pressure:
    return Pressure(round(used * GB), round(limit * GB), ttl_s, waiting)


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_a_job_is_accepted_below_its_share_of_memory(priority: str) -> None:
    share = MEMORY_SHARE[priority]
    assert turned_away(pressure(used=share - 0.01), priority, []) is None
    assert turned_away(pressure(used=share + 0.01), priority, []) is not None


def test_batch_work_is_refused_earlier_than_interactive_work() -> None:
    between = pressure(used=0.9)
    assert turned_away(between, "batch", []) is not None
    assert turned_away(between, "interactive", []) is None


def test_a_redis_without_a_limit_is_never_full() -> None:
    assert turned_away(pressure(used=500, limit=0), "batch", []) is None


def test_the_wait_for_memory_follows_from_how_long_streams_live() -> None:
    # a tenth of the memory must be freed; keys expire evenly within twice their mean lifetime of 600 s
    busy = turned_away(pressure(used=1.0, ttl_s=600), "interactive", [])
    assert busy is not None
    assert busy.retry_after_s == round(2 * 600 * (1 - 0.85))
    assert "1,024 MB in use of 1,024 MB" in busy.why


@pytest.mark.parametrize(("ttl_s", "wait_s"), [(0, UNKNOWN_S), (0.001, 1), (10**6, LONGEST_S)])
def test_the_estimated_wait_is_never_below_a_second_nor_above_an_hour(ttl_s: float, wait_s: int) -> None:
    busy = turned_away(pressure(used=1.0, ttl_s=ttl_s), "interactive", [])
    assert busy is not None
    assert busy.retry_after_s == wait_s


def test_the_wait_for_a_long_queue_follows_from_the_speed_of_its_workers() -> None:
    full = pressure(waiting=MAX_WAITING)
    busy = turned_away(full, "batch", [card(600.0), card(400.0), card(None)])
    assert busy is not None
    assert busy.retry_after_s == 60, "a thousand jobs, at a thousand a minute"
    assert turned_away(pressure(waiting=MAX_WAITING - 1), "batch", []) is None


def test_a_queue_that_nobody_serves_gives_no_estimate() -> None:
    busy = turned_away(pressure(waiting=MAX_WAITING), "batch", [card(None)])
    assert busy is not None
    assert busy.retry_after_s == UNKNOWN_S


def test_the_replies_of_redis_are_read() -> None:
    memory = {"used_memory": 5, "maxmemory": 10, "other": "x"}
    assert Pressure.read(memory, {"db0": {"keys": 2, "avg_ttl": 1500}}, 3) == Pressure(5, 10, 1.5, 3)
    assert Pressure.read(memory, {}, 0).mean_ttl_s == 0
