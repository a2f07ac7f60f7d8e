"""Clients use Redis connections that the program makes, and asyncio clients serve several event loops."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis import asyncio as redis_asyncio

from tests.support.processes import RedisServer, free_port, server_path, until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Client, NoWorkerWarning, RedisUnavailableError, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

SERVICE = "speeches"


async def speak_and_read(client: AsyncClient, job: str) -> bytes:
    """Enqueue a sentence and return its samples."""
    speech = await client.enqueue(SENTENCE, id=job)
    return b"".join([chunk.pcm async for chunk in speech])


def connections_named(db: redis.Redis, name: str) -> int:
    """Return the number of connections to Redis with a client name."""
    return sum(one["name"] == name for one in db.client_list())


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


# Several event loops


def test_one_asyncio_client_serves_three_event_loops_and_leaves_no_connection(
    url: str, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    client = AsyncClient(f"{url}?client_name=mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3):
            assert asyncio.run(speak_and_read(client, f"run-{number}")) == tone(SENTENCE)
        assert connections_named(db, "mine") > 0, "the connections of calls that use RQ stay open for the next run"
        asyncio.run(client.close())
    until(lambda: connections_named(db, "mine") == 0, "the connections to be closed")


def test_a_closed_asyncio_client_can_be_used_in_the_next_event_loop(url: str, start_worker: StartWorker) -> None:
    start_worker()
    client = AsyncClient(url)

    async def use(job: str) -> bytes:
        async with client:
            return await speak_and_read(client, job)

    assert [asyncio.run(use(job)) for job in ("a", "b", "c")] == [tone(SENTENCE)] * 3


def test_an_asyncio_speech_can_be_read_on_in_another_event_loop(url: str, start_worker: StartWorker) -> None:
    start_worker()
    client = AsyncClient(url)

    async def begin() -> tuple[Any, bytes, str]:
        speech = await client.enqueue(SENTENCE)
        async for chunk in speech:
            return speech, chunk.pcm, chunk.id
        raise AssertionError

    async def rest() -> bytes:
        return b"".join([chunk.pcm async for chunk in speech.chunks(after=last)])

    speech, first, last = asyncio.run(begin())
    assert first + asyncio.run(rest()) == tone(SENTENCE)


def test_event_loops_in_several_threads_share_an_asyncio_client(url: str, start_worker: StartWorker) -> None:
    start_worker()
    client = AsyncClient(url)
    said: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda job=job: said.update({job: asyncio.run(speak_and_read(client, job))}))
        for job in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == dict.fromkeys(("a", "b", "c"), tone(SENTENCE))


# Connections that the program makes


def test_a_connection_factory_is_called_once_and_its_redis_client_is_closed(
    redis_server: RedisServer, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    made: list[redis.Redis] = []

    def make() -> redis.Redis:
        made.append(redis.Redis("127.0.0.1", redis_server.port, client_name="mine"))
        return made[-1]

    with Client(settings=Settings(), redis=make) as client:
        assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
        assert len(client.overview().workers) == 1
        assert client.url == redis_server.url
        assert connections_named(db, "mine") > 0
    assert len(made) == 1
    until(lambda: connections_named(db, "mine") == 0, "the connections to be closed")


def test_closing_a_client_leaves_a_shared_connection_pool_open(redis_server: RedisServer, db: redis.Redis) -> None:
    pool = redis.ConnectionPool(port=redis_server.port, client_name="shared")
    with Client(settings=Settings(), redis=lambda: redis.Redis(connection_pool=pool)) as client:
        assert client.workers() == []
    assert connections_named(db, "shared") == 1
    pool.disconnect()


def test_connection_factories_are_called_once_per_event_loop_and_once_for_rq(
    redis_server: RedisServer, start_worker: StartWorker
) -> None:
    start_worker()
    made: list[str] = []

    def make_async() -> redis_asyncio.Redis:
        made.append("asyncio")
        return redis_asyncio.Redis(port=redis_server.port)

    def make_plain() -> redis.Redis:
        made.append("plain")
        return redis.Redis(port=redis_server.port)

    client = AsyncClient(settings=Settings(), redis=make_async, sync_redis=make_plain)
    for job in ("a", "b"):
        assert asyncio.run(speak_and_read(client, job)) == tone(SENTENCE)
    assert made == ["plain", "asyncio", "asyncio"]


# Redis Sentinel


@pytest.fixture
def sentinel_port(redis_server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """Start a Sentinel that watches the test's Redis; skip the test if the server has no Sentinel mode."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor {SERVICE} 127.0.0.1 {redis_server.port} 1\n"
    )
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([str(server_path()), str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or answers(port), "Sentinel to start")
        if process.poll() is not None:
            pytest.skip(f"this server has no Sentinel: {(tmp_path / 'sentinel.log').read_text()[-200:]}")
        yield port
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Return whether a Sentinel answers on a port."""
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port) as asked:
        return bool(asked.sentinel_master(SERVICE))
    return False


def test_a_client_finds_redis_through_sentinel(sentinel_port: int, start_worker: StartWorker) -> None:
    start_worker()
    watched = redis.Sentinel([("127.0.0.1", sentinel_port)])
    with Client(settings=Settings(), redis=lambda: watched.master_for(SERVICE)) as client:
        speech = client.enqueue(SENTENCE)
        assert b"".join(chunk.pcm for chunk in speech) == tone(SENTENCE)
        assert client.enqueue(SENTENCE * 9, voice="sine-live").cancel() in ("asked", "cancelled")


def test_an_asyncio_client_finds_redis_through_sentinel(sentinel_port: int, start_worker: StartWorker) -> None:
    start_worker()
    plain = redis.Sentinel([("127.0.0.1", sentinel_port)])

    def make() -> redis_asyncio.Redis:
        return redis_asyncio.Sentinel([("127.0.0.1", sentinel_port)]).master_for(SERVICE)

    client = AsyncClient(settings=Settings(), redis=make, sync_redis=lambda: plain.master_for(SERVICE))
    for job in ("a", "b"):
        assert asyncio.run(speak_and_read(client, job)) == tone(SENTENCE)


def test_error_messages_name_the_sentinel_service(sentinel_port: int) -> None:
    watched = redis.Sentinel([("127.0.0.1", sentinel_port)])
    with Client(settings=Settings(), redis=lambda: watched.master_for(SERVICE)) as client:
        with warnings.catch_warnings():
            warnings.simplefilter("error", NoWorkerWarning)
            with pytest.raises(NoWorkerWarning, match=r"Start one: voxspool-worker run$"):
                client.enqueue(SENTENCE).wait()
        assert client.url == "the Sentinel service speeches"
    gone = redis.Sentinel([("127.0.0.1", free_port())])
    with (
        Client(settings=Settings(), redis=lambda: gone.master_for(SERVICE)) as client,
        pytest.raises(RedisUnavailableError, match="no Sentinel names a primary for the Sentinel service speeches"),
    ):
        client.workers()
