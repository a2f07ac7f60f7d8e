"""The worker process: concurrent jobs, cancellation, time limits, shutdown, crashes, and RQ's own tools."""

from __future__ import annotations

import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from rq import Queue
from rq.command import send_stop_job_command
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import BaseWorker

from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool import DeadlineError, SpeechCancelledError, SpeechFailedError
from voxspool.protocol import keys
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool.protocol.stream import Audio, Begin, Cancelled, Mark
from voxspool_worker import lua
from voxspool_worker.jobs.cancellation import EndedEarlyError
from voxspool_worker.queue.rq_records import RqRecords, Why
from voxspool_worker.queue.worker import ENGINE_STOP_S, HAND_BACK_S
from voxspool_worker.settings import DEFAULT_GRACE_S
from voxspool_worker.speech.publisher import AlreadyRunningError, Publisher, Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client, Speech

    StartWorker = Callable[..., WorkerProcess]

LIVE = "sine-live"


def samples_of(speech: Speech) -> bytes:
    """Return all samples of a speech."""
    return b"".join(chunk.pcm for chunk in speech)


def rq_job(speech: Speech, db: redis.Redis) -> Job:
    """Return RQ's job of a speech."""
    return Job.fetch(speech.id, connection=db, serializer=JSONSerializer)


def wait_for_audio(speech: Speech) -> None:
    """Wait for the first chunk of a speech."""
    next(iter(speech))


def assert_nothing_is_left(db: redis.Redis) -> None:
    """Assert that no job is queued and that no lease and no record of a run remains."""
    until(lambda: not db.keys("rq:wip:*"), "all leases to be released")
    for pattern in ("rq:queue:voxspool-*", "rq:execution:*", "rq:executions:*", "rq:worker:*:executions"):
        assert db.keys(pattern) == [], pattern


