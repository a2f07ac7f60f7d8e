"""Jobs that no live worker can speak end after a stated time, on a real Redis with a clock of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lives import END, speak
from tests.support.queued_jobs import QUEUE, begin, records_of, remove_card, waiting, write_card
from voxspool import Client, SpeechCancelledError
from voxspool.protocol import keys
from voxspool_worker.queue.expiry import PATIENCE_S, Expiry
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import ANY_TIME

if TYPE_CHECKING:
    import redis

    from tests.support.manual_clock import ManualClock
    from voxspool import Speech

LIMIT_S = 3600
OPTIONS = {"id": "a", "engine": "tone", "priority": "batch"}


@pytest.fixture
def recovery(db: redis.Redis, clock: ManualClock) -> Recovery:
    write_card(db, "piper", {"v": []})
    return Recovery(records_of(db), RqQueues(db), db, lambda: None, clock, unserved_s=LIMIT_S)


@pytest.fixture
def speech(client: Client) -> Speech:
    """A job that only a worker with the engine tone can speak; there is none."""
    return client.enqueue("One.", **OPTIONS)


def let_pass(db: redis.Redis, clock: ManualClock, seconds: int) -> None:
    """Make it look as if time has passed: for the worker that looks, for the queue and for the job."""
    clock.now_s += seconds
    for queue, since in db.hgetall(keys.UNSERVED).items():
        db.hset(keys.UNSERVED, queue, int(since) - seconds)
    db.hset("rq:job:a", "enqueued_at", "2020-01-31T08:09:44.664577Z")


def test_a_job_ends_after_the_limit_and_its_stream_says_why(
    db: redis.Redis, client: Client, clock: ManualClock, recovery: Recovery, speech: Speech
) -> None:
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, LIMIT_S - 60)
    recovery.rescue(ANY_TIME)
    assert waiting(db) == ["a"]
    let_pass(db, clock, 60)
    recovery.rescue(ANY_TIME)
    assert waiting(db) == []
    why = f"cancelled by the queue: no live worker served {QUEUE} for 60 min"
    with pytest.raises(SpeechCancelledError, match=why):
        speech.wait()
    (listed,) = client.jobs()
    assert (listed.state, listed.reason) == ("cancelled", f"by the queue: no live worker served {QUEUE} for 60 min")
    client.enqueue("One.", **OPTIONS)
    assert waiting(db) == ["a"], "it can be enqueued again"


def test_a_job_that_was_enqueued_later_waits_its_own_time(
    db: redis.Redis, clock: ManualClock, recovery: Recovery, client: Client
) -> None:
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, 2 * LIMIT_S)
    db.delete("rq:job:a")
    client.enqueue("One.", **OPTIONS)
    recovery.rescue(ANY_TIME)
    assert waiting(db) == ["a"]


@pytest.mark.usefixtures("speech")
def test_a_worker_of_the_engine_starts_the_time_again(db: redis.Redis, clock: ManualClock, recovery: Recovery) -> None:
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, LIMIT_S - 60)
    write_card(db, "tone", {"sine": []})
    recovery.rescue(ANY_TIME)
    assert QUEUE.encode() not in db.hkeys(keys.UNSERVED)
    remove_card(db, "tone")
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, LIMIT_S - 60)
    recovery.rescue(ANY_TIME)
    assert waiting(db) == ["a"]


@pytest.mark.usefixtures("speech")
def test_jobs_of_a_paused_queue_stay(db: redis.Redis, clock: ManualClock, recovery: Recovery) -> None:
    db.sadd(keys.PAUSED, QUEUE)
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, 2 * LIMIT_S)
    recovery.rescue(ANY_TIME)
    assert waiting(db) == ["a"]


@pytest.mark.usefixtures("speech")
def test_a_worker_that_has_just_started_gives_the_others_time_to_load_their_models(
    db: redis.Redis, clock: ManualClock, recovery: Recovery
) -> None:
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, 2 * LIMIT_S)
    fresh = Recovery(records_of(db), RqQueues(db), db, lambda: None, clock, unserved_s=LIMIT_S)
    fresh.rescue(ANY_TIME)
    assert waiting(db) == ["a"]
    let_pass(db, clock, round(PATIENCE_S))
    fresh.rescue(ANY_TIME)
    assert waiting(db) == []


def test_a_job_that_had_begun_ends_where_it_was(
    db: redis.Redis, clock: ManualClock, recovery: Recovery, speech: Speech
) -> None:
    begin(db, QUEUE)
    assert waiting(db) == ["a"]
    recovery.rescue(ANY_TIME)
    let_pass(db, clock, LIMIT_S)
    recovery.rescue(ANY_TIME)
    assert [entry.type for _, entry in speech.entries()] == ["begin", "cancelled"]


def test_ids_without_a_record_and_closed_jobs_do_no_harm(db: redis.Redis, client: Client, clock: ManualClock) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    db.rpush(f"rq:queue:{QUEUE}", "a", "nobody", b"\xff")
    expiry = Expiry(db, LIMIT_S, clock)
    expiry.end_jobs([QUEUE], set(), set())
    let_pass(db, clock, LIMIT_S)
    expiry.end_jobs([QUEUE], set(), set())
    assert client.speech("a").end() == END
    assert not db.exists(keys.control("nobody"))
