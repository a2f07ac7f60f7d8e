"""The clock of Redis jumps while somebody listens: a live job goes on, and ends when its listener has left.

libfaketime sets the clock of a real redis-server. These tests are skipped where it is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.clocks import FakeClockServer
from tests.support.faults import LIVE, Listeners, await_spoken
from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool.protocol import keys
from voxspool_worker.speech.reader_progress import UNREAD

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

SERVER = FakeClockServer
HOUR_S = 3600


def test_a_live_job_is_spoken_to_its_end_though_the_clock_jumps(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: FakeClockServer
) -> None:
    start_worker()
    text = SENTENCE * 16  # about 9 s
    client.enqueue(text, id="a", voice=LIVE, live_s=5)
    listeners = Listeners(client, ["a"])
    for number in range(6):  # each falls between two looks of the worker, and before or after a report
        await_spoken(db, ["a"], 6 * number + 1)
        redis_server.jump(HOUR_S if number % 2 == 0 else -HOUR_S)
    assert listeners.heard("a") == tone(text)


def test_a_live_job_whose_listener_left_before_a_jump_ends(
    client: Client, start_worker: StartWorker, db: redis.Redis, redis_server: FakeClockServer
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 32, id="a", voice=LIVE, live_s=2)
    reader = iter(speech)
    next(reader)
    until(lambda: db.exists(keys.acknowledged("a")), "a report")
    del reader
    redis_server.jump(-HOUR_S)
    until(lambda: db.hget(keys.control("a"), "state") == b"cancelled", "the job to end")
    assert UNREAD.encode() in db.xrevrange(keys.audio("a"), count=1)[0][1][b"data"]
