"""What a run learns from the acknowledgements of its readers, on a real Redis with a clock of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S, JobSpec
from voxspool.protocol.stream import Begin
from voxspool.reading import acknowledge
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.speech.publisher import LEASE_S, Publisher, Scripts
from voxspool_worker.speech.reader_progress import LONG_GONE_S, RETURN_S, UNREAD, ReaderProgress

if TYPE_CHECKING:
    import redis

QUEUE = "voxspool-tone-batch"
LATE_MS = 10**9


class Progress(ReaderProgress):
    """The progress of a job with a clock that stands until it is moved."""

    def __init__(self, db: redis.Redis, **options: int) -> None:
        self.now_s = 100.0
        super().__init__(db, JobSpec("Hello.", id="job", **options), lambda: self.now_s)

    def start(self) -> ReaderProgress:
        """Look for the first time. Nothing is waited for: the readers have reported lately, or never."""
        self.begin(self.never)
        return self

    def never(self, wait_s: float) -> None:
        pytest.fail(f"the run waits {wait_s} s for its readers")

    def pass_time(self, spent_s: float) -> None:
        """Look each time that a look is due for some seconds."""
        until_s = self.now_s + spent_s
        while self.now_s < until_s:
            self.look_again()

    def look_again(self) -> None:
        """Look when the next look is due."""
        self.now_s += self.poll_s
        self.look()


def report(db: redis.Redis, pos: int) -> bytes:
    """Report a position as a reader does."""
    said: bytes = db.eval(acknowledge.script(), 2, keys.control("job"), keys.acknowledged("job"), pos, 600)
    return said


def move_report(db: redis.Redis, by_ms: int) -> None:
    """Move the time of the last report, as if it were older or Redis's clock had jumped."""
    at_ms = int(db.hget(keys.acknowledged("job"), "at"))
    db.hset(keys.acknowledged("job"), "at", at_ms + by_ms)


def claim(db: redis.Redis, run: str = "first") -> None:
    """Open an attempt of the job, which is live."""
    execution = JobExecution(QUEUE, "job", run)
    db.zadd(execution.lease_key, {execution.composite: db.time()[0] + LEASE_S})
    Publisher(Scripts(db), execution, keep_s=60).begin(Begin(0, 24_000, "tone", "sine", "sine", "en", 0), {"live_s": 5})


def unread(progress: Progress, spent_s: float) -> bool:
    """Return whether a run is cancelled within some seconds because nobody reads it."""
    ended: list[tuple[Reason, str]] = []
    try:
        progress.pass_time(spent_s)
    except EndedEarlyError as error:
        ended.append((error.reason, error.by))
    assert ended in ([], [(Reason.CANCELLED, UNREAD)])
    return bool(ended)


# Positions


def test_a_job_that_does_not_ask_for_readers_is_never_ended(db: redis.Redis) -> None:
    progress = Progress(db)
    report(db, 500)
    move_report(db, -LATE_MS)
    progress.start()
    progress.pass_time(100)
    assert progress.pos == 0