def test_concurrent_jobs_do_not_affect_each_other(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker("tone", "--jobs", "4")
    texts = [f"{SENTENCE}Number {number} is the one that speaks." for number in range(6)]
    speeches = [client.enqueue(text, voice=LIVE, seed=number) for number, text in enumerate(texts)]
    for speech in speeches[:4]:
        wait_for_audio(speech)
    states = [speech.status().state for speech in speeches]
    assert states == ["running"] * 4 + ["queued"] * 2
    with ThreadPoolExecutor(6) as listeners:
        spoken = list(listeners.map(samples_of, speeches))
    assert spoken == [tone(text, seed=number) for number, text in enumerate(texts)]
    until(lambda: all(rq_job(speech, db).is_finished for speech in speeches), "RQ to record the end")
    assert_nothing_is_left(db)
    assert rq_job(speeches[0], db).return_value()["state"] == "ended"


def test_interactive_jobs_start_before_batch_jobs(client: Client, start_worker: StartWorker) -> None:
    batch = [client.enqueue(SENTENCE, priority="batch", id=f"batch-{number}") for number in range(3)]
    urgent = client.enqueue(SENTENCE, id="urgent")
    worker = start_worker("tone", "--jobs", "1", "--burst", wait=False)
    assert worker.wait() == 0
    order = re.findall(r"job\.begin job=(\S+)", worker.said())
    assert order == ["urgent", "batch-0", "batch-1", "batch-2"]
    assert samples_of(urgent) == samples_of(batch[0]) == tone(SENTENCE)


def test_an_interactive_job_overtakes_a_running_book(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    book = client.enqueue(SENTENCE * 40, voice=LIVE, priority="batch")
    wait_for_audio(book)
    assert samples_of(client.enqueue("A short word in between.")) == tone("A short word in between.")
    assert book.status().state == "running"


@pytest.mark.parametrize("jobs", [1, 2])
def test_batch_jobs_that_use_all_their_places_keep_no_listener_waiting(
    jobs: int, client: Client, start_worker: StartWorker
) -> None:
    start_worker("tone", "--jobs", str(jobs))
    batch = [client.enqueue(SENTENCE * 40, voice=LIVE, priority="batch") for _ in range(jobs + 1)]
    for speech in batch[:jobs]:
        wait_for_audio(speech)
    assert samples_of(client.enqueue("A short word in between.")) == tone("A short word in between.")
    assert [speech.status().state for speech in batch] == ["running"] * jobs + ["queued"]


def test_the_time_limit_of_a_job_does_not_run_while_it_waits_for_a_row(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    listened_to = [client.enqueue(SENTENCE, voice=LIVE, id=f"listened-to-{number}") for number in range(8)]
    for speech in listened_to:
        wait_for_audio(speech)
    spec = JobSpec("Good evening.", id="patient", priority="batch")
    queue = Queue(spec.queue, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id=spec.id, timeout=1)
    assert samples_of(client.speech("patient")) == tone("Good evening.")
    assert all(speech.status().state == "ended" for speech in listened_to), "they used all rows for some seconds"


def test_the_stop_command_of_rq_stops_one_of_several_jobs(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    stopped, goes_on = (client.enqueue(SENTENCE * 3, voice=LIVE) for _ in range(2))
    wait_for_audio(stopped)
    send_stop_job_command(db, stopped.id, serializer=JSONSerializer)
    with pytest.raises(SpeechCancelledError):
        stopped.wait(timeout_s=10)
    assert stopped.status().spoken_s < 2, "the job stopped in its first segment"
    until(lambda: rq_job(stopped, db).is_stopped, "RQ to record the end")
    assert samples_of(goes_on) == tone(SENTENCE * 3)


def test_a_worker_that_missed_the_stop_command_still_cancels_the_job(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 10, voice=LIVE)
    wait_for_audio(speech)
    db.hset(keys.control(speech.id), "cancel", "nobody listening")
    *_, (_, last) = speech.entries()
    assert isinstance(last, Cancelled)
    assert last.by == "nobody listening"


def test_a_job_fails_at_its_time_limit(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    spec = JobSpec(SENTENCE * 20, id="slow", voice=LIVE)
    queue = Queue(spec.queue, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id=spec.id, timeout=1)
    with pytest.raises(SpeechFailedError, match="time limit") as failed:
        client.speech("slow").wait(timeout_s=20)
    assert (failed.value.code, failed.value.retryable) == ("timeout", True)
    assert 0.5 < client.speech("slow").status().spoken_s < 2
    until(lambda: rq_job(client.speech("slow"), db).is_failed, "RQ to record the end")
    assert_nothing_is_left(db)


def test_after_the_first_sigterm_a_worker_finishes_running_jobs_and_starts_no_more(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    running = client.enqueue(SENTENCE, voice=LIVE)
    wait_for_audio(running)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "worker.stopping" in worker.said(), "the worker to handle the signal")
    waiting = client.enqueue("This one waits for another worker.")
    assert samples_of(running) == tone(SENTENCE)
    assert worker.wait() == 0
    assert waiting.status().state == "queued"
    assert db.smembers(keys.WORKERS) == set()
    assert db.smembers("rq:workers") == set()
    start_worker()
    assert samples_of(waiting) == tone("This one waits for another worker.")


def test_an_idle_worker_exits_at_the_first_sigterm(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0


def test_after_the_second_sigterm_another_worker_resumes_the_running_jobs(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    first = start_worker()
    speeches = [client.enqueue(SENTENCE * 2, voice=LIVE, id=f"back-{number}") for number in range(2)]
    for speech in speeches:
        wait_for_audio(speech)
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "worker.stopping" in first.said(), "the worker to handle the first signal")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert {speech.status().state for speech in speeches} == {"queued"}, (
        "no terminal entry: the jobs wait for another worker"
    )
    assert sorted(db.lrange("rq:queue:voxspool-auto-interactive", 0, -1)) == [b"back-0", b"back-1"]
    assert rq_job(speeches[0], db).get_status().value == "queued"
    start_worker()
    assert [samples_of(speech) for speech in speeches] == [tone(SENTENCE * 2)] * 2
    attempts = [received.id.attempt for received in speeches[0].entries() if isinstance(received.entry, Begin)]
    assert attempts == [1, 2]


def test_after_the_grace_period_another_worker_resumes_the_running_jobs_at_once(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    first = start_worker("tone", "--grace", "0.5")
    text = SENTENCE * 6
    speech = client.enqueue(text, voice=LIVE)
    wait_for_audio(speech)
    second = start_worker()
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(5) == 0, "a SIGKILL 10 s after the SIGTERM finds nothing"
    assert speech.status().state in ("queued", "running")
    assert samples_of(speech) == tone(text)
    attempts = [received.id.attempt for received in speech.entries() if isinstance(received.entry, Begin)]
    assert attempts == [1, 2]
    assert not db.hexists(f"rq:job:{speech.id}", "deaths")
    assert "job.rescued" not in second.said()


def test_the_default_grace_ends_before_orchestrators_kill() -> None:
    assert DEFAULT_GRACE_S + HAND_BACK_S + ENGINE_STOP_S < 10


def test_the_job_of_a_killed_worker_resumes_at_its_last_mark_without_a_gap(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    text = SENTENCE * 12  # tone has 8 rows: it speaks eight segments at once, then four
    victim = start_worker()
    speech = client.enqueue(text, voice=LIVE)
    wait_for_audio(speech)
    start_worker()
    live = []
    for received in speech.entries():
        live.append(received.entry)
        marked = sum(isinstance(entry, Mark) for entry in live)
        if marked == 8 and isinstance(received.entry, Audio) and victim.process.poll() is None:
            victim.process.kill()  # in the middle of the ninth segment
            victim.wait()
    begins = [entry for entry in live if isinstance(entry, Begin)]
    marks = [entry for entry in live if isinstance(entry, Mark)]
    assert [begin.pos for begin in begins] == [0, marks[7].end_pos], "the second attempt begins at the mark"
    assert [mark.segment for mark in marks] == list(range(12)), "no segment is spoken twice"
    assert samples_of(speech) == tone(text)
    until(lambda: rq_job(speech, db).is_finished, "RQ to record the end")
    assert_nothing_is_left(db)


def test_a_job_whose_worker_died_before_its_start_is_spoken_by_another(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    queue = "voxspool-auto-interactive"
    claimed = lua.load(db, "dequeue")(
        keys=["rq:suspended", keys.PAUSED, f"rq:queue:{queue}"],
        args=["run-of-the-dead", "dead", 1, "2026-01-01T00:00:00Z", queue],
    )
    assert claimed[2] == speech.id.encode()
    assert speech.status().state == "queued", "claimed but not started"
    start_worker()
    assert samples_of(speech) == tone(SENTENCE)
    until(lambda: rq_job(speech, db).is_finished, "RQ to record the end")
    assert_nothing_is_left(db)


def test_a_second_delivery_of_a_running_job_is_ignored(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    wait_for_audio(speech)
    db.lpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.held" in worker.said(), "the second delivery")
    assert samples_of(speech) == tone(SENTENCE)
    until(lambda: rq_job(speech, db).is_finished, "RQ to record the end")
    assert_nothing_is_left(db)


def test_a_second_delivery_of_an_ended_job_is_ignored(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE)
    speech.wait()
    until(lambda: rq_job(speech, db).is_finished, "RQ to record the end")
    before = db.xlen(keys.audio(speech.id))
    db.lpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.closed" in worker.said(), "the second delivery")
    until(lambda: rq_job(speech, db).is_finished, "RQ to record the end")
    assert db.xlen(keys.audio(speech.id)) == before


def test_a_burst_worker_speaks_all_queued_jobs_and_exits(client: Client, start_worker: StartWorker) -> None:
    speeches = [client.enqueue(SENTENCE, seed=seed) for seed in range(3)]
    assert start_worker("tone", "--burst", wait=False).wait() == 0
    assert [samples_of(speech) for speech in speeches] == [tone(SENTENCE, seed=seed) for seed in range(3)]


def test_the_log_does_not_contain_the_text_of_a_job(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    client.enqueue("Rosebud was the secret word of it all.").wait()
    until(lambda: "job.end" in worker.said(), "the log line")
    assert "Rosebud" not in worker.said()


def test_the_record_of_a_worker_lists_its_voices_and_limits(start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker("tone", "--jobs", "3")
    record = db.hgetall(keys.worker(worker.name))
    assert json.loads(record[b"voices"]) == {"sine": [], "sine-live": []}
    assert record[b"clones"] == b"0"
    assert record[b"jobs"] == b"3"
    assert 0 < db.ttl(keys.worker(worker.name)) <= keys.WORKER_TTL_S


def test_the_tools_of_rq_see_a_running_job(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    wait_for_audio(speech)
    (seen,) = BaseWorker.all(connection=db, serializer=JSONSerializer)
    (execution,) = seen.get_current_executions()
    assert (seen.name, execution.job_id) == (worker.name, speech.id)
    job = rq_job(speech, db)
    assert (job.get_status().value, job.worker_name) == ("started", worker.name)
    queue = Queue("voxspool-auto-interactive", connection=db, serializer=JSONSerializer)
    assert queue.started_job_registry.get_job_ids(cleanup=False) == [speech.id]
    speech.wait()
    until(lambda: queue.finished_job_registry.get_job_ids() == [speech.id], "RQ to record the end")
    assert 3500 < db.ttl(f"rq:job:{speech.id}") <= 3600


def test_a_job_that_depends_on_another_is_spoken_after_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    first = client.enqueue(SENTENCE, id="first")
    spec = JobSpec("And then the second one.", id="second")
    queue = Queue(spec.queue, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id=spec.id, depends_on=rq_job(first, db), description="x")
    worker = start_worker()
    assert samples_of(client.speech("second")) == tone("And then the second one.")
    assert re.findall(r"job\.begin job=(\S+)", worker.said()) == ["first", "second"]
    until(lambda: rq_job(client.speech("second"), db).is_finished, "RQ to record the end")
    assert_nothing_is_left(db)


def test_a_suspended_worker_starts_no_job_until_it_is_resumed(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    suspend(db)
    speech = client.enqueue(SENTENCE)
    with pytest.raises(DeadlineError, match="it is queued"):
        speech.wait(timeout_s=1.5)
    resume(db)
    assert samples_of(speech) == tone(SENTENCE)


def test_a_worker_survives_a_redis_restart_that_loses_all_data(
    redis_server: RedisServer, client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker()
    assert samples_of(client.enqueue(SENTENCE)) == tone(SENTENCE)
    redis_server.stop()
    redis_server.start()
    assert samples_of(client.enqueue(SENTENCE)) == tone(SENTENCE)
    until(lambda: [info.name for info in client.workers()] == [worker.name], "the worker's record to be written again")
    assert worker.process.poll() is None


def test_a_worker_that_froze_before_the_start_cannot_start_a_job_returned_to_its_queue(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    queue = "voxspool-auto-interactive"
    records = RqRecords(lambda **_: db, "frozen")
    claim = records.claim([queue], "frozen-run")
    assert claim is not None
    assert records.requeue(claim.run, Why.RETURNED) == "requeued"
    late = Publisher(Scripts(db), claim.run, keep_s=60)
    with pytest.raises(EndedEarlyError, match="lease lost"):
        late.begin(Begin(0, 24_000, "tone", "m", "sine", "en", 0), {})
    start_worker()
    assert samples_of(speech) == tone(SENTENCE)


def test_a_second_delivery_keeps_its_lease_if_the_first_run_has_lost_its_lease(client: Client, db: redis.Redis) -> None:
    speech = client.enqueue(SENTENCE)
    queue = "voxspool-auto-interactive"
    records = RqRecords(lambda **_: db, "w")
    first = records.claim([queue], "first")
    assert first is not None
    Publisher(Scripts(db), first.run, keep_s=60).begin(Begin(0, 24_000, "tone", "m", "sine", "en", 0), {})
    db.zrem(first.run.lease_key, first.run.composite)  # as RQ's own cleaners do
    db.lpush(f"rq:queue:{queue}", speech.id)
    second = records.claim([queue], "second")
    assert second is not None
    with pytest.raises(AlreadyRunningError):
        Publisher(Scripts(db), second.run, keep_s=60).begin(Begin(0, 24_000, "tone", "m", "sine", "en", 0), {})
    assert records.forget(second.run) == "kept", "the lease returns the job to its queue when it expires"
    assert db.zscore(second.run.lease_key, second.run.composite) is not None


def test_a_job_of_a_dead_worker_is_spoken_after_rqs_own_cleanup(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    claim = RqRecords(lambda **_: db, "dead").claim(["voxspool-auto-interactive"], "run-of-the-dead")
    assert claim is not None
    db.zadd(claim.run.lease_key, {claim.run.composite: 1})  # the lease expired long ago
    queue = Queue("voxspool-auto-interactive", connection=db, serializer=JSONSerializer)
    queue.started_job_registry.cleanup()
    start_worker()
    assert samples_of(speech) == tone(SENTENCE)


def test_cancelling_a_returned_job_with_rq_raises_an_error_in_its_readers(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 20, voice=LIVE)
    wait_for_audio(speech)
    for signals in (1, 2):
        worker.process.send_signal(signal.SIGTERM)
        if signals == 1:
            until(lambda: "worker.stopping" in worker.said(), "the worker to handle the first signal")
    worker.wait(20)
    rq_job(speech, db).cancel()
    with pytest.raises(SpeechCancelledError, match="before it was spoken to its end"):
        speech.wait(timeout_s=10)


@pytest.mark.parametrize("end", [Job.cancel, Job.delete])
def test_cancelling_or_deleting_a_running_job_with_rq_cancels_it_and_leaves_no_permanent_key(
    end: Callable[[Job], None], client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 20, voice=LIVE)
    wait_for_audio(speech)
    end(rq_job(speech, db))
    *_, last = (received.entry for received in speech.entries(timeout_s=10))
    assert isinstance(last, Cancelled)
    assert last.by == "RQ"
    assert db.ttl(keys.audio(speech.id)) > 0
    assert db.ttl(keys.control(speech.id)) > 0
    until(lambda: not db.keys("rq:execution:*"), "RQ's record of the run to be deleted")
    assert_nothing_is_left(db)
    assert db.hget(f"rq:job:{speech.id}", "status") == (b"canceled" if end is Job.cancel else None)


@pytest.mark.parametrize("limit", ["9" * 400, "-1", "0"])
def test_an_invalid_time_limit_does_not_stop_a_worker(
    limit: str, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    suspend(db)
    speech = client.enqueue(SENTENCE)
    db.hset(f"rq:job:{speech.id}", "timeout", limit)
    resume(db)
    assert samples_of(speech) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_a_cancel_reason_that_is_not_utf_8_cancels_only_its_job(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    first, second = (client.enqueue(SENTENCE * 9, voice=LIVE) for _ in range(2))
    for speech in (first, second):
        wait_for_audio(speech)
    first.cancel("caf\udce9")
    db.hset(keys.control(second.id), "cancel", b"caf\xe9")
    for speech in (first, second):
        with pytest.raises(SpeechCancelledError, match="caf"):
            speech.wait(timeout_s=10)
    assert samples_of(client.enqueue(SENTENCE)) == tone(SENTENCE)
    assert "Traceback" not in worker.said()


def test_a_second_delivery_with_a_corrupt_record_does_not_affect_the_running_job(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    wait_for_audio(speech)
    db.hset(f"rq:job:{speech.id}", "created_at", "rubbish")
    db.rpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.buried" in worker.said(), "the second delivery")
    assert samples_of(speech) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_a_suspended_worker_survives_a_restart_of_redis(
    redis_server: RedisServer, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    suspend(db)
    client.enqueue(SENTENCE)
    until(lambda: db.hget(f"rq:worker:{worker.name}", "state") == b"suspended", "the worker to be suspended")
    redis_server.stop()
    until(lambda: "redis.away" in worker.said(), "the worker to notice the outage")
    redis_server.start()
    assert samples_of(client.enqueue(SENTENCE)) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_a_worker_exits_cleanly_after_a_signal_during_its_start(start_worker: StartWorker, db: redis.Redis) -> None:
    for _ in range(3):
        worker = start_worker(wait=False)
        until(lambda worker=worker: "subscribing" in worker.said() or "worker.ready" in worker.said(), "its start")
        worker.process.send_signal(signal.SIGINT)
        assert worker.wait(15) == 0
    assert db.smembers(keys.WORKERS) == set()
