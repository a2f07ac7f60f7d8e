"""A failover swaps the roles of two Redis servers and leaves the connections open: everybody finds the new primary."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis import asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.processes import RedisServer, until
from tests.support.proxy import Proxy
from tests.support.reference import SENTENCE, passage, tone
from voxspool import AsyncClient, Client, Settings
from voxspool.connections import connection
from voxspool.connections import pools as redis_pools
from voxspool.connections.pools import NoPrimaryError
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]


class Pair:
    """A primary and its replica, behind one address."""

    def __init__(self, primary: RedisServer, replica: RedisServer, proxy: Proxy) -> None:
        self.primary = primary
        self.replica = replica
        self.proxy = proxy

    @property
    def url(self) -> str:
        return self.proxy.url

    def fail_over(self) -> None:
        """Swap the roles without losing a write. Connections to the old primary stay open; new ones get the new one."""
        with redis.Redis(port=self.primary.port) as old, redis.Redis(port=self.replica.port) as new:
            until(lambda: online(old), "the replica to be in sync")
            old.execute_command("FAILOVER", "TO", "127.0.0.1", self.replica.port)
            until(lambda: role(new) == b"master" and role(old) == b"slave", "the roles to be swapped")
        self.proxy.target = self.replica.port
        self.primary, self.replica = self.replica, self.primary

    def isolate(self) -> None:
        """As `fail_over`, and the old primary gets nothing from the new one: as behind a cut network."""
        with redis.Redis(port=self.primary.port) as old, redis.Redis(port=self.replica.port) as new:
            until(lambda: synced(new), "the replica to be in sync")
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", 1)
        self.proxy.target = self.replica.port
        self.primary, self.replica = self.replica, self.primary


def last_beat(worker: str, pair: Pair) -> object:
    """Return the time of a worker's last heartbeat."""
    with redis.Redis(port=pair.primary.port) as db:
        return db.hget(f"rq:worker:{worker}", "last_heartbeat")


def role(client: redis.Redis) -> bytes:
    said: Any = client.execute_command("ROLE")
    return bytes(said[0])


def online(primary: redis.Redis) -> bool:
    """Return whether a primary's replica has all its data."""
    replica = primary.info("replication").get("slave0")
    return isinstance(replica, dict) and replica["state"] == "online"


def synced(replica: redis.Redis) -> bool:
    """Return whether a replica is connected to its primary."""
    said: Any = replica.execute_command("ROLE")
    return len(said) > 3 and said[3] == b"connected"


@pytest.fixture
def pair(redis_server: RedisServer, tmp_path: Path) -> Iterator[Pair]:
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = RedisServer(folder, ("--replicaof", "127.0.0.1", str(redis_server.port)))
    replica.start()
    try:
        with contextlib.closing(Proxy(redis_server.port)) as proxy:
            yield Pair(redis_server, replica, proxy)
    finally:
        replica.stop()


def read_in_threads(speech: Any, heard: dict[str, bytes], name: str) -> threading.Thread:  # noqa: ANN401 - of a client
    thread = threading.Thread(target=lambda: heard.update({name: b"".join(chunk.pcm for chunk in speech)}))
    thread.start()
    return thread


async def read_async(client: AsyncClient, job: str) -> bytes:
    return b"".join([chunk.pcm async for chunk in client.speech(job)])


@pytest.mark.parametrize("protocol", [2, 3])
def test_jobs_go_on_after_a_failover_that_keeps_the_connections(
    pair: Pair, start_worker: StartWorker, protocol: int, db: redis.Redis
) -> None:
    url = f"{pair.url}?protocol={protocol}"
    worker = start_worker(redis_url=url)
    text = passage(1, 10)
    heard: dict[str, bytes] = {}
    with Client(url, settings=Settings()) as client:
        speech = client.enqueue(text, id="before")
        threads = [read_in_threads(speech, heard, "plain")]
        until(lambda: db.xlen(keys.audio("before")) > 3, "the speech to begin")
        pair.fail_over()
        heard["asyncio"] = asyncio.run(read_async(AsyncClient(url), "before"))
        threads[0].join()
        assert heard == {"plain": tone(text), "asyncio": tone(text)}
        assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE, priority="batch")) == tone(SENTENCE)
        pair.fail_over()  # and back
        assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
        until(lambda: worker.name in [card.name for card in client.workers()], "the worker's card")
    assert worker.process.poll() is None