def test_the_furthest_position_counts_and_never_goes_back(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    claim(db)
    progress.start()
    for pos, known in ((500, 500), (300, 500), (700, 700)):
        assert report(db, pos) == b"noted"
        assert int(db.hget(keys.acknowledged("job"), "pos")) == known
        progress.look_again()
        assert progress.pos == known


def test_a_run_knows_the_furthest_position_even_if_redis_has_a_smaller_one(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    for pos in (500, 300):
        db.hset(keys.acknowledged("job"), "pos", pos)
        progress.start()
    assert progress.pos == 500


def test_redis_is_asked_once_an_interval(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    progress.start()
    report(db, 500)
    progress.look()
    assert progress.pos == 0
    progress.look_again()
    assert progress.pos == 500


def test_nothing_is_asked_before_the_run_has_the_stream(db: redis.Redis) -> None:
    progress = Progress(db, live_s=60)
    report(db, 500)
    progress.look_again()
    assert progress.pos == 0


@pytest.mark.parametrize("pos", ["", "far", "-1", "9" * 5000, b"\xff"])
def test_what_is_no_position_counts_as_none(db: redis.Redis, pos: object) -> None:
    progress = Progress(db, live_s=60)
    db.hset(keys.acknowledged("job"), mapping={"pos": pos, "at": pos})
    progress.start()
    assert progress.pos in {0, int("9" * 20)}


# Time


@pytest.mark.parametrize("live_s", [1, 2, 5, 60])
def test_a_live_job_is_cancelled_when_nobody_has_read_it_for_its_time(db: redis.Redis, live_s: int) -> None:
    progress = Progress(db, live_s=live_s)
    progress.start()
    report(db, 500)
    progress.look_again()
    assert not unread(progress, live_s)
    assert unread(progress, 2 * progress.poll_s)


def test_a_job_that_was_never_read_is_cancelled_after_its_time_and_that_of_a_first_report(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    progress.start()
    assert not unread(progress, 5 + LONGEST_REPORT_S)
    assert unread(progress, 2 * progress.poll_s)


def test_a_job_with_a_window_ends_after_ten_minutes_without_a_reader(db: redis.Redis) -> None:
    progress = Progress(db, window_s=10)
    report(db, 0)
    progress.start()
    assert not unread(progress, 599)
    assert unread(progress, 4)


def test_a_reader_whose_position_stands_still_is_a_reader(db: redis.Redis) -> None:
    progress = Progress(db, live_s=1)
    progress.start()
    for number in range(20):
        report(db, 500)
        move_report(db, number)  # two reports within a ms of the test
        progress.look_again()


@pytest.mark.parametrize("jump_ms", [-LATE_MS, LATE_MS])
def test_a_jump_of_redis_clock_ends_no_job(db: redis.Redis, jump_ms: int) -> None:
    progress = Progress(db, live_s=5)
    report(db, 500)
    progress.start()
    for number in range(10):
        report(db, 500)
        move_report(db, jump_ms + number)
        progress.look_again()
    assert not unread(progress, 5)
    assert unread(progress, 2), "the job is live after the jump, too"


def test_time_in_which_redis_is_away_does_not_count(db: redis.Redis) -> None:
    progress = Progress(db, live_s=6)
    report(db, 500)
    progress.start()
    progress.now_s += 9
    progress.look()
    assert not unread(progress, RETURN_S), "a reader needs some time to come back"
    report(db, 500)
    move_report(db, 1)  # both reports may be of one ms of the test
    progress.look_again()
    assert not unread(progress, 6)
    assert unread(progress, 2)


def test_a_redis_that_is_away_again_and_again_keeps_no_job_for_ever(db: redis.Redis) -> None:
    progress = Progress(db, live_s=6)
    progress.start()

    def flicker() -> None:
        for _ in range(20):
            progress.now_s += 9
            progress.look()

    with pytest.raises(EndedEarlyError):
        flicker()


# The begin of a run


def test_a_run_waits_for_one_more_report_if_the_last_one_is_old_by_redis_clock(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    report(db, 500)
    move_report(db, -6_000)
    waits: list[float] = []

    def wait(wait_s: float) -> None:
        waits.append(wait_s)
        progress.now_s += wait_s
        if len(waits) == 3:
            report(db, 500)

    progress.begin(wait)
    assert len(waits) == 3
    assert not unread(progress, 5)


def test_a_run_whose_readers_have_left_ends_before_it_speaks(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    report(db, 500)
    move_report(db, -6_000)
    began_s = progress.now_s

    def wait(wait_s: float) -> None:
        progress.now_s += wait_s

    with pytest.raises(EndedEarlyError):
        progress.begin(wait)
    assert RETURN_S <= progress.now_s - began_s <= RETURN_S + 2


def test_a_run_does_not_wait_for_readers_who_left_long_ago_by_a_steady_clock(db: redis.Redis) -> None:
    progress = Progress(db, live_s=5)
    report(db, 500)
    move_report(db, -1000 * (5 + int(LONG_GONE_S) + 1))
    with pytest.raises(EndedEarlyError):
        progress.begin(progress.never, db.time()[0])
    report(db, 500)
    progress.begin(progress.never, db.time()[0])


def test_an_acknowledgement_that_an_earlier_job_left_is_removed_at_the_first_attempt(db: redis.Redis) -> None:
    claim(db)
    report(db, 48_000)
    move_report(db, -LATE_MS)
    db.delete(keys.control("job"), keys.audio("job"))  # the job expires, and its id is used again
    claim(db, "another")
    assert not db.exists(keys.acknowledged("job"))
    progress = Progress(db, live_s=5)
    progress.start()
    assert progress.pos == 0


def test_a_report_from_before_the_begin_stays_and_has_its_own_position(db: redis.Redis) -> None:
    claim(db)
    report(db, 48_000)
    db.delete(keys.control("job"), keys.audio("job"))
    report(db, 0)
    claim(db, "another")
    assert db.hget(keys.acknowledged("job"), "pos") == b"0"
    progress = Progress(db, live_s=5)
    progress.start()
    assert progress.pos == 0


def test_an_attempt_that_continues_keeps_the_readers_of_the_one_before(db: redis.Redis) -> None:
    claim(db)
    report(db, 48_000)
    db.hset(keys.control("job"), "lease_until", 0)
    claim(db, "second")
    progress = Progress(db, live_s=5)
    progress.start()
    assert progress.pos == 48_000
