"""Workers are killed, frozen, stopped or crashed by a job: each job is spoken once, to its end.

Some of these tests wait until a lease of 9 s expires. To wait less often, one test causes faults to several workers.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.faults import (
    FAULTY,
    LIVE,
    Listeners,
    Supervisor,
    attempt_of,
    await_spoken,
    deaths_of,
    enqueue,
    freeze,
    thaw,
)
from tests.support.narrated import book_of, held, narrate, place
from tests.support.oracle import Expected, check_jobs, is_over, whole
from tests.support.processes import until
from tests.support.proxy import script
from tests.support.reference import SENTENCE, passage, tone
from voxspool import SpeechCancelledError
from voxspool.protocol import keys
from voxspool.protocol.stream import Cancelled, Failed, decode
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from tests.support.proxy import Proxy
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]
    MakeProxy = Callable[[], Proxy]

BROKEN = 70
EXITS = {"segfault": -signal.SIGSEGV, "vanish": 1, "assert": BROKEN, "quit": BROKEN, "memory": BROKEN, "hang": BROKEN}
"""Word in the text of a job -> exit code of the worker that speaks it."""


def last_entry(db: redis.Redis, job: str) -> object:
    return decode(db.xrevrange(keys.audio(job), count=1)[0][1])


def test_jobs_are_spoken_to_their_end_after_their_workers_are_killed_at_several_chunks(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    workers = [start_worker("tone", "--jobs", "3") for _ in range(2)]
    texts = enqueue(client, 3, sentences=30)
    listeners = Listeners(client, texts)
    for jobs, at_s in ((["job-0"], 0.05), (texts, 5.0)):  # two crashes in one segment would mark the job failed
        await_spoken(db, jobs, at_s)
        speaker = db.hget(keys.control("job-0"), "worker").decode()
        next(worker for worker in workers if worker.name == speaker).kill()
        workers.append(start_worker("tone", "--jobs", "3"))
    check_jobs(db, whole(texts))
    assert attempt_of(db, "job-0") == 3
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)


def test_another_worker_on_the_machine_continues_before_the_lease_of_a_killed_one_expires(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    victim = start_worker()
    texts = enqueue(client, 1, sentences=4)
    chapter = place(client, Store(victim.log.with_name("store")), "chapter", book_of(4), voice=LIVE)
    await_spoken(db, texts, 0.5)
    until(lambda: held(db, "chapter"), "the chapter's segments to be spoken")
    start_worker()
    ((_, lease_s),) = db.zrange("rq:wip:voxspool-auto-interactive", 0, -1, withscores=True)
    victim.process.kill()  # as the kernel does when memory is short
    until(lambda: attempt_of(db, "job-0") == attempt_of(db, "chapter") == 2, "both jobs to go on")
    assert db.time()[0] < lease_s
    until(lambda: not db.zrangebyscore(keys.unspoken("chapter"), 1, 1), "its segments to be taken")
    check_jobs(db, whole(texts))
    assert len(narrate(client, chapter)) == 4
    assert deaths_of(db, "job-0") == 1


def test_jobs_are_spoken_to_their_end_after_their_workers_are_killed_between_two_steps(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    steps = [(name, answered) for name in ("dequeue", "begin", "finish") for answered in (False, True)]
    texts = enqueue(client, len(steps), sentences=2, voice="sine")
    rules = []
    for name, answered in steps:
        proxy = proxies()
        proxy.stall()
        victim = start_worker("tone", "--jobs", "1", redis_url=proxy.url, wait=False)
        rules.append(proxy.at(script(name), victim.kill, answered=answered))
        proxy.flow()
    until(lambda: all(rule.done.is_set() for rule in rules), "all workers to be killed")
    start_worker()
    check_jobs(db, whole(texts))
    *others, last = sorted(attempt_of(db, job) for job in texts)
    assert others == [1, 1, 1, 1, 1], "one job at most had begun and not ended"
    assert last in (1, 2), "1 if its worker took a job that another one had brought to its end"


def test_a_worker_frozen_past_its_lease_adds_nothing_to_a_job_that_another_worker_continues(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    frozen = start_worker()
    texts = enqueue(client, 2, sentences=2)
    listeners = Listeners(client, texts)
    await_spoken(db, texts, 0.5)
    freeze(frozen)
    start_worker()
    until(lambda: all(attempt_of(db, job) == 2 for job in texts), "another worker to continue the jobs")
    thaw(frozen)
    check_jobs(db, whole(texts))
    for job, text in texts.items():
        assert listeners.heard(job) == tone(text)
        assert attempt_of(db, job) == 2
        assert db.xlen(f"rq:results:{job}") == 1, "exactly one run has a result"
    until(lambda: frozen.said().count("reason=lease lost") == 2, "the frozen worker to report its lost leases")
    assert frozen.process.poll() is None


def test_the_jobs_of_a_killed_worker_begin_again_one_by_one_a_segment_apart(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    victim = start_worker()
    texts = enqueue(client, 2, sentences=10)  # on eight rows: first eight segments at once, then two

    def look() -> tuple[set[bytes], list[bool]]:
        """Return the states of both jobs when the second one begins again, and whether each has a complete segment."""
        until(lambda: all(attempt_of(db, job) == 2 for job in texts), "both jobs to begin again")
        states, complete = zip(*(db.hmget(keys.control(job), "state", "marked_segments") for job in texts), strict=True)
        return set(states), sorted(bool(int(segments or 0)) for segments in complete)

    await_spoken(db, texts, 0.3)
    victim.kill()
    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)  # before the start, because start_worker returns late on a busy machine
        start_worker()
        states, complete = looking.result()
    assert states == {b"running"}, "the second job begins before the first one has ended"
    assert complete == [False, True], "the second job waits for a segment of the first one"
    check_jobs(db, whole(texts))


def test_several_workers_and_dashboards_rescue_each_job_once(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    victim = start_worker()
    texts = enqueue(client, 4, sentences=1)
    await_spoken(db, texts, 0.3)
    victim.kill()
    for _ in range(3):
        start_worker()
    over = threading.Event()
    registry = Queue("voxspool-auto-interactive", connection=db, serializer=JSONSerializer).started_job_registry

    def look() -> None:
        while not over.wait(0.02):
            registry.cleanup()
            assert registry.count >= 0  # `count` cleans up too

    dashboards = [threading.Thread(target=look) for _ in range(3)]
    for dashboard in dashboards:
        dashboard.start()
    until(lambda: all(is_over(db, job) for job in texts), "the end of the jobs", 60)
    over.set()
    for dashboard in dashboards:
        dashboard.join()
    check_jobs(db, whole(texts), records_may_expire=True)
    assert {attempt_of(db, job) for job in texts} == {2}


def test_a_job_that_ignores_its_cancel_ends_its_worker_and_another_worker_finishes_the_other_jobs(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker("tone", program=FAULTY)
    texts = enqueue(client, 2, sentences=12)
    client.enqueue(SENTENCE, id="deaf", voice="deaf")
    await_spoken(db, texts, 0.3)
    until(lambda: attempt_of(db, "deaf") == 1, "the job to begin")
    assert client.speech("deaf").cancel("a test") == "asked"
    assert worker.wait() == 70
    assert client.speech("deaf").cancel("a test") == "cancelled", "no worker runs the job any more"
    start_worker()
    check_jobs(db, whole(texts) | {"deaf": Expected(b"", frozenset({"cancelled"}))})


def test_an_error_in_one_segment_ends_its_job_and_not_the_worker(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker("tone", program=FAULTY)
    texts = enqueue(client, 2, sentences=2)
    text = f"{SENTENCE}And then comes the unspeakable."
    client.enqueue(text, id="raises")
    check_jobs(db, whole(texts) | {"raises": Expected(tone(text), frozenset({"failed"}))})
    assert last_entry(db, "raises") == Failed(
        last_entry(db, "raises").pos, "engine", "this segment cannot be spoken", retryable=False
    )
    assert worker.process.poll() is None


@pytest.mark.parametrize("words", [("segfault", "assert", "hang"), ("vanish", "quit", "memory")])
def test_jobs_that_crash_workers_on_two_hosts_are_marked_failed_and_the_other_jobs_are_spoken(
    words: tuple[str, ...], client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    hosts = itertools.cycle(["one", "two"])
    supervisor = Supervisor(
        lambda: start_worker("tone", program=FAULTY, wait=False, environ={"HOST_NAME": next(hosts)})
    )
    texts = enqueue(client, 2, sentences=2)
    await_spoken(db, texts, 0.3)
    poison = {word: f"{SENTENCE}Only the {word} kills." for word in words}
    for word, text in poison.items():
        client.enqueue(text, id=word, voice=LIVE)
    jobs = [*texts, *poison]
    supervisor.until(lambda: all(is_over(db, job) for job in jobs), "the end of all jobs", 120)
    failed = {word: Expected(tone(text), frozenset({"failed"})) for word, text in poison.items()}
    check_jobs(db, whole(texts) | failed)
    assert set(supervisor.exits) == {EXITS[word] for word in words}
    for word in poison:
        last = last_entry(db, word)
        assert isinstance(last, Failed)
        assert (last.code, last.retryable) == ("poison", False)
        assert re.match("[2-4] workers in a row died", last.sentence), "some on the same host, or beside other jobs"


def test_a_job_that_crashes_every_worker_of_the_only_host_is_marked_failed_and_the_other_job_is_spoken(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    supervisor = Supervisor(lambda: start_worker("tone", program=FAULTY, wait=False))
    texts = enqueue(client, 1, sentences=1)
    await_spoken(db, texts, 0.3)
    client.enqueue(f"{SENTENCE}Only the vanish kills.", id="poison", voice=LIVE)
    supervisor.until(lambda: all(is_over(db, job) for job in (*texts, "poison")), "the end of both jobs", 60)
    check_jobs(db, whole(texts))
    last = last_entry(db, "poison")
    assert isinstance(last, Failed)
    assert last.code == "poison"
    assert re.match("[2-4] workers in a row died", last.sentence), "some had completed nothing, or ran other jobs"


@pytest.mark.parametrize("host", ["", "broken"], ids=["of the same host", "of another host"])
def test_a_broken_machine_in_a_restart_loop_marks_no_job_failed_and_backs_off(
    host: str, client: Client, start_worker: StartWorker, db: redis.Redis, tmp_path: Path
) -> None:
    environ = {"BROKEN_MACHINE": "1", "VOXSPOOL_HEALTH_DIR": str(tmp_path / "broken"), "HOST_NAME": host}
    broken = Supervisor(lambda: start_worker("tone", "--jobs", "2", program=FAULTY, wait=False, environ=environ))
    texts = enqueue(client, 8, sentences=1)
    healthy = start_worker("tone", "--jobs", "2")
    broken.until(lambda: all(is_over(db, job) for job in texts), "the end of all jobs", 120)
    check_jobs(db, whole(texts))
    assert "job.end" in healthy.said()
    assert len(broken.exits) >= 2
    if not host:
        return  # the healthy worker completes segments on that host, so the next one may try at once

    def health() -> str:
        return "".join(path.read_text() for path in (tmp_path / "broken").glob("*.worker"))

    client.enqueue(passage(9, 9), id="another", voice=LIVE)  # while it is spoken, a broken worker starts again
    broken.until(lambda: "worker.backs_off" in broken.worker.said() and "takes jobs in" in health(), "it to back off")
    (card,) = [card for card in client.workers() if card.host == host]
    assert card.queues == [], "nothing is routed to it"


def terminate_once_and_twice(workers: list[WorkerProcess]) -> None:
    """Send SIGTERM to both workers, and a second one to the second worker."""
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    until(lambda: all("worker.stopping" in worker.said() for worker in workers), "the workers to report the signal")
    workers[1].process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("state", "jobs", "voice"),
    [("idle", 0, LIVE), ("preparing", 2, "slow"), ("speaking, and waiting for a slot", 3, LIVE)],
)
def test_a_worker_told_to_stop_loses_no_job(
    state: str, jobs: int, voice: str, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    workers = [start_worker("tone", "--jobs", "1", program=FAULTY) for _ in range(2)]
    texts = enqueue(client, jobs, sentences=2, voice=voice)
    until(lambda: state == "idle" or all("job.begin" in worker.said() for worker in workers), state)
    terminate_once_and_twice(workers)
    assert [worker.wait() for worker in workers] == [0, 0]
    start_worker("tone", program=FAULTY)
    check_jobs(db, whole(texts))
    assert all(deaths_of(db, job) == 0 for job in texts)


def test_a_worker_told_to_stop_while_redis_is_full_loses_no_job(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    workers = [start_worker("tone", "--jobs", "1") for _ in range(2)]
    texts = enqueue(client, 2, sentences=4)
    await_spoken(db, texts, 0.3)
    db.config_set("maxmemory", db.info("memory")["used_memory"] + 20_000)
    until(lambda: all("redis.full" in worker.said() for worker in workers), "the workers to wait for memory")
    terminate_once_and_twice(workers)
    assert workers[1].wait() == 0, "it returns its jobs while Redis is full"
    db.config_set("maxmemory", 0)
    assert workers[0].wait() == 0
    start_worker()
    check_jobs(db, whole(texts))
    assert all(deaths_of(db, job) == 0 for job in texts)


def test_a_worker_told_to_stop_while_redis_is_frozen_loses_no_job(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: RedisServer
) -> None:
    workers = [start_worker("tone", "--jobs", "1", program=FAULTY) for _ in range(2)]
    texts = enqueue(client, 2, sentences=4)
    await_spoken(db, texts, 0.3)
    freeze(redis_server)
    terminate_once_and_twice(workers)
    assert workers[1].wait(60) == 0, "it does not wait for Redis"
    thaw(redis_server)
    assert workers[0].wait() == 0
    start_worker()
    check_jobs(db, whole(texts))


def test_a_requeue_whose_answer_is_lost_puts_the_job_back_once(
    client: Client, start_worker: StartWorker, proxies: MakeProxy, db: redis.Redis
) -> None:
    proxy = proxies()
    worker = start_worker("tone", redis_url=proxy.url)
    client.enqueue(passage(0, 4), id="job-0", voice=LIVE)
    await_spoken(db, ["job-0"], 0.3)
    cut = proxy.at(script("requeue"), answered=True)
    for _ in range(2):
        worker.process.send_signal(signal.SIGTERM)
        until(lambda: "worker.stopping" in worker.said(), "the worker to report the signal")
    assert worker.wait() == 0
    assert cut.done.is_set()
    assert db.lrange("rq:queue:voxspool-auto-interactive", 0, -1) == [b"job-0"], (
        "the job is there once, although the request was sent twice"
    )
    start_worker()
    check_jobs(db, whole({"job-0": passage(0, 4)}))


def test_readers_of_jobs_that_rq_lost_while_their_worker_was_dead_learn_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    dead = start_worker("tone", "--jobs", "3")
    speeches = [client.enqueue(passage(number, 60), voice=LIVE) for number in range(2)]
    until(lambda: all(db.hget(keys.control(speech.id), "pos") for speech in speeches), "both to be spoken")
    dead.kill()
    for speech, lose in zip(speeches, (Job.cancel, Job.delete), strict=True):
        lose(Job.fetch(speech.id, connection=db, serializer=JSONSerializer))
    start_worker("tone")
    for speech in speeches:
        until(lambda job=speech.id: type(last_entry(db, job)) is Cancelled, "the stream to be closed", 30)
        with pytest.raises(SpeechCancelledError):
            speech.wait(timeout_s=5)
    assert db.zcard(keys.OPEN) == 0
