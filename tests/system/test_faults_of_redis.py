"""A Redis that stalls, dies, forgets, fills up, or is behind a bad network; readers and clocks that misbehave.

Each job that Redis still knows is spoken whole, once; where it forgot one, its readers are told so.
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
from voxspool_worker.queue.rq_records import RqRecords

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


def test_a_redis_that_stalls_loses_nothing_and_is_nobodys_death(
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


def test_a_late_answer_of_a_redis_that_was_away_rescues_nobody(client: Client, db: redis.Redis) -> None:
    speech = client.enqueue(SENTENCE)
    records = RqRecords(lambda **_: db, "somebody")
    claim = records.claim(["voxspool-auto-interactive"], "a-run")
    assert claim is not None
    db.zadd(claim.run.lease_key, {claim.run.composite: 1})  # while Redis was away, it ran out
    slow = itertools.count(0.0, 5.0)
    away_at_the_first_queue = itertools.chain([0.0], itertools.repeat(5.0))
    for clock in (slow, away_at_the_first_queue):
        Recovery(records, RqQueues(db), db, lambda: None, clock.__next__).rescue()
        assert db.zscore(claim.run.lease_key, claim.run.composite) == 1
    Recovery(records, RqQueues(db), db, lambda: None).rescue()
    assert db.lrange("rq:queue:voxspool-auto-interactive", 0, -1) == [speech.id.encode()]


@APPEND_ONLY
def test_jobs_go_on_after_a_redis_with_an_append_only_file_is_killed_and_restarted(
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


def test_readers_are_told_when_a_redis_without_persistence_forgot_their_job(
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
    assert claimed.done.wait(10), "the job is claimed by a run that nobody knows of"
    texts |= enqueue(client, 3, sentences=3, first=1)
    listeners = Listeners(client, texts)
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert deaths_of(db, job) == 0, "nobody died, not even of the claim that was not heard"
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
    until(lambda: "redis.away" in worker.said(), "the worker to miss Redis")
    proxy.refusing = False
    await_spoken(db, ["job-0"], spoken_s(db, "job-0") + 0.3)
    proxy.half_open()
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert deaths_of(db, job) == 0
    assert worker.process.poll() is None


def test_a_producer_whose_connection_is_cut_enqueues_once_and_cancels_for_good(
    start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    start_worker()
    with Client(settings=Settings(redis_url=proxy.url)) as client:
        cuts = [proxy.at(b"\r\nEXEC\r\n", answered=answered) for answered in (False, True)]
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
        assert client.speech("stopped").cancel("a test") in ("asked", "cancelled"), "it may have stopped meanwhile"
        texts["never"] = SENTENCE
        client.enqueue(SENTENCE, id="never", engine="piper")
        cuts.append(proxy.at(cancel, answered=True))
        assert client.speech("never").cancel("a test") == "cancelled"
    stopped = {job: Expected(tone(texts[job]), frozenset({"cancelled"})) for job in ("stopped", "hurried", "never")}
    check_jobs(db, whole(texts) | stopped)
    assert all(cut.done.is_set() for cut in cuts)


def test_a_job_that_is_cancelled_again_after_it_has_stopped_stays_as_it_is(
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


def test_a_redis_at_its_memorys_limit_pauses_jobs_and_fails_none(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    workers = [start_worker("tone", "--jobs", "2") for _ in range(2)]
    texts = enqueue(client, 3, sentences=4)
    client.enqueue(SENTENCE * 4, id="stopped", voice=LIVE)
    listeners = Listeners(client, texts)
    await_spoken(db, [*texts, "stopped"], 0.3)
    db.config_set("maxmemory", db.info("memory")["used_memory"] + 50_000)
    until(lambda: all("redis.full" in worker.said() for worker in workers), "them to wait for memory")
    with pytest.raises(BusyError, match=r"try again in about \d+ s"):
        client.enqueue(SENTENCE)
    assert client.speech("stopped").cancel("a test") == "asked"
    until(lambda: db.hget(keys.control("stopped"), "state") == b"cancelled", "a cancel to pass all the same")
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
        assert kept == "its place in the queue", "a resumed attempt says where it goes on"
    assert worker.process.poll() is None


def test_a_cancel_acts_though_its_message_is_lost(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    lost = proxy.at(b"SUBSCRIBE", cut=False)
    worker = start_worker(redis_url=proxy.url)
    text = SENTENCE * 9
    client.enqueue(text, id="stopped", voice=LIVE)
    await_spoken(db, ["stopped"], 0.3)
    assert db.pubsub_numsub(f"rq:pubsub:{worker.name}")[0][1] == 0, "nobody will hear of it"
    assert lost.done.is_set()
    before_s = spoken_s(db, "stopped")
    assert client.speech("stopped").cancel("a test") == "asked"
    check_jobs(db, {"stopped": Expected(tone(text), frozenset({"cancelled"}))})
    assert spoken_s(db, "stopped") < before_s + 1.0


def test_readers_that_are_slow_die_come_late_or_are_a_hundred_hear_the_same(
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
    assert heard(client.speech(job)) == expected, "who comes late hears it all"
    back = client.speech(job).chunks(after=first.id)
    assert first.pcm + b"".join(chunk.pcm for chunk in back) == expected
    assert crowd.all_heard(job) == {expected}


def test_leases_follow_the_clock_of_redis_though_a_workers_clock_jumps_by_days(
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
    assert [attempt_of(db, job) for job in texts] == [2, 1], "beats came in time, and nobody took a live job"
    assert rescued([jumping, other]) == 1
    for job in texts:
        until_s = db.zscore("rq:finished:voxspool-auto-interactive", job)
        assert 3500 < until_s - db.time()[0] <= 3600, "RQ keeps it as long as its stream lives"
    assert jumping.process.poll() is None