def test_a_worker_hears_stop_commands_from_the_new_primary(pair: Pair, start_worker: StartWorker) -> None:
    worker = start_worker(redis_url=pair.url)
    born = last_beat(worker.name, pair)
    until(lambda: last_beat(worker.name, pair) != born, "a heartbeat: only connections that exist see the failover")
    pair.isolate()
    with redis.Redis(port=pair.primary.port) as db, Client(pair.url, settings=Settings()) as client:
        until(lambda: dict(db.pubsub_numsub(f"rq:pubsub:{worker.name}")).popitem()[1] == 1, "the subscription")
        assert client.enqueue(SENTENCE).wait().pos > 0


def test_a_clients_own_connections_are_dropped_after_a_failover(pair: Pair) -> None:
    port = int(pair.url.rpartition(":")[2].partition("/")[0])
    pool = redis.ConnectionPool(port=port, retry=Retry(NoBackoff(), 3))
    shared = redis.Redis(connection_pool=pool)
    shared.ping()  # its connection is older than voxspool's client
    with Client(settings=Settings(), redis=lambda: shared) as client:
        client.enqueue(SENTENCE, id="before")
        pair.fail_over()
        client.enqueue(SENTENCE, id="after")
        client.pause("tone")

    async def use() -> None:
        made = redis_asyncio.Redis(port=port)
        own = AsyncClient(settings=Settings(), redis=lambda: made, sync_redis=lambda: redis.Redis(port=port))
        await own.speech("after").status()
        pair.fail_over()
        await made.set("written", "yes")
        await own.close()

    asyncio.run(use())
    pool.disconnect()


def test_a_write_in_a_script_or_a_transaction_is_sent_to_the_new_primary(pair: Pair) -> None:
    with contextlib.closing(connection.connect(pair.url)) as client:
        write = client.register_script("return redis.call('INCR', KEYS[1])")
        assert write(keys=["count"]) == 1
        pair.fail_over()
        assert write(keys=["count"]) == 2
        pair.fail_over()
        with client.pipeline(transaction=True) as pipeline:
            pipeline.incr("count")
            write(keys=["count"], client=pipeline)
            assert pipeline.execute() == [3, 4]
        pair.fail_over()
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("count")
            pipeline.incr("count")
            assert pipeline.execute() == [b"4", 5]
        pair.fail_over()
        with client.pipeline(transaction=True) as pipeline:  # a replica queues a script, and refuses it when it runs
            write(keys=["count"], client=pipeline)
            pipeline.get("count")
            assert pipeline.execute() == [6, b"6"]


def test_a_client_that_only_reads_leaves_an_isolated_server(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(client: redis_asyncio.Redis) -> bytes | None:
        value: bytes | None = await client.get("a")
        return value

    async def read_twice() -> None:
        client = connection.connect_async(pair.url)
        assert await read(client) == b"new"
        await asyncio.to_thread(pair.isolate)
        with redis.Redis(port=pair.primary.port) as db:
            db.set("a", "newer")
        monkeypatch.setattr(redis_pools, "LONGEST_S", 60.0)
        assert await read(client) == b"new"
        monkeypatch.setattr(redis_pools, "LONGEST_S", 0.0)
        assert await read(client) == b"newer"
        await client.aclose()

    with contextlib.closing(connection.connect(pair.url)) as client:
        client.set("a", "old")
        pair.isolate()
        with redis.Redis(port=pair.primary.port) as db:
            db.set("a", "new")
        assert client.get("a") == b"old"  # a replica answers as long as nothing is written
        monkeypatch.setattr(redis_pools, "LONGEST_S", 0.0)
        assert client.get("a") == b"new"
        with redis.Redis(port=pair.replica.port) as old:
            old.replicaof("127.0.0.1", str(pair.primary.port))
        asyncio.run(read_twice())


def test_a_replica_that_stays_one_is_named_in_one_line(pair: Pair) -> None:
    url = pair.replica.url
    with contextlib.closing(connection.connect(url, retries=0)) as client, pytest.raises(NoPrimaryError):
        client.set("a", "b")
    with (
        contextlib.closing(connection.connect(url, retries=0)) as client,
        pytest.raises(connection.RedisUnavailableError, match=r"^Redis at .* is not the primary now \(.*\); wait"),
        connection.translated(url),
    ):
        client.set("a", "b")
