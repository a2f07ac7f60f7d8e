"""The clock of Redis jumps, or everything is suspended: nobody died, so no job is taken from its worker.

libfaketime sets the clock of a real redis-server. These tests are skipped where it is not installed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.clocks import FakeClockServer
from tests.support.faults import LIVE, attempt_of, await_redis_clock, await_spoken, deaths_of, freeze, thaw
from tests.support.narrated import check, held, narrate, place
from tests.support.oracle import check_jobs, whole
from tests.support.processes import until
from voxspool.protocol.narration import Passage
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

LONG_SENTENCE = "The keeper of the lighthouse counted every lamp " + "and every stair " * 8 + "before the night."
"""One segment of 193 characters: 11.6 s of tone, while which leases would expire if the clock were believed."""
SERVER = FakeClockServer
HOUR_S = 3600


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open the segment store that the workers of `start_worker` use."""
    return Store(tmp_path / "store")


def rescues(*workers: WorkerProcess) -> int:
    return sum(worker.said().count("job.rescued") for worker in workers)


@pytest.mark.parametrize(
    ("jump_s", "suspended"),
    [(60, False), (HOUR_S, True), (-60, False)],
    ids=["a minute ahead", "an hour ahead while everything is suspended", "a minute back"],
)
def test_two_jumps_within_a_segment_are_nobodys_death(
    jump_s: int,
    suspended: bool,  # noqa: FBT001
    client: Client,
    start_worker: StartWorker,
    db: redis.Redis,
    redis_server: FakeClockServer,
    store: Store,
) -> None:
    workers = [start_worker("tone", "--jobs", "2") for _ in range(2)]
    texts = {job: f"{LONG_SENTENCE} {job}." for job in ("a", "b")}
    for job, text in texts.items():
        client.enqueue(text, id=job, voice=LIVE)
    passages = [Passage(f"{LONG_SENTENCE} {number}.") for number in range(3)]
    chapter = place(client, store, "chapter", passages, voice=LIVE)
    await_spoken(db, texts, 0.5)
    until(lambda: held(db, "chapter") == 3, "the chapter to be spoken")
    for _ in range(2):
        if suspended:
            with everything_suspended(redis_server, *workers):
                redis_server.set_clock(jump_s)
        else:
            redis_server.jump(jump_s)
        db.time()  # the first reply may be from before
        await_redis_clock(db, 4)  # each worker has looked for dead ones, and renewed its leases
    check_jobs(db, whole(texts))
    check(chapter, narrate(client, chapter), store)
    for job in (*texts, "chapter"):
        assert (attempt_of(db, job), deaths_of(db, job)) == (1, 0)
    assert rescues(*workers) == 0
    assert not any("quarantined" in worker.said() for worker in workers)


@contextlib.contextmanager
def everything_suspended(*processes: WorkerProcess | RedisServer) -> Iterator[None]:
    """Suspend processes, as a machine that sleeps does."""
    for process in processes:
        freeze(process)
    yield
    for process in processes:
        thaw(process)


def test_a_worker_that_starts_right_after_a_jump_takes_no_job_from_a_live_one(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: FakeClockServer
) -> None:
    speaking = start_worker("tone", "--jobs", "1")
    client.enqueue(LONG_SENTENCE, id="a", voice=LIVE)
    await_spoken(db, ["a"], 0.5)
    freeze(speaking)  # it cannot renew before the new worker looks
    redis_server.jump(60)
    starting = start_worker("tone", "--jobs", "1")
    thaw(speaking)
    check_jobs(db, whole({"a": LONG_SENTENCE}))
    assert (attempt_of(db, "a"), deaths_of(db, "a")) == (1, 0)
    assert rescues(speaking, starting) == 0


def test_the_job_of_a_worker_that_stands_still_goes_on_though_the_clock_was_set_back_an_hour(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: FakeClockServer
) -> None:
    frozen = start_worker("tone", "--jobs", "1")
    client.enqueue(LONG_SENTENCE, id="a", voice=LIVE)
    await_spoken(db, ["a"], 0.5)
    start_worker("tone", "--jobs", "1")
    with everything_suspended(redis_server):
        freeze(frozen)
        redis_server.set_clock(-HOUR_S)
    check_jobs(db, whole({"a": LONG_SENTENCE}))
    assert attempt_of(db, "a") == 2
