"""Jobs that depend on their readers: a live job ends if nobody reads it, a job with a window waits for its reader."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.oracle import Expected, check_jobs
from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Settings, SpeechCancelledError
from voxspool.protocol import keys
from voxspool.protocol.stream import Audio, Begin, Cancelled
from voxspool_worker.speech.reader_progress import UNREAD

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client, Speech

    StartWorker = Callable[..., WorkerProcess]

LIVE = "sine-live"
CANCELLED = frozenset({"cancelled"})


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
    ahead = int(db.hget(keys.control(speech.id), "pos")) / first.sample_rate
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
    speech = client.enqueue(SENTENCE * 16, voice=LIVE, live_s=5)
    for received in speech.entries():
        if isinstance(received.entry, Audio) and received.entry.pos > 24_000 * 10:
            break
    until(lambda: int(db.hget(keys.acknowledged(speech.id), "pos") or 0) > 0, "the reader's acknowledgement")
    furthest = int(db.hget(keys.acknowledged(speech.id), "pos"))
    late = speech.chunks()
    for _ in range(3):
        next(late)
    assert int(db.hget(keys.acknowledged(speech.id), "pos")) >= furthest
    speech.cancel()
