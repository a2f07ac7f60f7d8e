"""Jobs that depend on their readers: a live job ends if nobody reads it, a job with a window waits for its reader."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import LIVE, Listeners, await_spoken, freeze, spoken_s, thaw
from tests.support.oracle import Expected, check_jobs
from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Client, Settings, SpeechCancelledError
from voxspool.client import LIVE_S
from voxspool.protocol import keys
from voxspool.protocol.stream import Audio, Begin, Cancelled
from voxspool.speech import LEFT
from voxspool_worker.speech.reader_progress import UNREAD

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from tests.support.proxy import Proxy
    from voxspool import Speech

    StartWorker = Callable[..., WorkerProcess]
    MakeProxy = Callable[[], Proxy]

RATE_HZ = 24_000
CANCELLED = frozenset({"cancelled"})


def position(db: redis.Redis, speech: Speech) -> int:
    """Return the position of the furthest reader of a job, as Redis has it."""
    return int(db.hget(keys.acknowledged(speech.id), "pos") or 0)


def await_report(db: redis.Redis, speech: Speech) -> None:
    """Wait until a reader of the job reports."""
    before = db.hget(keys.acknowledged(speech.id), "at")
    until(lambda: db.hget(keys.acknowledged(speech.id), "at") != before, "a report")


def spend(seconds: float) -> None:
    """Let some time pass, in which something could happen that must not."""
    over_at = time.monotonic() + seconds
    until(lambda: time.monotonic() > over_at, f"{seconds} s")


def last_entry(speech: Speech) -> object:
    *_, (_, last) = speech.entries(timeout_s=30)
    return last


def test_a_live_job_that_nobody_reads_is_cancelled(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    text = SENTENCE * 32  # about 17 s on eight rows
    speech = client.enqueue(text, voice=LIVE, live_s=5)
    until(lambda: db.hget(keys.control(speech.id), "state") == b"cancelled", "the job to end")
    assert isinstance(last := last_entry(speech), Cancelled)
    assert last.by == UNREAD
    check_jobs(db, {speech.id: Expected(tone(text), CANCELLED)})


def test_a_live_job_continues_while_it_is_read_and_is_cancelled_after_its_reader_has_left(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    text = SENTENCE * 32  # about 17 s on eight rows
    speech = client.enqueue(text, voice=LIVE, live_s=5)
    heard_s = 0.0
    for chunk in speech:
        heard_s = (chunk.pos + len(chunk.pcm) // 2) / chunk.sample_rate
        if heard_s > 60:
            break
    assert heard_s > 60, "the job ended while it was read"
    acknowledged = db.hgetall(keys.acknowledged(speech.id))
    assert 0 < int(acknowledged[b"pos"]) <= heard_s * 24_000
    until(lambda: speech.status().over, "the job to end")
    with pytest.raises(SpeechCancelledError, match=UNREAD):
        speech.wait()
    check_jobs(db, {speech.id: Expected(tone(text), CANCELLED)})


def test_a_live_job_whose_reader_left_while_it_was_queued_is_not_spoken(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE, live_s=5)
    with pytest.raises(Exception, match="it is queued"):
        speech.wait(timeout_s=2.5)
    at_ms = int(db.hget(keys.acknowledged(speech.id), "at"))
    until(lambda: db.time()[0] * 1000 - at_ms > 6000, "the reader to be gone for long enough")
    start_worker()
    until(lambda: db.hget(keys.control(speech.id), "state") == b"cancelled", "the job to end")  # reading is coming back
    entries = [received.entry for received in speech.entries(timeout_s=30)]
    assert [type(entry) for entry in entries] == [Begin, Cancelled]
    check_jobs(db, {speech.id: Expected(tone(SENTENCE), CANCELLED)})


def test_an_asyncio_reader_keeps_a_live_job_alive(
    redis_server: RedisServer, start_worker: StartWorker, db: redis.Redis
) -> None:
    async def listen() -> bytes:
        async with AsyncClient(settings=Settings(redis_url=redis_server.url)) as client:
            speech = await client.enqueue(text, id="async", voice=LIVE, live_s=5)
            return b"".join([chunk.pcm async for chunk in speech])

    text = SENTENCE * 16  # about 9 s
    start_worker()
    assert asyncio.run(listen()) == tone(text)
    check_jobs(db, {"async": Expected(tone(text))})


def test_a_job_with_a_window_waits_for_its_reader(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    text = SENTENCE * 20
    speech = client.enqueue(text, window_s=6, live_s=60)
    reader = iter(speech)
    first = next(reader)
    until(lambda: int(db.hget(keys.control(speech.id), "pos")) / first.sample_rate > 6, "the window to be full")
    settled_at = time.monotonic() + 1
    until(lambda: time.monotonic() > settled_at, "a second, in which the engine could speak past the window")
    ahead = int(db.hget(keys.control(speech.id), "pos")) / first.sample_rate
    assert 6 < ahead < 6 + 6, "the worker is at most one segment past the window"
    heard = first.pcm + b"".join(chunk.pcm for chunk in reader)
    assert heard == tone(text)
    check_jobs(db, {speech.id: Expected(tone(text))})


def test_a_reader_of_an_ordinary_job_acknowledges_nothing(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 4, voice=LIVE)
    assert b"".join(chunk.pcm for chunk in speech) == tone(SENTENCE * 4)
    assert not db.exists(keys.acknowledged(speech.id))


def test_the_furthest_of_several_readers_counts(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 32, voice=LIVE, live_s=5)
    for received in speech.entries():
        if isinstance(received.entry, Audio) and received.entry.pos > RATE_HZ * 10 and position(db, speech):
            break
    furthest = position(db, speech)
    late = speech.chunks()
    for _ in range(3):
        next(late)
    for _ in range(2):
        await_report(db, speech)
    assert position(db, speech) == furthest
    speech.cancel()


def test_a_listener_that_pauses_keeps_its_live_job(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    text = SENTENCE * 16  # about 9 s
    speech = client.enqueue(text, voice=LIVE, live_s=1)
    reader = iter(speech)
    heard = next(reader).pcm
    spend(3)
    heard += b"".join(chunk.pcm for chunk in reader)
    assert heard == tone(text)
    check_jobs(db, {speech.id: Expected(tone(text))})


def test_an_asyncio_listener_with_a_slow_consumer_keeps_its_live_job(
    redis_server: RedisServer, start_worker: StartWorker, db: redis.Redis
) -> None:
    async def listen() -> bytes:
        async with AsyncClient(settings=Settings(redis_url=redis_server.url)) as client:
            speech = await client.enqueue(text, id="async", voice=LIVE, live_s=1)
            chunks, heard = speech.chunks(), b""
            async for chunk in chunks:
                heard += chunk.pcm
                if chunk.pos == 0:
                    await asyncio.sleep(3)
            return heard

    text = SENTENCE * 16
    start_worker()
    assert asyncio.run(listen()) == tone(text)
    check_jobs(db, {"async": Expected(tone(text))})


def test_a_live_job_outlives_a_redis_that_is_away_for_longer_than_it_may_be_unread(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer, proxies: MakeProxy
) -> None:
    start_worker()
    text = SENTENCE * 16
    client.enqueue(text, id="job-0", voice=LIVE, live_s=6)
    proxy = proxies()
    with Client(proxy.url) as distant:
        listeners = Listeners(distant, ["job-0"])
        await_spoken(db, ["job-0"], 1)
        proxy.stall()
        freeze(redis_server)
        spend(9)
        thaw(redis_server)
        spend(2)  # the reader needs longer than the worker to come back
        proxy.flow()
        assert listeners.heard("job-0") == tone(text)
    check_jobs(db, {"job-0": Expected(tone(text))})


def test_a_job_under_the_id_of_an_expired_one_has_readers_of_its_own(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    text = SENTENCE * 20
    client.enqueue(text, id="again", voice=LIVE, live_s=5, keep_s=1)
    for _ in client.speech("again").entries():
        if position(db, client.speech("again")) > RATE_HZ * 6:
            break
    client.speech("again").cancel()
    until(lambda: not db.exists(keys.control("again"), keys.audio("again"), "rq:job:again"), "the job to expire")
    assert position(db, client.speech("again")) > RATE_HZ * 6
    db.hset(keys.acknowledged("again"), "at", 1)  # an hour later
    speech = client.enqueue(text, id="again", live_s=10, window_s=6, keep_s=60)
    until(lambda: spoken_s(db, "again") > 6, "the window to be full")
    spend(1)
    assert 6 < spoken_s(db, "again") < 6 + 6, "the window counts from this job's readers"
    assert b"".join(chunk.pcm for chunk in speech) == tone(text)


# Those who hold a job


def test_a_kept_job_is_live_until_it_is_no_longer_kept(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    text = SENTENCE * 32
    speech = client.enqueue(text, voice=LIVE, live_s=1)
    with client.speech(speech.id).keep():
        spend(4)
        assert speech.status().state == "running"
    until(lambda: speech.status().over, "the job to end")
    assert isinstance(last := last_entry(speech), Cancelled)
    assert last.by == UNREAD
    check_jobs(db, {speech.id: Expected(tone(text), CANCELLED)})


def test_a_live_job_is_cancelled_when_the_block_of_its_handle_is_left(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    text = SENTENCE * 32
    with client.enqueue(text, voice=LIVE, live=True) as speech:
        assert speech.spec().live_s == LIVE_S
        chunks = iter(speech)
        next(chunks)
    spoken = spoken_s(db, speech.id)
    assert last_entry(speech) == Cancelled(int(db.hget(keys.control(speech.id), "pos")), LEFT)
    assert spoken_s(db, speech.id) < spoken + 1.0
    check_jobs(db, {speech.id: Expected(tone(text), CANCELLED)})


def test_an_asyncio_job_is_cancelled_when_the_block_of_its_handle_is_left(
    redis_server: RedisServer, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    async def leave(how: str) -> None:
        async with (
            AsyncClient(redis_server.url) as asynchronous,
            asynchronous.enqueue(text, id=how, voice=LIVE, live=True) as speech,
        ):
            async for _ in speech:
                if how == "raise":
                    raise ZeroDivisionError
                if how == "wait":
                    await asyncio.sleep(60)
                break

    async def leave_cancelled() -> None:
        task = asyncio.create_task(leave("wait"))
        while not db.exists(keys.audio("wait")):  # noqa: ASYNC110 - another program writes it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    text = SENTENCE * 32
    start_worker()
    asyncio.run(leave("break"))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(leave("raise"))
    asyncio.run(leave_cancelled())
    for job in ("break", "raise", "wait"):
        assert isinstance(last := last_entry(client.speech(job)), Cancelled)
        assert last.by == LEFT


def test_a_job_that_is_not_live_or_another_handle_outlives_a_block(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    with client.enqueue(SENTENCE, id="ordinary"):
        pass
    client.enqueue(SENTENCE, id="live", live=True)
    with client.speech("live"):
        pass
    with client.enqueue(SENTENCE, id="live", live=True):
        pass
    check_jobs(db, {job: Expected(tone(SENTENCE)) for job in ("ordinary", "live")})


def test_a_block_of_a_job_that_has_ended_leaves_it_as_it_is(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    with client.enqueue(SENTENCE, live=True) as speech:
        assert b"".join(chunk.pcm for chunk in speech) == tone(SENTENCE)
    check_jobs(db, {speech.id: Expected(tone(SENTENCE))})
