"""Redis stalls, dies, loses data, is full or has a bad network; readers are slow and clocks jump.

Each job that Redis still knows is spoken once, to its end. If Redis has lost a job, its readers get an error.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import (
    FAULTY,
    LIVE,
    Listeners,
    attempt_of,
    await_redis_clock,
    await_spoken,
    deaths_of,
    enqueue,
    freeze,
    heard,
    spoken_s,
    thaw,
)
from tests.support.oracle import Expected, check_jobs, is_over, whole
from tests.support.processes import clean_env, until
from tests.support.proxy import script
from tests.support.reference import SENTENCE, passage, tone
from voxspool import BusyError, Client, Settings, StreamGapError, UnknownJobError
from voxspool.protocol import keys
from voxspool_worker.queue.recovery import Recovery
from voxspool_worker.queue.rq_queues import RqQueues
from voxspool_worker.queue.rq_records import ANY_TIME, RqRecords

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from tests.support.proxy import Proxy

    StartWorker = Callable[..., WorkerProcess]
    MakeProxy = Callable[[], Proxy]

APPEND_ONLY = pytest.mark.parametrize("redis_server", [("--appendonly", "yes")], indirect=True, ids=["append-only"])


def rescued(workers: list[WorkerProcess]) -> int:
    return sum(worker.said().count("job.rescued") for worker in workers)


def test_a_stall_of_redis_loses_no_audio_and_counts_as_no_crash(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer
) -> None:
    workers = [start_worker("tone", "--jobs", "2") for _ in range(2)]
    texts = enqueue(client, 3, sentences=6)
    listeners = Listeners(client, texts)
    for stall_s in (2, 6, 20):
        spoken = spoken_s(db, "job-0")
        await_spoken(db, ["job-0"], spoken + 0.5)
        freeze(redis_server)
        with pytest.raises(subprocess.TimeoutExpired):
            workers[0].process.wait(stall_s)
        thaw(redis_server)
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert deaths_of(db, job) == 0
    assert all(worker.process.poll() is None for worker in workers)


def test_a_late_answer_of_redis_causes_no_rescue(client: Client, db: redis.Redis) -> None:
    speech = client.enqueue(SENTENCE)
    records = RqRecords(lambda **_: db, "somebody")
    claim = records.claim(["voxspool-auto-interactive"], "a-run")
    assert claim is not None
    db.zadd(claim.run.lease_key, {claim.run.composite: 1})  # the lease expired while Redis did not answer
    slow = itertools.count(0.0, 5.0)
    late_at_the_first_queue = itertools.chain([0.0], itertools.repeat(5.0))
    for clock in (slow, late_at_the_first_queue):
        Recovery(records, RqQueues(db), db, lambda: None, clock.__next__).rescue(ANY_TIME)
        assert db.zscore(claim.run.lease_key, claim.run.composite) == 1
    Recovery(records, RqQueues(db), db, lambda: None).rescue(ANY_TIME)
    assert db.lrange("rq:queue:voxspool-auto-interactive", 0, -1) == [speech.id.encode()]


@APPEND_ONLY
def test_jobs_continue_after_a_redis_with_an_append_only_file_is_killed_and_restarted(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer
) -> None:
    worker = start_worker()
    texts = enqueue(client, 3, sentences=4)
    listeners = Listeners(client, texts)
    await_spoken(db, texts, 0.5)
    for _ in range(2):
        redis_server.stop()
        redis_server.start()
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert (attempt_of(db, job), deaths_of(db, job)) == (1, 0)
    assert worker.process.poll() is None


def test_readers_get_an_error_if_a_redis_without_persistence_lost_their_job(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer
) -> None:
    worker = start_worker()
    lost = enqueue(client, 2, sentences=4)
    listeners = Listeners(client, lost)
    await_spoken(db, lost, 0.5)
    redis_server.stop()
    redis_server.start()
    for job in lost:
        with pytest.raises((StreamGapError, UnknownJobError), match=r"enqueue the text again"):
            listeners.heard(job)
    check_jobs(db, whole(enqueue(client, 2, sentences=1, first=2)))
    assert worker.process.poll() is None


def test_connections_cut_before_or_after_each_step_of_a_job_change_nothing(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    cuts = [
        proxy.at(script(name), answered=answered, nth=nth)
        for nth, answered in enumerate((False, True), 1)
        for name in ("begin", "publish", "beat", "finish")
    ]
    claimed = proxy.at(script("dequeue"), answered=True)
    texts = enqueue(client, 1, sentences=1)
    worker = start_worker(redis_url=proxy.url)
    assert claimed.done.wait(10), "a run claims the job, and its worker does not get the answer"
    texts |= enqueue(client, 3, sentences=3, first=1)
    listeners = Listeners(client, texts)
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert deaths_of(db, job) == 0, "the claim whose answer was lost counts as no crash"
    assert all(cut.done.is_set() for cut in cuts)
    assert worker.process.poll() is None


def test_connections_that_are_dropped_refused_or_half_open_change_nothing(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    worker = start_worker(redis_url=proxy.url)
    texts = enqueue(client, 2, sentences=8)
    listeners = Listeners(client, texts)
    await_spoken(db, texts, 0.3)
    proxy.drop()
    await_spoken(db, ["job-0"], spoken_s(db, "job-0") + 0.3)
    proxy.refusing = True
    proxy.drop()
    until(lambda: "redis.away" in worker.said(), "the worker to report that Redis is unreachable")
    proxy.refusing = False
    await_spoken(db, ["job-0"], spoken_s(db, "job-0") + 0.3)
    proxy.half_open()
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert deaths_of(db, job) == 0
    assert worker.process.poll() is None


def test_a_producer_whose_connection_is_cut_enqueues_once_and_its_cancels_take_effect(
    start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    start_worker()
    with Client(settings=Settings(redis_url=proxy.url)) as client:
        cuts = [proxy.at(script("enqueue", "voxspool.lua"), answered=answered) for answered in (False, True)]
        texts = enqueue(client, 2, sentences=1)
        assert db.llen("rq:queue:voxspool-auto-interactive") <= 2
        texts |= dict.fromkeys(("stopped", "hurried"), SENTENCE * 9)
        for job in ("stopped", "hurried"):
            client.enqueue(texts[job], id=job, voice=LIVE)
            await_spoken(db, [job], 0.1)
        cuts.append(proxy.at(b"PUBLISH"))
        assert client.speech("hurried").cancel("a test") == "asked"
        cancel = script("cancel", "voxspool.lua")
        cuts.append(proxy.at(cancel, answered=True))
        assert client.speech("stopped").cancel("a test") in ("asked", "cancelled"), (
            "the job may have stopped before the repeated request"
        )
        texts["never"] = SENTENCE
        client.enqueue(SENTENCE, id="never", engine="piper")
        cuts.append(proxy.at(cancel, answered=True))
        assert client.speech("never").cancel("a test") == "cancelled"
    stopped = {job: Expected(tone(texts[job]), frozenset({"cancelled"})) for job in ("stopped", "hurried", "never")}
    check_jobs(db, whole(texts) | stopped)
    assert all(cut.done.is_set() for cut in cuts)


def test_a_second_cancel_of_a_stopped_job_changes_nothing(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    client.enqueue(SENTENCE * 9, id="stopped", voice=LIVE)
    await_spoken(db, ["stopped"], 0.1)
    assert client.speech("stopped").cancel("a test") == "asked"
    expected = {"stopped": Expected(tone(SENTENCE * 9), frozenset({"cancelled"}))}
    check_jobs(db, expected)
    assert client.speech("stopped").cancel("another") == "cancelled"
    check_jobs(db, expected)


def test_a_full_redis_pauses_jobs_and_fails_none(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    workers = [start_worker("tone", "--jobs", "2") for _ in range(2)]
    texts = enqueue(client, 3, sentences=4)
    client.enqueue(SENTENCE * 4, id="stopped", voice=LIVE)
    listeners = Listeners(client, texts)
    await_spoken(db, [*texts, "stopped"], 0.3)
    db.config_set("maxmemory", db.info("memory")["used_memory"] + 50_000)
    until(lambda: all("redis.full" in worker.said() for worker in workers), "the workers to wait for memory")
    with pytest.raises(BusyError, match=r"try again in about \d+ s"):
        client.enqueue(SENTENCE)
    assert client.speech("stopped").cancel("a test") == "asked"
    until(
        lambda: db.hget(keys.control("stopped"), "state") == b"cancelled", "the job to be cancelled while Redis is full"
    )
    await_redis_clock(db, 19)
    assert not any(is_over(db, job) for job in texts)
    db.config_set("maxmemory", 0)
    check_jobs(db, whole(texts) | {"stopped": Expected(tone(SENTENCE * 4), frozenset({"cancelled"}))})
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert (attempt_of(db, job), deaths_of(db, job)) == (1, 0)
    assert rescued(workers) == 0


@APPEND_ONLY
@pytest.mark.parametrize("kept", ["its place in the queue", "its first second"])
def test_a_failover_that_lost_the_tail_of_a_stream_gives_no_reader_a_wrong_sample(
    kept: str, client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    replica = tmp_path / "replica"
    texts = enqueue(client, 1, sentences=4)
    if kept == "its place in the queue":
        shutil.copytree(redis_server.folder, replica)
    worker = start_worker()
    listeners = Listeners(client, texts)
    if kept == "its first second":
        await_spoken(db, texts, 0.7)
        shutil.copytree(redis_server.folder, replica)
    await_spoken(db, texts, 1.5)
    redis_server.stop()
    shutil.rmtree(redis_server.folder)
    replica.rename(redis_server.folder)
    redis_server.start()
    check_jobs(db, whole(texts))
    try:
        assert listeners.heard("job-0") == tone(texts["job-0"])
    except StreamGapError:
        assert kept == "its place in the queue", (
            "a resumed attempt states where it continues, so its readers have no gap"
        )
    assert worker.process.poll() is None


def test_a_cancel_takes_effect_even_if_its_message_is_lost(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    lost = proxy.at(b"SUBSCRIBE", cut=False)
    worker = start_worker(redis_url=proxy.url)
    text = SENTENCE * 9
    client.enqueue(text, id="stopped", voice=LIVE)
    await_spoken(db, ["stopped"], 0.3)
    assert db.pubsub_numsub(f"rq:pubsub:{worker.name}")[0][1] == 0, (
        "the worker is not subscribed, so the message is lost"
    )
    assert lost.done.is_set()
    before_s = spoken_s(db, "stopped")
    assert client.speech("stopped").cancel("a test") == "asked"
    check_jobs(db, {"stopped": Expected(tone(text), frozenset({"cancelled"}))})
    assert spoken_s(db, "stopped") < before_s + 1.0


def test_slow_killed_late_returning_and_many_readers_get_the_same_audio(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer
) -> None:
    start_worker()
    text, job = passage(0, 3), "job-0"
    expected = tone(text)
    speech = client.enqueue(text, id=job, voice=LIVE)
    crowd = Listeners(client, [job], each=120)
    slow = iter(speech)
    first = next(slow)
    command = [sys.executable, "-m", "voxspool", "follow", job, "--redis", redis_server.url, "--raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_env()) as follower:
        assert follower.stdout
        before = follower.stdout.read(4800)
        follower.kill()
    assert expected.startswith(before)
    check_jobs(db, whole({job: text}))
    assert first.pcm + b"".join(chunk.pcm for chunk in slow) == expected
    assert heard(client.speech(job)) == expected, "a late reader gets the whole audio"
    back = client.speech(job).chunks(after=first.id)
    assert first.pcm + b"".join(chunk.pcm for chunk in back) == expected
    assert crowd.all_heard(job) == {expected}


def test_leases_follow_the_clock_of_redis_even_if_the_clock_of_a_worker_jumps_by_days(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    straight = start_worker("tone", "--jobs", "1")
    texts = enqueue(client, 1, sentences=16)
    await_spoken(db, texts, 0.1)
    jumping = start_worker("tone", "--jobs", "2", program=FAULTY, environ={"JUMPING_CLOCK": "1"})
    texts |= enqueue(client, 1, sentences=16, first=1)
    await_spoken(db, texts, 0.1)
    other = start_worker("tone", "--jobs", "1")
    straight.kill()
    check_jobs(db, whole(texts))
    assert [attempt_of(db, job) for job in texts] == [2, 1], "only the job of the killed worker has a second attempt"
    assert rescued([jumping, other]) == 1
    for job in texts:
        until_s = db.zscore("rq:finished:voxspool-auto-interactive", job)
        assert 3500 < until_s - db.time()[0] <= 3600, "RQ keeps the job as long as Redis keeps its stream"
    assert jumping.process.poll() is None
