"""An id that is enqueued again: the same speech, another one, after a failure, while a run of the old job lives."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from tests.support.lives import END, OPTIONS, begin, speak
from tests.support.processes import until
from tests.support.queued_jobs import QUEUE, claim, fetch, records_of, waiting
from voxspool import AsyncClient, Client, JobExistsError, NarrationJobs, Passage, StreamReplacedError, UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool.protocol.narration import chapter
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Failed
from voxspool.queue import ending
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.queue.rq_records import LOST
from voxspool_worker.speech.publisher import ClosedError, Publisher, Scripts

if TYPE_CHECKING:
    import redis

    from voxspool.protocol.narration import ChapterSpec


def ids(db: redis.Redis) -> list[str]:
    return [entry.decode() for entry, _ in db.xrange(keys.audio("a"))]


# The same speech and another


@pytest.mark.parametrize("record", [True, False], ids=["recorded", "record-gone"])
def test_the_same_speech_under_an_id_is_one_job_and_another_is_refused(
    db: redis.Redis, client: Client, *, record: bool
) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    db.persist("rq:job:a") if record else db.delete("rq:job:a")
    assert client.enqueue("One.", **(OPTIONS | {"keep_s": 500})).end() == END
    assert waiting(db) == []
    assert 400 < db.ttl(keys.audio("a")) <= 500, "it stays as long as the last caller asked"
    with pytest.raises(JobExistsError, match="'a' is taken by another text"):
        client.enqueue("Two.", **OPTIONS)
    with pytest.raises(JobExistsError):
        client.enqueue("One.", **(OPTIONS | {"speed": 1.5}))
    assert waiting(db) == []
    assert client.speech("a").end() == END


@pytest.mark.parametrize("state", ["queued", "running"])
def test_another_speech_under_the_id_of_a_waiting_or_running_job_is_refused(
    db: redis.Redis, client: Client, state: str
) -> None:
    client.enqueue("One.", **OPTIONS)
    if state == "running":
        begin(db)
    before = db.hgetall("rq:job:a")
    with pytest.raises(JobExistsError):
        client.enqueue("Two.", **OPTIONS)
    assert client.enqueue("One.", **OPTIONS).status().state == state
    assert db.hgetall("rq:job:a") == before
    assert waiting(db) == (["a"] if state == "queued" else [])


def test_an_expired_id_is_free_for_another_speech(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    db.delete(keys.audio("a"), keys.control("a"))
    db.hset(keys.acknowledged("a"), "pos", 10)
    client.enqueue("Two.", **OPTIONS)
    assert waiting(db) == ["a"]
    assert not db.exists(keys.acknowledged("a"))


def test_a_job_of_another_program_is_compared_by_its_text(db: redis.Redis, client: Client) -> None:
    queue = Queue(QUEUE, connection=db, serializer=JSONSerializer)
    spec = JobSpec("One.", id="a", engine="tone", priority="batch")
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id="a")
    client.place(spec)
    with pytest.raises(JobExistsError):
        client.enqueue("Two.", **OPTIONS)
    assert waiting(db) == ["a"]


def a_chapter(text: str) -> ChapterSpec:
    return chapter("a", [Passage(text, 0.5)], "0" * 32, engine="tone")


def test_a_chapter_under_the_id_of_another_is_refused(db: redis.Redis, client: Client) -> None:
    jobs = NarrationJobs(client)
    assert jobs.place(a_chapter("One."))
    assert not jobs.place(a_chapter("One."))
    with pytest.raises(JobExistsError):
        jobs.place(a_chapter("Two."))
    speak(db, END)
    db.delete("rq:job:a")
    assert not jobs.place(a_chapter("One."))
    with pytest.raises(JobExistsError):
        jobs.place(a_chapter("Two."))


def test_another_text_that_rq_itself_enqueued_starts_a_new_stream(db: redis.Redis, client: Client) -> None:
    """RQ asks nobody: the worker notices that the closed stream is that of another text."""
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    spec = JobSpec("Two.", id="a", engine="tone", priority="batch")
    Queue(QUEUE, connection=db, serializer=JSONSerializer).enqueue_call(TASK, args=(spec.encode(),), job_id="a")
    begin(db, "second")
    assert ids(db) == ["2-1"]
    assert db.hget(keys.control("a"), "digest") == spec.digest.encode()


def test_the_same_text_that_rq_itself_enqueued_keeps_its_stream(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    spec = JobSpec("One.", id="a", engine="tone", priority="batch")
    Queue(QUEUE, connection=db, serializer=JSONSerializer).enqueue_call(TASK, args=(spec.encode(),), job_id="a")
    with pytest.raises(ClosedError):
        begin(db, "second")
    assert ids(db) == ["1-1", "1-2"]


# Failed and cancelled


@pytest.mark.parametrize("last", [Failed(0, "engine", "x", retryable=False), Cancelled(0, "alice")])
@pytest.mark.parametrize("text", ["One.", "Two."])
def test_a_failed_or_cancelled_id_can_be_enqueued_again_at_once(
    db: redis.Redis, client: Client, last: Failed | Cancelled, text: str
) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, Audio(0, bytes(20)), last)
    speech = client.enqueue(text, **OPTIONS)
    assert speech.status().state == "queued"
    assert waiting(db) == ["a"]
    speak(db, END)
    assert ids(db) == ["2-1", "2-2"], "ids of entries rise"
    first, _ = (received.entry for received in speech.entries())
    assert isinstance(first, Begin)
    assert first.first == 2
    assert speech.wait() == END


def test_a_waiting_job_that_was_cancelled_can_be_enqueued_and_cancelled_again(db: redis.Redis, client: Client) -> None:
    for attempt in (1, 2, 3):
        speech = client.enqueue("One.", **OPTIONS)
        assert waiting(db) == ["a"]
        assert speech.cancel() == "cancelled"
        assert ids(db) == [f"{attempt}-1"]
        assert waiting(db) == []
    assert db.zrange(f"rq:canceled:{QUEUE}", 0, -1) == [b"a"]
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    assert ids(db) == ["4-1", "4-2"]


def test_a_waiting_job_without_a_queue_in_its_record_is_cancelled(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    db.hdel("rq:job:a", "origin")
    assert client.speech("a").cancel() == "cancelled"
    assert client.speech("a").status().state == "cancelled"
    client.enqueue("One.", **OPTIONS)
    assert waiting(db) == ["a"]


def test_a_second_attempt_of_a_new_speech_still_names_the_first(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS).cancel()
    speech = client.enqueue("One.", **OPTIONS)
    begun, _ = begin(db)
    db.hset(keys.control("a"), "lease_until", 0)
    publisher = Publisher(Scripts(db), begun.run, keep_s=60)
    db.hset(keys.control("a"), "holder", "another")
    publisher.begin(Begin(0, 24_000, "tone", "m", "v", "en", 0), {})
    publisher.publish(END)
    assert [getattr(received.entry, "first", None) for received in speech.entries()] == [2, 2, None]


def test_a_reader_in_the_middle_of_the_old_stream_gets_a_clear_end(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    _, publisher = begin(db)
    publisher.publish(Audio(0, bytes(20)))
    reader = speech.entries(timeout_s=20)
    assert [next(reader).id, next(reader).id] == [(1, 1), (1, 2)]
    assert speech.cancel() == "asked"
    client.enqueue("Two.", **OPTIONS)
    begin(db, "second")
    with pytest.raises(StreamReplacedError, match="enqueued again after entry 1-2"):
        next(reader)
    with pytest.raises(StreamReplacedError):
        next(speech.entries("1-2"))


def test_a_reader_in_the_middle_learns_of_the_new_job_while_that_waits(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    speak(db, Audio(0, bytes(20)), Failed(10, "engine", "x", retryable=False))
    client.enqueue("Two.", **OPTIONS)
    with pytest.raises(StreamReplacedError):
        next(speech.entries("1-2", timeout_s=20))


def test_a_run_of_the_old_job_can_write_nothing_more(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    old, publisher = begin(db)
    assert speech.cancel() == "asked"
    client.enqueue("Two.", **OPTIONS)
    with pytest.raises(EndedEarlyError) as ended:
        publisher.publish(Cancelled(0, "alice"))
    assert ended.value.reason is Reason.LEASE_LOST
    records = records_of(db)
    assert records.renew_lease(old.run) == LOST
    assert records.finish(old.run, old.job, JobStatus.STOPPED, "x") == LOST
    assert fetch(db, "a").get_status() is JobStatus.QUEUED
    assert waiting(db) == ["a"]
    assert not db.exists(keys.audio("a"))


def test_a_run_that_was_claimed_for_the_old_job_cannot_begin_the_new_one(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    old = claim(records_of(db))
    assert speech.cancel() == "cancelled", "no run has begun"
    client.enqueue("Two.", **OPTIONS)
    with pytest.raises(EndedEarlyError):
        Publisher(Scripts(db), old.run, keep_s=60).begin(Begin(0, 24_000, "tone", "m", "v", "en", 0), {})
    assert not db.exists(keys.audio("a"))


def test_a_cancel_that_is_slow_leaves_the_job_that_was_enqueued_meanwhile(
    db: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    scripts = ending.script

    def late(redis: redis.Redis, name: str) -> object:
        if name == "take_off":
            client.enqueue("One.", **OPTIONS)
        return scripts(redis, name)

    monkeypatch.setattr(ending, "script", late)
    assert speech.cancel() == "cancelled"
    assert waiting(db) == ["a"]
    assert speech.status().state == "queued"


def test_an_enqueue_whose_reply_was_lost_does_not_start_a_failed_job_again(db: redis.Redis, client: Client) -> None:
    sent: list[dict[str, object]] = []
    script = client._placer._enqueuer._script
    client._placer._enqueuer._script = lambda **call: sent.append(call) or script(**call)
    client.enqueue("One.", **OPTIONS)
    speak(db, Failed(0, "engine", "x", retryable=False))
    assert script(**sent[0]) == b"enqueued"
    assert waiting(db) == []
    assert ids(db) == ["1-1", "1-2"]


# RQ's own way


def test_rqs_requeue_of_a_failed_job_starts_a_new_stream(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, Failed(0, "poison", "x", retryable=False))
    db.hset("rq:job:a", "deaths", 2)
    Job.fetch("a", connection=db, serializer=JSONSerializer).requeue()
    assert waiting(db) == ["a"]
    speak(db, END)
    assert ids(db) == ["2-1", "2-2"]
    assert client.speech("a").wait() == END


def test_a_failed_job_whose_end_was_not_recorded_is_not_spoken_again(db: redis.Redis, client: Client) -> None:
    """Its worker died between the entry and the record: it is put back, and the next run only records the end."""
    client.enqueue("One.", **OPTIONS)
    claimed, publisher = begin(db)
    publisher.publish(Failed(0, "engine", "x", retryable=False))
    db.zadd(claimed.run.lease_key, {claimed.run.composite: 1})
    db.hset("rq:job:a", "status", "queued")
    db.rpush(f"rq:queue:{QUEUE}", "a")
    with pytest.raises(ClosedError):
        begin(db, "second")


# Before it is enqueued


def test_an_id_can_be_read_before_it_is_enqueued(db: redis.Redis, client: Client) -> None:
    heard: list[End] = []
    reader = threading.Thread(target=lambda: heard.append(client.speech("a", wait_for_job=60).wait()))
    reader.start()
    until(lambda: db.info("clients")["blocked_clients"], "the reader to wait")
    client.enqueue("One.", **OPTIONS)
    speak(db, END)
    reader.join(20)
    assert heard == [END]


def test_asyncio_reads_an_id_before_it_is_enqueued(db: redis.Redis, client: Client) -> None:
    async def hear() -> End:
        async with AsyncClient(client.url) as speaker:
            reader = asyncio.create_task(speaker.speech("a", wait_for_job=60).wait())
            await asyncio.to_thread(until, lambda: db.info("clients")["blocked_clients"], "the reader to wait")
            await speaker.enqueue("One.", **OPTIONS)
            await asyncio.to_thread(speak, db, END)
            return await reader

    assert asyncio.run(hear()) == END


@pytest.mark.parametrize("wait_s", [0, 0.01])
def test_an_id_that_nobody_enqueues_is_unknown_after_the_wait(client: Client, wait_s: float) -> None:
    with pytest.raises(UnknownJobError):
        next(client.speech("a", wait_for_job=wait_s).entries())
