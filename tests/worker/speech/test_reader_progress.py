"""Reading the acknowledgements of readers, on a real Redis with a clock of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.speech.reader_progress import ACKNOWLEDGEMENT_POLL_S, UNREAD, ReaderProgress

if TYPE_CHECKING:
    import redis


class Progress(ReaderProgress):
    """The progress of a job with a clock that returns `now_s`."""

    def __init__(self, db: redis.Redis, **options: int) -> None:
        self.now_s = 100.0
        super().__init__(db, JobSpec("Hello.", id="job", **options), lambda: self.now_s)

    def look_again(self) -> None:
        """Move the clock to the next poll, and look."""
        self.now_s += ACKNOWLEDGEMENT_POLL_S
        self.look()


def now_ms(db: redis.Redis) -> int:
    seconds, microseconds = db.time()
    return int(seconds * 1000 + microseconds // 1000)


def acknowledge(db: redis.Redis, pos: object, ago_ms: int = 0) -> None:
    db.hset(keys.acknowledged("job"), mapping={"pos": pos, "at": now_ms(db) - ago_ms})


def test_a_job_without_the_options_is_not_ended_for_lack_of_readers(db: redis.Redis) -> None:
    progress = Progress(db)
    acknowledge(db, 500, ago_ms=10**9)
    progress.look()
    assert progress.pos == 0


def test_the_furthest_position_counts_and_never_goes_back(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    for pos, known in ((500, 500), (300, 500), (700, 700)):
        acknowledge(db, pos)
        progress.look_again()
        assert progress.pos == known


def test_redis_is_read_once_per_interval(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    progress.look()
    acknowledge(db, 500)
    progress.look()
    assert progress.pos == 0
    progress.look_again()
    assert progress.pos == 500


def test_a_live_job_that_nobody_has_read_for_its_time_is_cancelled(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    acknowledge(db, 500, ago_ms=4_000)
    progress.look()
    acknowledge(db, 500, ago_ms=6_000)
    with pytest.raises(EndedEarlyError) as ended:
        progress.look_again()
    assert (ended.value.reason, ended.value.by) == (Reason.CANCELLED, UNREAD)


def test_the_time_of_a_job_that_was_never_read_begins_with_the_run(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    progress.look()
    assert progress._since_ms
    progress._since_ms -= 6_000
    with pytest.raises(EndedEarlyError):
        progress.look_again()


def test_a_job_with_a_window_ends_after_ten_minutes_without_a_reader(db: redis.Redis) -> None:
    progress = Progress(db, window_s=10)
    acknowledge(db, 0, ago_ms=599_000)
    progress.look()
    acknowledge(db, 0, ago_ms=601_000)
    with pytest.raises(EndedEarlyError):
        progress.look_again()


@pytest.mark.parametrize("pos", ["", "far", "-1", "9" * 5000, b"\xff"])
def test_an_invalid_position_is_ignored(db: redis.Redis, pos: object) -> None:
    progress = Progress(db, live_s=60)
    acknowledge(db, pos)
    progress.look()
    assert progress.pos in {0, int("9" * 20)}
