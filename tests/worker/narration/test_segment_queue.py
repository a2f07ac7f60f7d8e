"""The segment queue of a chapter, on a real Redis: claims, deaths, leases and results."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis

from tests.support.segments import ANY_TIME, expire_leases, held_segments, unclaimed_segments
from voxspool.connections import connection
from voxspool.protocol import keys
from voxspool_worker.jobs.standing import Neighbour, Standing
from voxspool_worker.narration.segment_queue import (
    LEASE_S,
    MAX_SEGMENT_DEATHS,
    PAGE,
    SegmentClaim,
    SegmentOutcome,
    SegmentQueue,
    SegmentScripts,
    narrated_jobs,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def queue_of(db: redis.Redis, digest: str = "a-plan") -> SegmentQueue:
    return SegmentQueue(SegmentScripts(db), "job", "tone", digest)


def open_queue(db: redis.Redis, segments: int) -> SegmentQueue:
    """Return the queue of a running chapter with a number of segments."""
    db.hset(keys.control("job"), "state", "running")
    queue = queue_of(db)
    queue.take()
    queue.offer(range(segments))
    assert queue.announce()
    return queue


def claim(
    queue: SegmentQueue,
    holder: str = "",
    *,
    expired_by: float = ANY_TIME,
    alone: bool = True,
    standing: Standing | None = None,
) -> SegmentClaim | str:
    """Claim a segment as `holder`; without a name, as a worker that has no other."""
    return queue.claim(holder or uuid4().hex, expired_by=expired_by, alone=alone, standing=standing)


def on(host: str, *, completed: bool = False, other_host: str = "") -> Standing:
    """Return what is known of a worker on a host, and of one on another host that lives."""
    others = (Neighbour(other_host, frozenset(["q"]), completed=True, process=""),) if other_host else ()
    return Standing(host, completed, others)


# Claims


def test_segments_are_claimed_in_order_and_each_once(db: redis.Redis) -> None:
    queue = open_queue(db, 12)
    assert [claim(queue) for _ in range(13)] == [*(SegmentClaim(number, 0) for number in range(12)), "none"]


def test_many_workers_that_claim_at_once_get_different_segments(db: redis.Redis) -> None:
    queue = open_queue(db, 40)
    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(lambda number: claim(queue, f"worker-{number}"), range(40)))
    assert sorted(one.index for one in claims if isinstance(one, SegmentClaim)) == list(range(40))


def test_a_lease_lasts_as_long_as_is_stated_by_the_clock_of_redis(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    before_s, _ = db.time()
    claim(queue)
    after_s, _ = db.time()
    ((_, lease_end_ms),) = db.zrange(keys.unspoken("job"), 0, -1, withscores=True)
    assert before_s + LEASE_S <= lease_end_ms / 1000 < after_s + LEASE_S + 1


def test_a_segment_that_is_offered_again_keeps_its_lease(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue)
    queue.offer(range(3))
    assert held_segments(db, "job") == [0]
    assert unclaimed_segments(db, "job") == [1, 2]


def test_more_segments_than_one_command_takes_are_all_offered_and_all_results_read(db: redis.Redis) -> None:
    count = 2 * PAGE + 1
    queue = open_queue(db, count)
    assert db.zcard(keys.unspoken("job")) == count
    for number in range(count):
        queue.end(SegmentOutcome(number, "found"), "me")
    pages = [queue.results(first) for first in range(0, count, PAGE)]
    assert [len(page) for page in pages] == [PAGE, PAGE, 1]
    assert [outcome.segment for page in pages for outcome in page] == list(range(count))


def test_a_chapter_with_another_plan_or_without_a_queue_gives_no_segment(db: redis.Redis) -> None:
    open_queue(db, 1)
    assert claim(queue_of(db, "another-plan")) == "other"
    db.delete(keys.pool("job"))
    assert claim(queue_of(db)) == "over"


def end_chapter(db: redis.Redis) -> None:
    db.hset(keys.control("job"), "state", "ended")


def cancel_chapter(db: redis.Redis) -> None:
    db.hset(keys.control("job"), "cancel", "a-user")


@pytest.mark.parametrize("stop", [end_chapter, cancel_chapter])
def test_a_chapter_that_is_over_or_is_being_cancelled_gives_no_segment(
    db: redis.Redis, stop: Callable[[redis.Redis], None]
) -> None:
    queue = open_queue(db, 1)
    stop(db)
    assert claim(queue) == "over"


# Deaths


def test_a_segment_whose_holder_died_goes_to_a_worker_that_speaks_nothing_else(db: redis.Redis) -> None:
    queue = open_queue(db, 3)
    for _ in range(2):
        claim(queue)
    expire_leases(db, "job", 0, 1)
    assert claim(queue, expired_by=0) == SegmentClaim(2, 0), "right after an outage, no lease counts as expired"
    assert claim(queue, alone=False) == "suspect"
    assert claim(queue) == SegmentClaim(0, 1)


def test_a_segment_in_which_too_many_workers_died_has_the_outcome_poison_and_its_neighbour_has_not(
    db: redis.Redis,
) -> None:
    queue = open_queue(db, 3)
    for _ in range(2):
        claim(queue, standing=on("a-host"))
    expire_leases(db, "job", 0, 1)
    for deaths in range(1, MAX_SEGMENT_DEATHS):
        assert claim(queue, standing=on("another-host")) == SegmentClaim(0, deaths)
        expire_leases(db, "job", 0)
    assert claim(queue) == SegmentClaim(1, 1), "0 is given up, its neighbour is not"
    assert queue.results(0) == [SegmentOutcome(0, "poison")]
    assert 0 < db.ttl(keys.results("job")) <= keys.POOL_TTL_S


def deaths_until_poison(db: redis.Redis, *workers: Standing) -> int:
    """Let one worker after another die of a segment, the last one again and again, until it is given up."""
    queue = open_queue(db, 1)
    for deaths in range(10):
        if claim(queue, standing=workers[min(deaths, len(workers) - 1)]) == "none":
            return deaths
        expire_leases(db, "job", 0)
    return 10


@pytest.mark.parametrize(
    ("workers", "deaths"),
    [
        ([on("a"), on("b")], 2),
        ([on("a", completed=True), on("a")], 4),
        ([on("a"), on("a", completed=True)], 2),
        ([on("a"), on("a", completed=True, other_host="b")], 4),
        ([on("a")], 4),
    ],
    ids=["two hosts", "the first death proves nothing", "one host that works", "another host lives", "no proof"],
)
def test_a_segment_is_given_up_when_it_and_not_a_machine_is_the_cause(
    db: redis.Redis, workers: list[Standing], deaths: int
) -> None:
    assert deaths_until_poison(db, *workers) == deaths


def test_a_worker_that_has_completed_nothing_takes_other_segments_before_one_that_two_of_its_host_died_of(
    db: redis.Redis,
) -> None:
    queue = open_queue(db, 2)
    for _ in range(2):
        claim(queue, standing=on("a"))
        expire_leases(db, "job", 0)
    assert claim(queue, standing=on("a")) == SegmentClaim(1, 0)
    assert claim(queue, standing=on("a"), alone=False) == "suspect"
    assert claim(queue, standing=on("a")) == SegmentClaim(0, 2)
    expire_leases(db, "job", 0, 1)
    assert claim(queue, standing=on("a", completed=True)) == SegmentClaim(0, 3)


def test_a_suspect_that_is_given_back_is_still_a_suspect_and_no_death_is_added(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue)
    expire_leases(db, "job", 0)
    assert claim(queue, "me") == SegmentClaim(0, 1)
    queue.give_back({0: "me"})
    assert claim(queue, alone=False) == "suspect"
    assert claim(queue) == SegmentClaim(0, 1)


# Leases and results


def test_only_the_holder_renews_a_lease(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "first")
    expire_leases(db, "job", 0)
    claim(queue, "second")
    assert queue.renew({0: "first"}) == {0}
    assert queue.renew({0: "second"}) == set()
    assert held_segments(db, "job") == [0]


def test_a_renewed_lease_does_not_expire(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "me")
    expire_leases(db, "job", 0)
    assert queue.renew({0: "me"}) == set()
    assert claim(queue, "other") == "none"


def test_only_the_holder_gives_a_segment_back(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "first")
    expire_leases(db, "job", 0)
    claim(queue, "second")
    queue.give_back({0: "first"})
    assert claim(queue) == "none"
    queue.give_back({0: "second"})
    assert claim(queue) == SegmentClaim(0, 1)


def test_a_renewal_that_comes_after_a_segment_was_given_back_does_not_lease_it_again(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "me")
    queue.give_back({0: "me"})
    assert queue.renew({0: "me"}) == {0}
    assert unclaimed_segments(db, "job") == [0]


def test_the_first_result_of_a_segment_counts_and_a_later_one_is_refused(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "me")
    assert queue.end(SegmentOutcome(0, "spoken", 5, 7), "me")
    assert not queue.end(SegmentOutcome(0, "spoken", 6, 8), "me")
    assert queue.results(0) == [SegmentOutcome(0, "spoken", 5, 7)]
    assert queue.results(1) == []
    assert queue.renew({0: "me"}) == {0}, "a segment with a result is held by nobody"


def test_a_result_keeps_every_field(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    outcome = SegmentOutcome(0, "store", 3, 2**32 - 1, 4, "the store “läuft” not")
    queue.end(outcome, "me")
    assert queue.results(0) == [outcome]


def test_a_late_result_counts_unless_another_worker_holds_the_segment(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "late")
    expire_leases(db, "job", 0)
    assert queue.end(SegmentOutcome(0, "spoken"), "late"), "nobody else has it"
    claim(queue, "late")
    expire_leases(db, "job", 1)
    assert claim(queue, "other") == SegmentClaim(1, 1)
    assert not queue.end(SegmentOutcome(1, "spoken"), "late")
    assert queue.end(SegmentOutcome(1, "spoken"), "other")


def test_a_result_of_another_plan_is_refused(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "me")
    other = queue_of(db, "another-plan")
    other.take()
    other.offer([0])
    assert not queue.end(SegmentOutcome(0, "spoken"), "me")
    assert other.results(0) == []
    assert unclaimed_segments(db, "job") == [0]


# Commands whose reply is lost, and which are sent again


def test_a_claim_that_is_sent_again_leases_the_same_segment_and_no_second_one(db: redis.Redis) -> None:
    queue = open_queue(db, 3)
    assert claim(queue, "me") == SegmentClaim(0, 0)
    assert claim(queue, "you") == SegmentClaim(1, 0)
    assert claim(queue, "me") == SegmentClaim(0, 0)
    assert (set(held_segments(db, "job")), unclaimed_segments(db, "job")) == ({0, 1}, [2])


def test_a_claim_that_is_sent_again_after_its_lease_was_lost_leases_another_segment(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "me")
    expire_leases(db, "job", 0)
    assert claim(queue, "you") == SegmentClaim(0, 1)
    assert claim(queue, "me") == SegmentClaim(1, 0)


def test_a_claim_of_a_suspect_that_is_sent_again_has_the_same_deaths(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "dead")
    expire_leases(db, "job", 0)
    assert claim(queue, "me") == claim(queue, "me") == SegmentClaim(0, 1)


@pytest.mark.parametrize("end", ["spoken", "given back"])
def test_a_claim_that_is_sent_again_after_its_segment_ended_leases_the_next(db: redis.Redis, end: str) -> None:
    queue = open_queue(db, 2)
    claim(queue, "me")
    if end == "spoken":
        queue.end(SegmentOutcome(0, "spoken"), "me")
    else:
        queue.give_back({0: "me"})
        claim(queue, "you")
    assert claim(queue, "me") == SegmentClaim(1, 0)


def test_a_result_that_is_sent_again_gets_the_same_reply_and_is_recorded_once(db: redis.Redis) -> None:
    queue = open_queue(db, 1)
    claim(queue, "me")
    for _ in range(2):
        assert queue.end(SegmentOutcome(0, "spoken"), "me")
    assert queue.results(0) == [SegmentOutcome(0, "spoken")]


def test_the_segment_of_a_claim_without_a_reply_is_given_back_by_its_holder(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "me")
    queue.give_back_claim("nobody")
    assert held_segments(db, "job") == [0]
    queue.give_back_claim("me")
    assert unclaimed_segments(db, "job") == [0, 1]


# The life of a queue


def test_a_run_with_the_same_plan_continues_and_one_with_another_plan_begins_anew(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "me")
    queue.end(SegmentOutcome(0, "spoken"), "me")
    queue.take()
    assert queue.results(0)
    other = queue_of(db, "another-plan")
    other.take()
    assert other.results(0) == []
    assert claim(queue) == "other"


def test_a_queue_is_deleted_when_its_chapter_is_over_and_late_calls_bring_nothing_back(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "late")
    queue.close()
    assert db.exists(keys.pool("job")), "the chapter still runs"
    db.hset(keys.control("job"), "state", "cancelled")
    queue.close()
    assert narrated_jobs(db, "tone") == []
    assert claim(queue) == "over"
    assert queue.renew({0: "late"}) == {0}
    queue.give_back({0: "late"})
    assert not queue.end(SegmentOutcome(0, "spoken"), "me")
    assert not queue.announce(), "the queue is gone"
    db.delete(keys.narrating("tone"))
    assert db.keys("*") == [keys.control("job").encode()]


def test_all_keys_of_a_queue_expire(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    claim(queue, "me")
    queue.end(SegmentOutcome(0, "spoken"), "me")
    for key in (keys.pool("job"), keys.unspoken("job"), keys.results("job"), keys.narrating("tone")):
        assert 0 < db.ttl(key) <= keys.POOL_TTL_S, key


def test_chapters_are_listed_by_the_time_when_they_began(db: redis.Redis) -> None:
    for job, began in (("second", 20), ("first", 10), ("third", 30)):
        db.zadd(keys.narrating("tone"), {job: began})
    SegmentQueue(SegmentScripts(db), "second", "tone", "a-plan").announce()
    assert narrated_jobs(db, "tone") == ["first", "second", "third"], "a second announcement does not move a chapter"
    assert narrated_jobs(db, "xtts") == []


def test_a_full_redis_refuses_new_segments_and_lets_workers_claim_renew_and_end_the_others(db: redis.Redis) -> None:
    queue = open_queue(db, 2)
    db.config_set("maxmemory", 1)
    assert claim(queue, "me") == SegmentClaim(0, 0)
    assert queue.renew({0: "me"}) == set()
    assert queue.end(SegmentOutcome(0, "spoken"), "me")
    with pytest.raises(redis.ResponseError) as refused:
        queue.offer([2])
    assert connection.is_full(refused.value)
