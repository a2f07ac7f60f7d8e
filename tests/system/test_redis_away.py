"""Redis is away, or no longer answers on a connection: readers wait for it and come back, in Python and in commands."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf

from tests.support.faults import LIVE, await_spoken
from tests.support.oracle import Expected, check_jobs
from tests.support.processes import clean_env, until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Client, DeadlineError, NarrationJobs, RedisAwayWarning, RedisUnavailableError
from voxspool.protocol import keys
from voxspool.protocol.stream import Audio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from tests.support.proxy import Proxy

    StartWorker = Callable[..., WorkerProcess]
    MakeProxy = Callable[[], Proxy]

TEXT = SENTENCE * 8
SOON_S = 15
"""Longer than a reader waits for a reply (5 s), and shorter than the 60 s after which asyncio readers once gave up."""
AWAY = "voxspool: no Redis answers at "


def samples(path: Path) -> bytes:
    data: bytes = sf.read(path, dtype="int16")[0].astype(np.dtype("<i2")).tobytes()
    return data


@pytest.fixture
def away(proxies: MakeProxy) -> Iterator[Proxy]:
    """Start a proxy behind which a Redis can be away."""
    proxy = proxies()
    yield proxy
    proxy.refusing = False


def leave(proxy: Proxy) -> None:
    """Let Redis be away: cut all connections and refuse new ones."""
    proxy.refusing = True
    proxy.drop()


def test_readers_come_back_from_a_half_open_connection(
    client: Client, start_worker: StartWorker, away: Proxy, db: redis.Redis
) -> None:
    started, told = threading.Barrier(3), threading.Barrier(3)

    def begun(pos: int) -> None:
        if pos == 0:
            started.wait(30)
            told.wait(30)

    def read() -> bytes:
        heard = b""
        with Client(away.url) as distant:
            for chunk in distant.speech("a").chunks():
                heard += chunk.pcm
                begun(chunk.pos)
        return heard

    async def read_async() -> bytes:
        heard = b""
        async with AsyncClient(away.url) as distant:
            async for chunk in distant.speech("a").chunks():
                heard += chunk.pcm
                begun(chunk.pos)
        return heard

    start_worker()
    client.enqueue(TEXT, id="a", voice=LIVE)
    with ThreadPoolExecutor(2) as pool:
        heard = [pool.submit(read), pool.submit(lambda: asyncio.run(read_async()))]
        started.wait(30)
        away.half_open()
        told.wait(30)
        began = time.monotonic()
        assert [one.result(60) for one in heard] == [tone(TEXT)] * 2
    assert time.monotonic() - began < SOON_S
    check_jobs(db, {"a": Expected(tone(TEXT))})


@pytest.mark.long
def test_readers_and_commands_outlast_a_redis_that_is_away_for_longer_than_their_retries(
    client: Client, start_worker: StartWorker, away: Proxy, db: redis.Redis, tmp_path: Path
) -> None:
    def save() -> None:
        with Client(away.url) as distant:
            distant.speech("a").save(tmp_path / "plain.wav")

    async def save_async() -> None:
        async with AsyncClient(away.url) as distant:
            await distant.speech("a").save(tmp_path / "async.wav")

    def read_many() -> int:
        with Client(away.url) as distant:
            found = [one for one in NarrationJobs(distant).read(["a"]) if one]
            return sum(isinstance(one.entry, Audio) for _, one in found if isinstance(one, tuple))

    def command(*arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / f"{arguments[0]}.log"
        words = [sys.executable, "-m", "voxspool", *arguments, "--redis", away.url]
        with log.open("wb") as err:
            return subprocess.Popen(words, stderr=err, env=clean_env()), log

    text = SENTENCE * 32  # about 17 s
    start_worker()
    client.enqueue(text, id="a", voice=LIVE)
    with warnings.catch_warnings(record=True) as issued, ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("always", RedisAwayWarning)
        follow, follow_log = command("follow", "a", "-o", str(tmp_path / "follow.wav"))
        speak, speak_log = command(
            "speak", text, "-o", str(tmp_path / "speak.wav"), "--job-id", "b", "--voice", LIVE, "--engine", "tone"
        )
        readers = [pool.submit(act) for act in (save, lambda: asyncio.run(save_async()), read_many)]
        await_spoken(db, ["a", "b"], 0.5)
        until(lambda: sum(one["cmd"] == "xread" for one in db.client_list()) == 5, "all to read", 20)
        leave(away)
        until(lambda: len(issued) >= 3, "three readers to warn", 40)
        until(lambda: all(AWAY in log.read_text() for log in (follow_log, speak_log)), "both commands to say so", 40)
        away.refusing = False
        assert [one.result(60) for one in readers[:2]] == [None, None]
        assert readers[2].result(60) == sum(fields[b"type"] == b"audio" for _, fields in db.xrange(keys.audio("a")))
        assert [one.wait(60) for one in (follow, speak)] == [0, 0]
    assert len(issued) == 3, "each reader warns once"
    for name in ("plain", "async", "follow", "speak"):
        assert samples(tmp_path / f"{name}.wav") == tone(text)
    for log in (follow_log, speak_log):
        assert log.read_text().count(AWAY) == 1, "once"


def test_the_time_limit_of_a_caller_ends_its_wait_for_redis(
    client: Client, start_worker: StartWorker, away: Proxy, db: redis.Redis
) -> None:
    async def wait() -> None:
        async with AsyncClient(away.url) as distant:
            chunks = distant.speech("a").chunks(timeout_s=2)
            await anext(chunks)
            leave(away)
            async for _ in chunks:
                pass

    start_worker()
    client.enqueue(SENTENCE * 32, id="a", voice=LIVE)
    with pytest.warns(RedisAwayWarning), pytest.raises(DeadlineError, match="for 2 s; Redis does not answer"):
        asyncio.run(wait())
    assert db.hget(keys.control("a"), "state") == b"running", "the job goes on"


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_the_time_limit_of_a_plain_caller_ends_its_wait_soon(away: Proxy, silent: bool) -> None:  # noqa: FBT001
    with Client(away.url) as distant:
        reader = threading.Timer(1, away.stall if silent else partial(leave, away))
        waiting = distant.enqueue(SENTENCE)
        reader.start()
        began = time.monotonic()
        with pytest.warns(RedisAwayWarning), pytest.raises(DeadlineError, match="Redis does not answer"):
            waiting.wait(timeout_s=2)
        assert time.monotonic() - began < SOON_S
        away.flow()


def test_a_reader_that_redis_never_answered_does_not_wait_for_it(away: Proxy) -> None:
    leave(away)
    with Client(away.url) as distant, pytest.raises(RedisUnavailableError):
        distant.speech("a").wait()


def test_a_speak_that_cannot_write_cancels_its_job(
    start_worker: StartWorker, redis_server: RedisServer, db: redis.Redis
) -> None:
    start_worker()
    words = ["speak", SENTENCE * 32, "-o", "-", "--job-id", "a", "--voice", LIVE, "--engine", "tone"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "voxspool", *words, "--redis", redis_server.url],
            stdout=full, stderr=subprocess.PIPE, env=clean_env(), timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    until(lambda: db.hget(keys.control("a"), "state") == b"cancelled", "the job to be cancelled")
    assert b"a command that failed" in db.xrevrange(keys.audio("a"), count=1)[0][1][b"data"]
