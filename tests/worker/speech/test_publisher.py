"""The entries of one run on a real Redis: claims, sequence, fencing, cancelling, lost writes, a full server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.protocol import keys
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Mark, decode
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.speech.publisher import (
    LEASE_S,
    AlreadyRunningError,
    ClosedError,
    LostWritesError,
    Publisher,
    Resume,
    Scripts,
    WrongEngineError,
)

if TYPE_CHECKING:
    import redis

QUEUE = "voxspool-tone-batch"
BEGIN = Begin(0, 24_000, "tone", "sine", "sine", "en", 0)
SAMPLES = Audio(0, b"\0\0" * 100)
KEEP_S = 60


def run(name: str) -> JobExecution:
    return JobExecution(QUEUE, "job", name)


def publisher(db: redis.Redis, name: str = "first") -> Publisher:
    """Return the publisher of a run that has a lease."""
    db.zadd(run(name).lease_key, {run(name).composite: db.time()[0] + LEASE_S})
    return Publisher(Scripts(db), run(name), KEEP_S)


def begun(db: redis.Redis, name: str = "first") -> Publisher:
    one = publisher(db, name)
    one.begin(BEGIN, {"worker": "w"})
    return one


def release(db: redis.Redis) -> None:
    """Let the claim of the present run expire, as if its worker had died."""
    db.hset(keys.control("job"), "lease_until", 0)


def entries(db: redis.Redis) -> list[tuple[str, str]]:
    """Return the id and the type of every entry in the stream."""
    return [(one.decode(), decode(fields).type) for one, fields in db.xrange(keys.audio("job"))]


def end(segments: int) -> End:
    return End(100, 100 / 24_000, segments, first_chunk_s=None, real_time_factor=None)


def mark(end_pos: int, segment: int = 0) -> Mark:
    return Mark(0, end_pos, segment, 0, 6, 1)


def test_a_run_publishes_its_entries_in_one_sequence(db: redis.Redis) -> None:
    one = begun(db)
    one.publish(SAMPLES)
    assert one.pos == 100
    one.publish(mark(100))
    one.publish(end(1))
    assert entries(db) == [("1-1", "begin"), ("1-2", "audio"), ("1-3", "mark"), ("1-4", "end")]
    assert db.hget(keys.control("job"), "state") == b"ended"
    assert 0 < db.ttl(keys.audio("job")) <= KEEP_S


def test_a_later_run_continues_after_the_last_complete_segment(db: redis.Redis) -> None:
    first = begun(db)
    first.publish(SAMPLES)
    first.publish(mark(100))
    first.publish(Audio(100, b"\0\0" * 50))
    release(db)
    second = publisher(db, "second")
    assert second.begin(BEGIN, {}) == Resume(attempt=2, pos=100, segment=1)
    second.publish(Audio(100, b"\0\0" * 10))
    assert entries(db)[-2:] == [("2-1", "begin"), ("2-2", "audio")]


def test_a_run_that_was_replaced_can_write_nothing(db: redis.Redis) -> None:
    first = begun(db)
    release(db)
    begun(db, "second")
    with pytest.raises(EndedEarlyError) as ended:
        first.publish(SAMPLES)
    assert ended.value.reason is Reason.LEASE_LOST
    assert entries(db) == [("1-1", "begin"), ("2-1", "begin")]


def test_a_job_that_a_live_run_holds_cannot_be_claimed(db: redis.Redis) -> None:
    begun(db)
    with pytest.raises(AlreadyRunningError, match="first"):
        publisher(db, "second").begin(BEGIN, {})


def test_a_run_without_a_lease_cannot_claim_a_job(db: redis.Redis) -> None:
    with pytest.raises(EndedEarlyError) as ended:
        Publisher(Scripts(db), run("late"), KEEP_S).begin(BEGIN, {})
    assert ended.value.reason is Reason.LEASE_LOST
    assert entries(db) == []


def test_a_closed_stream_stays_closed(db: redis.Redis) -> None:
    one = begun(db)
    one.publish(Cancelled(0, "kim"))
    with pytest.raises(ClosedError, match="cancelled"):
        publisher(db, "second").begin(BEGIN, {})


@pytest.mark.parametrize(("engine", "rate"), [("piper", 24_000), ("tone", 16_000)])
def test_a_stream_keeps_its_engine_and_its_sample_rate(db: redis.Redis, engine: str, rate: int) -> None:
    begun(db)
    release(db)
    other = Begin(0, rate, engine, "m", "v", "en", 0)
    with pytest.raises(WrongEngineError) as refused:
        publisher(db, "second").begin(other, {})
    assert (refused.value.engine, refused.value.sample_rate) == ("tone", 24_000)


def test_an_entry_that_is_sent_twice_is_in_the_stream_once(db: redis.Redis) -> None:
    one = begun(db)
    one.publish(SAMPLES)
    one._seq -= 1  # the reply was lost, and redis-py sent the command again
    one.pos = 0
    one.publish(SAMPLES)
    assert entries(db) == [("1-1", "begin"), ("1-2", "audio")]


def test_a_hole_in_the_sequence_is_noticed(db: redis.Redis) -> None:
    one = begun(db)
    one.publish(SAMPLES)
    db.hset(keys.control("job"), "seq", 1)  # Redis was restarted with an older state
    with pytest.raises(LostWritesError, match="ends before entry 1-2"):
        one.publish(Audio(100, b"\0\0"))


def test_a_cancelled_job_may_only_be_closed(db: redis.Redis) -> None:
    one = begun(db)
    db.hset(keys.control("job"), "cancel", "kim")
    with pytest.raises(EndedEarlyError) as ended:
        one.publish(SAMPLES)
    assert (ended.value.reason, ended.value.by) == (Reason.CANCELLED, "kim")
    assert one.cancelled_by() == "kim"
    one.publish(Cancelled(0, "kim"))
    assert entries(db)[-1] == ("1-2", "cancelled")


def test_audio_waits_while_redis_is_full_and_the_end_of_a_job_does_not(db: redis.Redis) -> None:
    waits: list[float] = []

    def wait(wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 3:
            db.config_set("maxmemory", 0)

    db.zadd(run("first").lease_key, {run("first").composite: db.time()[0] + LEASE_S})
    one = Publisher(Scripts(db), run("first"), KEEP_S, wait)
    one.begin(BEGIN, {})
    db.config_set("maxmemory", 1)
    one.publish(SAMPLES)
    assert len(waits) == 3
    assert waits == sorted(waits)
    db.config_set("maxmemory", 1)
    one.publish(end(0))
    assert len(waits) == 3
