"""Lists of jobs, places in a queue, retries, and deletion: every key that a job leaves is looked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.lives import END, OPTIONS, begin, speak
from tests.support.processes import until
from tests.support.queued_jobs import QUEUE, claim, enqueue, fetch, records_of, waiting, write_card
from voxspool import Client, InvalidJobError, ListedJob, NarrationJobs, Passage, SpeechCancelledError, UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.narration import chapter
from voxspool.protocol.stream import Audio, Cancelled, End, Failed
from voxspool_worker.jobs.cancellation import EndedEarlyError
from voxspool_worker.queue.rq_records import LOST

if TYPE_CHECKING:
    from typing import Any

    import redis


def options(job: str, **others: object) -> dict[str, Any]:
    return OPTIONS | {"id": job} | others


def one_of_each(db: redis.Redis, client: Client) -> None:
    """Make jobs named by their states: two that wait, and one of each other state."""
    client.enqueue("One.", **options("failed"))
    speak(db, Failed(0, "engine", "no voice", retryable=False))
    client.enqueue("One.", **options("stopped"))
    speak(db, Cancelled(0, "kim"))
    client.enqueue("One.", **options("cancelled")).cancel("alice")
    client.enqueue("One.", **options("ended", meta={"page": 3}))
    speak(db, Audio(0, bytes(48_000)), END)
    client.enqueue("One.", **options("running"))
    begin(db)
    db.hset(keys.control("running"), mapping={"segments": 4, "marked_segments": 1, "worker": "w"})
    client.enqueue("One.", **options("first"))
    client.enqueue("One.", **options("second", meta={"page": 4}))


# Lists


def test_jobs_are_listed_with_state_queue_age_reason_and_metadata(db: redis.Redis, client: Client) -> None:
    one_of_each(db, client)
    found = {job.id: job for job in client.jobs()}
    assert {job.id: (job.state, job.reason) for job in found.values()} == {
        "first": ("queued", "place 1, no live worker serves the queue"),
        "second": ("queued", "place 2, no live worker serves the queue"),
        "running": ("running", "segment 1 of 4, on w"),
        "failed": ("failed", "engine: no voice"),
        "stopped": ("cancelled", "by kim"),
        "cancelled": ("cancelled", "by alice"),
        "ended": ("ended", "0.0 s of speech"),
    }
    assert {job.queue for job in found.values()} == {QUEUE}
    assert all(job.age_s is not None and 0 <= job.age_s < 60 for job in found.values())
    assert {job.id: job.meta for job in found.values() if job.meta} == {"ended": {"page": 3}, "second": {"page": 4}}


@pytest.mark.parametrize(
    ("kinds", "ids"),
    [
        (["waiting"], ["first", "second"]),
        (["running"], ["running"]),
        (["failed"], ["cancelled", "failed", "stopped"]),
        (["ended"], ["ended"]),
        (["ended", "waiting"], ["ended", "first", "second"]),
    ],
)
def test_a_list_has_the_jobs_of_the_kinds_that_are_asked_for(
    db: redis.Redis, client: Client, kinds: list[str], ids: list[str]
) -> None:
    one_of_each(db, client)
    assert sorted(job.id for job in client.jobs(*kinds)) == ids


def test_an_unknown_kind_is_refused(client: Client) -> None:
    with pytest.raises(InvalidJobError, match=r"no 'wating' jobs \(did you mean waiting\?\)"):
        client.jobs("wating")


def test_a_job_that_was_enqueued_again_is_listed_once_as_waiting(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    speak(db, Failed(0, "engine", "x", retryable=False))
    client.enqueue("One.", **OPTIONS)
    assert [(job.id, job.state) for job in client.jobs()] == [("a", "queued")]


def test_waiting_jobs_say_that_their_queue_is_paused_or_that_they_depend_on_another(
    db: redis.Redis, client: Client
) -> None:
    write_card(db, "tone", {"sine": []})
    first = enqueue(db, "first")
    enqueue(db, "second", depends_on=first)
    assert [job.reason for job in client.jobs("waiting")] == ["place 1", "another job must end first"]
    client.pause(QUEUE)
    assert client.jobs("waiting")[0].reason == "place 1, the queue is paused"


def test_what_other_programs_wrote_is_left_out(db: redis.Redis, client: Client) -> None:
    db.rpush(f"rq:queue:{QUEUE}", "gone", b"\xff", "a b", "hash")
    db.set("rq:job:hash", "no hash")
    client.enqueue("One.", **OPTIONS)
    db.hset("rq:job:a", mapping={"enqueued_at": "yesterday", "meta": "{"})
    assert client.jobs() == [ListedJob("a", "queued", QUEUE, None, "place 5, no live worker serves the queue", None)]


# Place


def test_a_waiting_job_knows_how_many_are_ahead_and_about_how_long_it_waits(db: redis.Redis, client: Client) -> None:
    for job in ("a", "b", "c"):
        last = client.enqueue("One.", **options(job))
    client.enqueue("One.", engine="tone")
    place = last.queue_place()
    assert place
    assert (place.queue, place.ahead, place.wait_s) == (QUEUE, 2, None), "no live worker"
    write_card(db, "tone", {"sine": []})
    db.hset(keys.worker("tone-card"), mapping={"running": 1, "jobs_per_minute": 60.0})
    place = last.queue_place()
    assert place
    assert (place.ahead, place.wait_s) == (3, 4.0), "one of them is in a queue that is emptied first"
    db.hset(keys.worker("tone-card"), mapping={"jobs": 8})
    place = last.queue_place()
    assert place
    assert place.wait_s == 0, "there are free slots for all"


def test_a_job_that_does_not_wait_has_no_place(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **OPTIONS)
    speak(db, END)
    assert speech.queue_place() is None
    with pytest.raises(UnknownJobError):
        client.speech("nobody").queue_place()


# Retry


def test_a_failed_job_is_tried_again_with_its_text_and_options(db: redis.Redis, client: Client) -> None:
    spec = client.enqueue("One.", **options("a", speed=1.5, meta={"page": 3})).spec()
    speak(db, Failed(0, "engine", "x", retryable=False))
    speech = client.retry("a")
    assert speech.spec() == spec
    assert waiting(db) == ["a"]
    speak(db, END)
    assert speech.wait() == END


def test_a_failed_chapter_is_tried_again(db: redis.Redis, client: Client) -> None:
    one = chapter("a", [Passage("One.", 0.5)], "0" * 32, engine="tone")
    NarrationJobs(client).place(one)
    speak(db, Failed(0, "store", "x", retryable=False))
    client.retry("a")
    assert claim(records_of(db)).spec == one


def test_only_a_job_that_failed_or_was_cancelled_is_tried_again(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **OPTIONS)
    with pytest.raises(InvalidJobError, match="job a is queued; only a job that failed or was cancelled"):
        client.retry("a")
    speak(db, Failed(0, "engine", "x", retryable=False))
    db.delete("rq:job:a")
    with pytest.raises(UnknownJobError, match="no record"):
        client.retry("a")


# Delete


def traces(db: redis.Redis, job: str) -> list[str]:
    """Return every key that names a job, and every key that has it as a member."""
    found = []
    for raw in db.scan_iter():
        key, kind = raw.decode(), db.type(raw)
        members = {
            b"list": lambda: db.lrange(raw, 0, -1),  # noqa: B023 - called at once
            b"set": lambda: db.smembers(raw),  # noqa: B023
            b"zset": lambda: db.zrange(raw, 0, -1),  # noqa: B023
        }.get(kind, list)()
        if job in key or any(job.encode() in member for member in members):
            found.append(key)
    return found


JOB = "job-to-delete"


@pytest.mark.parametrize("last", [END, Failed(0, "engine", "x", retryable=False), Cancelled(0, "kim"), None])
def test_nothing_of_a_deleted_job_remains(
    db: redis.Redis, client: Client, last: End | Failed | Cancelled | None
) -> None:
    speech = client.enqueue("One.", **options(JOB, live_s=60))
    db.hset(keys.acknowledged(JOB), "pos", 1)
    if last:
        speak(db, Audio(0, bytes(20)), last)
    assert traces(db, JOB)
    speech.delete()
    assert traces(db, JOB) == []
    with pytest.raises(UnknownJobError):
        speech.status()
    with pytest.raises(UnknownJobError, match="or it has expired"):
        speech.delete()


def test_a_running_job_is_cancelled_before_it_is_deleted(db: redis.Redis, client: Client) -> None:
    speech = client.enqueue("One.", **options(JOB))
    claimed, publisher = begin(db)
    publisher.publish(Audio(0, bytes(20)))
    reader = speech.entries(timeout_s=20)
    next(reader)
    deletion = threading.Thread(target=speech.delete, args=("alice",))
    deletion.start()
    until(lambda: db.hget(keys.control(JOB), "cancel") == b"alice", "the cancel")
    with pytest.raises(EndedEarlyError):
        publisher.publish(Audio(10, bytes(20)))
    publisher.publish(Cancelled(10, "alice"))
    deletion.join(20)
    assert records_of(db).finish(claimed.run, claimed.job, claimed.job.get_status(refresh=False), "x") == LOST
    assert traces(db, JOB) == []
    with pytest.raises((SpeechCancelledError, UnknownJobError)):
        list(speech.chunks())


def test_a_run_that_does_not_answer_can_write_nothing_after_the_deletion(
    db: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxspool.queue.ending.STOP_S", 1)
    speech = client.enqueue("One.", **options(JOB))
    claimed, publisher = begin(db)
    speech.delete()
    with pytest.raises(EndedEarlyError):
        publisher.publish(Cancelled(0, "alice"))
    assert records_of(db).renew_lease(claimed.run) == LOST
    assert traces(db, JOB) == []


def test_a_chapter_is_deleted_with_what_its_workers_share(db: redis.Redis, client: Client) -> None:
    NarrationJobs(client).place(chapter(JOB, [Passage("One.", 0.5)], "0" * 32, engine="tone"))
    begin(db)
    db.hset(keys.pool(JOB), "plan", "x")
    db.zadd(keys.unspoken(JOB), {"0": 0})
    db.rpush(keys.results(JOB), "[]")
    db.zadd(keys.narrating("tone"), {JOB: 1})
    db.hset(keys.control(JOB), "lease_until", 0)
    client.speech(JOB).delete()
    assert traces(db, JOB) == []


def test_other_jobs_stay_when_one_is_deleted(db: redis.Redis, client: Client) -> None:
    client.enqueue("One.", **options("before"))
    client.enqueue("One.", **options(JOB))
    client.enqueue("One.", **options("after"))
    client.speech(JOB).delete()
    assert waiting(db) == ["before", "after"]
    assert fetch(db, "after").origin == QUEUE
