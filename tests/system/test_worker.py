"""The worker process: several jobs at once, stop, time limits, both shutdowns, a kill."""

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
from voxspool_worker.speech.publisher import AlreadyRunningError, Publisher, Scripts

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client, Speech

    StartWorker = Callable[..., WorkerProcess]

LIVE = "sine-live"


def heard(speech: Speech) -> bytes:
    return b"".join(chunk.pcm for chunk in speech)


def rq_job(speech: Speech, db: redis.Redis) -> Job:
    return Job.fetch(speech.id, connection=db, serializer=JSONSerializer)


def after_first_audio(speech: Speech) -> None:
    next(iter(speech))


def assert_nothing_is_left(db: redis.Redis) -> None:
    """No job in any list, no lease, no record of a run."""
    until(lambda: not db.keys("rq:wip:*"), "the leases to go")
    for pattern in ("rq:queue:voxspool-*", "rq:execution:*", "rq:executions:*", "rq:worker:*:executions"):
        assert db.keys(pattern) == [], pattern


def test_jobs_are_spoken_at_once_and_each_is_its_own(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker("tone", "--jobs", "4")
    texts = [f"{SENTENCE}Number {number} is the one that speaks." for number in range(6)]
    speeches = [client.enqueue(text, voice=LIVE, seed=number) for number, text in enumerate(texts)]
    for speech in speeches[:4]:
        after_first_audio(speech)
    states = [speech.status().state for speech in speeches]
    assert states == ["running"] * 4 + ["queued"] * 2
    with ThreadPoolExecutor(6) as listeners:
        spoken = list(listeners.map(heard, speeches))
    assert spoken == [tone(text, seed=number) for number, text in enumerate(texts)]
    until(lambda: all(rq_job(speech, db).is_finished for speech in speeches), "RQ to hear of it")
    assert_nothing_is_left(db)
    assert rq_job(speeches[0], db).return_value()["state"] == "ended"


def test_interactive_jobs_are_taken_before_batch_jobs(client: Client, start_worker: StartWorker) -> None:
    batch = [client.enqueue(SENTENCE, priority="batch", id=f"batch-{number}") for number in range(3)]
    urgent = client.enqueue(SENTENCE, id="urgent")
    worker = start_worker("tone", "--jobs", "1", "--burst", wait=False)
    assert worker.wait() == 0
    order = re.findall(r"job\.begin job=(\S+)", worker.said())
    assert order == ["urgent", "batch-0", "batch-1", "batch-2"]
    assert heard(urgent) == heard(batch[0]) == tone(SENTENCE)


def test_an_interactive_job_overtakes_a_running_book(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    book = client.enqueue(SENTENCE * 40, voice=LIVE, priority="batch")
    after_first_audio(book)
    assert heard(client.enqueue("A short word in between.")) == tone("A short word in between.")
    assert book.status().state == "running"


def test_rqs_stop_command_stops_one_of_several_jobs(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    stopped, goes_on = (client.enqueue(SENTENCE * 3, voice=LIVE) for _ in range(2))
    after_first_audio(stopped)
    send_stop_job_command(db, stopped.id, serializer=JSONSerializer)
    with pytest.raises(SpeechCancelledError):
        stopped.wait(timeout_s=10)
    assert stopped.status().spoken_s < 2, "it stopped in its first segment"
    until(lambda: rq_job(stopped, db).is_stopped, "RQ to hear of it")
    assert heard(goes_on) == tone(SENTENCE * 3)


def test_a_cancel_reaches_a_worker_that_missed_the_message(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 10, voice=LIVE)
    after_first_audio(speech)
    db.hset(keys.control(speech.id), "cancel", "nobody listening")
    *_, (_, last) = speech.entries()
    assert isinstance(last, Cancelled)
    assert last.by == "nobody listening"


def test_a_job_that_takes_too_long_is_ended_at_a_chunk(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    spec = JobSpec(SENTENCE * 20, id="slow", voice=LIVE)
    queue = Queue(spec.queue, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id=spec.id, timeout=1)
    with pytest.raises(SpeechFailedError, match="time limit") as failed:
        client.speech("slow").wait(timeout_s=20)
    assert (failed.value.code, failed.value.retryable) == ("timeout", True)
    assert 0.5 < client.speech("slow").status().spoken_s < 2
    until(lambda: rq_job(client.speech("slow"), db).is_failed, "RQ to hear of it")
    assert_nothing_is_left(db)


def test_the_first_sigterm_lets_running_jobs_end_and_takes_no_more(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    running = client.enqueue(SENTENCE, voice=LIVE)
    after_first_audio(running)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "worker.stopping" in worker.said(), "the signal to be seen")
    waiting = client.enqueue("This one waits for another worker.")
    assert heard(running) == tone(SENTENCE)
    assert worker.wait() == 0
    assert waiting.status().state == "queued"
    assert db.smembers(keys.WORKERS) == set()
    assert db.smembers("rq:workers") == set()
    start_worker()
    assert heard(waiting) == tone("This one waits for another worker.")


def test_an_idle_worker_leaves_at_the_first_sigterm(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0


def test_the_second_sigterm_hands_running_jobs_back_and_another_worker_goes_on(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    first = start_worker()
    speeches = [client.enqueue(SENTENCE * 2, voice=LIVE, id=f"back-{number}") for number in range(2)]
    for speech in speeches:
        after_first_audio(speech)
    first.process.send_signal(signal.SIGTERM)
    until(lambda: "worker.stopping" in first.said(), "the first signal to be seen")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert {speech.status().state for speech in speeches} == {"queued"}, "no terminal entry: they wait for another"
    assert sorted(db.lrange("rq:queue:voxspool-auto-interactive", 0, -1)) == [b"back-0", b"back-1"]
    assert rq_job(speeches[0], db).get_status().value == "queued"
    start_worker()
    assert [heard(speech) for speech in speeches] == [tone(SENTENCE * 2)] * 2
    attempts = [received.id.attempt for received in speeches[0].entries() if isinstance(received.entry, Begin)]
    assert attempts == [1, 2]


def test_a_killed_workers_job_goes_on_where_it_was_and_readers_notice_only_the_wait(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    text = SENTENCE * 12  # tone has 8 rows: eight segments sound at once, then four
    victim = start_worker()
    speech = client.enqueue(text, voice=LIVE)
    after_first_audio(speech)
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
    assert [mark.segment for mark in marks] == list(range(12)), "no segment twice"
    assert heard(speech) == tone(text)
    until(lambda: rq_job(speech, db).is_finished, "RQ to hear of it")
    assert_nothing_is_left(db)


def test_a_job_claimed_by_a_worker_that_died_before_it_began_is_brought_back(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    queue = "voxspool-auto-interactive"
    claimed = lua.load(db, "dequeue")(
        keys=["rq:suspended", keys.PAUSED, f"rq:queue:{queue}"],
        args=["run-of-the-dead", "dead", 1, "2026-01-01T00:00:00Z", queue],
    )
    assert claimed[2] == speech.id.encode()
    assert speech.status().state == "queued", "claimed, and not begun"
    start_worker()
    assert heard(speech) == tone(SENTENCE)
    until(lambda: rq_job(speech, db).is_finished, "RQ to hear of it")
    assert_nothing_is_left(db)


def test_a_second_delivery_of_a_running_job_is_dropped(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    after_first_audio(speech)
    db.lpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.held" in worker.said(), "the second delivery")
    assert heard(speech) == tone(SENTENCE)
    until(lambda: rq_job(speech, db).is_finished, "RQ to hear of it")
    assert_nothing_is_left(db)


def test_a_delivery_after_the_end_ends_at_once(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE)
    speech.wait()
    until(lambda: rq_job(speech, db).is_finished, "RQ to hear of it")
    before = db.xlen(keys.audio(speech.id))
    db.lpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.closed" in worker.said(), "the second delivery")
    until(lambda: rq_job(speech, db).is_finished, "RQ to hear of it")
    assert db.xlen(keys.audio(speech.id)) == before


def test_a_burst_worker_speaks_what_is_there_and_leaves(client: Client, start_worker: StartWorker) -> None:
    speeches = [client.enqueue(SENTENCE, seed=seed) for seed in range(3)]
    assert start_worker("tone", "--burst", wait=False).wait() == 0
    assert [heard(speech) for speech in speeches] == [tone(SENTENCE, seed=seed) for seed in range(3)]


def test_a_jobs_text_stands_in_no_log(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    client.enqueue("Rosebud was the secret word of it all.").wait()
    until(lambda: "job.end" in worker.said(), "the log line")
    assert "Rosebud" not in worker.said()


def test_the_card_says_what_the_worker_offers(start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker("tone", "--jobs", "3")
    card = db.hgetall(keys.worker(worker.name))
    assert json.loads(card[b"voices"]) == {"sine": [], "sine-live": []}
    assert card[b"clones"] == b"0"
    assert card[b"jobs"] == b"3"
    assert 0 < db.ttl(keys.worker(worker.name)) <= keys.WORKER_TTL_S


def test_rqs_own_tools_see_a_job_that_runs(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    after_first_audio(speech)
    (seen,) = BaseWorker.all(connection=db, serializer=JSONSerializer)
    (execution,) = seen.get_current_executions()
    assert (seen.name, execution.job_id) == (worker.name, speech.id)
    job = rq_job(speech, db)
    assert (job.get_status().value, job.worker_name) == ("started", worker.name)
    queue = Queue("voxspool-auto-interactive", connection=db, serializer=JSONSerializer)
    assert queue.started_job_registry.get_job_ids(cleanup=False) == [speech.id]
    speech.wait()
    until(lambda: queue.finished_job_registry.get_job_ids() == [speech.id], "RQ to hear of it")
    assert 3500 < db.ttl(f"rq:job:{speech.id}") <= 3600


def test_a_job_that_waits_for_another_is_spoken_after_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    first = client.enqueue(SENTENCE, id="first")
    spec = JobSpec("And then the second one.", id="second")
    queue = Queue(spec.queue, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(spec.encode(),), job_id=spec.id, depends_on=rq_job(first, db), description="x")
    worker = start_worker()
    assert heard(client.speech("second")) == tone("And then the second one.")
    assert re.findall(r"job\.begin job=(\S+)", worker.said()) == ["first", "second"]
    until(lambda: rq_job(client.speech("second"), db).is_finished, "RQ to hear of it")
    assert_nothing_is_left(db)


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    suspend(db)
    speech = client.enqueue(SENTENCE)
    with pytest.raises(DeadlineError, match="it is queued"):
        speech.wait(timeout_s=1.5)
    resume(db)
    assert heard(speech) == tone(SENTENCE)


def test_a_worker_outlives_a_redis_that_forgets_everything(
    redis_server: RedisServer, client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker()
    assert heard(client.enqueue(SENTENCE)) == tone(SENTENCE)
    redis_server.stop()
    redis_server.start()
    assert heard(client.enqueue(SENTENCE)) == tone(SENTENCE)
    until(lambda: [card.name for card in client.workers()] == [worker.name], "its card to be there again")
    assert worker.process.poll() is None


def test_a_worker_that_froze_before_it_began_neither_takes_the_job_back_nor_loses_it(
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
    assert heard(speech) == tone(SENTENCE)


def test_a_second_delivery_beside_a_run_without_a_lease_is_not_forgotten(client: Client, db: redis.Redis) -> None:
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
    assert records.forget(second.run) == "kept", "its lease is what will bring the job back"
    assert db.zscore(second.run.lease_key, second.run.composite) is not None


def test_a_job_that_rqs_own_cleaner_takes_from_a_dead_worker_is_spoken_all_the_same(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    claim = RqRecords(lambda **_: db, "dead").claim(["voxspool-auto-interactive"], "run-of-the-dead")
    assert claim is not None
    db.zadd(claim.run.lease_key, {claim.run.composite: 1})  # its lease ran out long ago
    queue = Queue("voxspool-auto-interactive", connection=db, serializer=JSONSerializer)
    queue.started_job_registry.cleanup()
    start_worker()
    assert heard(speech) == tone(SENTENCE)


def test_a_job_that_a_dashboard_ends_after_its_worker_left_ends_its_readers(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 20, voice=LIVE)
    after_first_audio(speech)
    for signals in (1, 2):
        worker.process.send_signal(signal.SIGTERM)
        if signals == 1:
            until(lambda: "worker.stopping" in worker.said(), "the first signal to be seen")
    worker.wait(20)
    rq_job(speech, db).cancel()
    with pytest.raises(SpeechCancelledError, match="before it was spoken to its end"):
        speech.wait(timeout_s=10)


@pytest.mark.parametrize("end", [Job.cancel, Job.delete])
def test_a_running_job_that_rq_itself_ends_is_cancelled_and_leaves_nothing_for_ever(
    end: Callable[[Job], None], client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 20, voice=LIVE)
    after_first_audio(speech)
    end(rq_job(speech, db))
    *_, last = (received.entry for received in speech.entries(timeout_s=10))
    assert isinstance(last, Cancelled)
    assert last.by == "RQ"
    assert db.ttl(keys.audio(speech.id)) > 0
    assert db.ttl(keys.control(speech.id)) > 0
    until(lambda: not db.keys("rq:execution:*"), "the run to be forgotten")
    assert_nothing_is_left(db)
    assert db.hget(f"rq:job:{speech.id}", "status") == (b"canceled" if end is Job.cancel else None)


@pytest.mark.parametrize("limit", ["9" * 400, "-1", "0"])
def test_no_time_limit_in_a_hash_ends_a_worker(
    limit: str, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    suspend(db)
    speech = client.enqueue(SENTENCE)
    db.hset(f"rq:job:{speech.id}", "timeout", limit)
    resume(db)
    assert heard(speech) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_bytes_that_are_no_text_in_a_cancel_end_that_job_alone(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    first, second = (client.enqueue(SENTENCE * 9, voice=LIVE) for _ in range(2))
    for speech in (first, second):
        after_first_audio(speech)
    first.cancel("caf\udce9")
    db.hset(keys.control(second.id), "cancel", b"caf\xe9")
    for speech in (first, second):
        with pytest.raises(SpeechCancelledError, match="caf"):
            speech.wait(timeout_s=10)
    assert heard(client.enqueue(SENTENCE)) == tone(SENTENCE)
    assert "Traceback" not in worker.said()


def test_a_garbled_second_delivery_leaves_the_run_that_holds_the_job_alone(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    after_first_audio(speech)
    db.hset(f"rq:job:{speech.id}", "created_at", "rubbish")
    db.rpush("rq:queue:voxspool-auto-interactive", speech.id)
    until(lambda: "job.buried" in worker.said(), "the second delivery")
    assert heard(speech) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_a_suspended_worker_outlives_a_restart_of_redis(
    redis_server: RedisServer, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    suspend(db)
    client.enqueue(SENTENCE)
    until(lambda: db.hget(f"rq:worker:{worker.name}", "state") == b"suspended", "the worker to see it")
    redis_server.stop()
    until(lambda: "redis.away" in worker.said(), "the worker to see it")
    redis_server.start()
    assert heard(client.enqueue(SENTENCE)) == tone(SENTENCE)
    assert worker.process.poll() is None


def test_a_signal_while_it_starts_ends_a_worker_in_order(start_worker: StartWorker, db: redis.Redis) -> None:
    for _ in range(3):
        worker = start_worker(wait=False)
        until(lambda worker=worker: "subscribing" in worker.said() or "worker.ready" in worker.said(), "its start")
        worker.process.send_signal(signal.SIGINT)
        assert worker.wait(15) == 0
    assert db.smembers(keys.WORKERS) == set()
