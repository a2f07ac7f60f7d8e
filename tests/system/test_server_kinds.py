"""Redis servers as people run them: hosted ones that say little, forks, full ones, clusters, and options in a URL."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
import redis
from redis import asyncio as redis_asyncio

from tests.support.processes import RedisServer, clean_env, until
from tests.support.proxy import Link, Proxy
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Client, EvictionWarning, RedisUnavailableError, Settings
from voxspool.connections import connection
from voxspool.protocol import keys
from voxspool.queue import enqueuer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

VERSION = re.compile(rb"([$=])(\d+)\r\n((?:txt:)?# Server\r\n.*?redis_version:)([^\r]*)\r\n", re.DOTALL)


class RewritingProxy(Proxy):
    """Changes what the server says of itself in INFO."""

    def __init__(self, port: int, version: bytes | None = None, fields: tuple[bytes, ...] = ()) -> None:
        self.version = version
        self.fields = fields
        super().__init__(port)

    def _answer(self, link: Link, data: bytes) -> None:
        for field in self.fields:
            data = data.replace(field, b"x" * len(field))
        if self.version is not None:
            data = VERSION.sub(self._named, data)
        super()._answer(link, data)

    def _named(self, found: re.Match[bytes]) -> bytes:
        version = self.version or b""
        length = int(found[2]) + len(version) - len(found[4])
        return b"%b%d\r\n%b%b\r\n" % (found[1], length, found[3], version)


def worker_check(url: str) -> subprocess.CompletedProcess[str]:
    """Run `voxspool-worker check` with the engine tone."""
    command = [sys.executable, "-m", "voxspool_worker", "check", "--engine", "tone", "--redis", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=clean_env())


async def speak_async(url: str, job: str) -> bytes:
    client = AsyncClient(url)
    try:
        speech = await client.enqueue(SENTENCE, id=job)
        return b"".join([chunk.pcm async for chunk in speech])
    finally:
        await client.close()


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the only line that a command wrote to stderr."""
    (line,) = done.stderr.decode().strip().splitlines()
    return line


# What a server says of itself


@pytest.mark.parametrize("version", [b"v7.2.0", b"7.4-rc1", b"unstable", b"", b"255.255.255-dev"])
def test_any_version_that_is_not_too_old_is_accepted(
    redis_server: RedisServer, start_worker: StartWorker, run_cli: RunCli, version: bytes
) -> None:
    with contextlib.closing(RewritingProxy(redis_server.port, version)) as proxy:
        with redis.Redis.from_url(proxy.url) as plain:
            assert str(plain.info("server")["redis_version"]) == version.decode()
        start_worker(redis_url=proxy.url)
        with Client(proxy.url, settings=Settings()) as client:
            assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
        assert asyncio.run(speak_async(proxy.url, "asyncio")) == tone(SENTENCE)
        assert run_cli("enqueue", "--job-id", "mine", SENTENCE, redis_url=proxy.url).returncode == 0


def test_a_server_that_says_little_is_accepted(redis_server: RedisServer, start_worker: StartWorker) -> None:
    hidden = (b"redis_version:", b"maxmemory:", b"maxmemory_policy:", b"used_memory:", b"avg_ttl")
    with contextlib.closing(RewritingProxy(redis_server.port, fields=hidden)) as proxy:
        assert connection.check(proxy.url) == "of an unknown version"
        start_worker(redis_url=proxy.url)
        with Client(proxy.url, settings=Settings()) as client:
            assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
            assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)  # keys with a TTL exist


@pytest.mark.parametrize("redis_server", [("--rename-command", "INFO", "")], indirect=True, ids=["without INFO"])
def test_a_producer_needs_no_info(redis_server: RedisServer) -> None:
    with Client(redis_server.url, settings=Settings()) as client:
        assert client.enqueue(SENTENCE).status().state == "queued"


# Options of the URL

HARMLESS = (
    "decode_responses=True", "encoding=utf-16", "max_connections=1", "retry_on_timeout=True", "retry_on_error=x",
    "health_check_interval=1", "protocol=2", "protocol=3", "socket_keepalive=True", "socket_timeout=3",
    "socket_connect_timeout=2", "client_name=mine", "db=0", "legacy_responses=False", "socket_read_size=100",
)  # fmt: skip


def test_options_of_a_url_do_no_harm(redis_server: RedisServer, start_worker: StartWorker, run_cli: RunCli) -> None:
    combined = "&".join(option for option in HARMLESS if option != "protocol=2")
    start_worker(redis_url=f"{redis_server.url}?{combined}")
    for option in HARMLESS:
        url = f"{redis_server.url}?{option}"
        with Client(url, settings=Settings()) as client:
            assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE), option
            assert len(client.workers()) == 1
            assert client.overview().workers
        assert asyncio.run(speak_async(url, option.replace("=", "-"))) == tone(SENTENCE), option
    assert run_cli("status", redis_url=f"{redis_server.url}?{combined}").returncode == 0


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("?socket_timeout=0.1", "its option socket_timeout is 0.1; it must be 2 to 86400, since a reader lets"),
        ("?socket_timeout=nan", "its option socket_timeout is nan; it must be 2 to"),
        ("?socket_timeout=inf", "its option socket_timeout is inf; it must be 2 to"),
        ("?socket_connect_timeout=0", "its option socket_connect_timeout is 0; it must be 0.001 to"),
        ("?health_check_interval=-1", "its option health_check_interval is -1; it must be 0 to"),
        ("?protocol=4", "its option protocol is 4; it must be 2 to 3"),
        ("?db=-1", "its option db is -1; it must be 0 to"),
        ("?db=abc", "write it like redis://localhost:6379/0"),
        ("/abc", "its path must be the number of a database, such as /0"),
        ("?ssl_cert_reqs=none", "its option ssl_cert_reqs is for TLS; write rediss:// for redis://"),
        ("?timeout=5", "its option timeout cannot be used; docs/settings.md lists those that can"),
        ("?connection_class=x", "write it like redis://localhost:6379/0"),
        ("?nonsense=1", "its option nonsense cannot be used"),
        ("?credential_provider=x", "its option credential_provider cannot be used"),
    ],
)
def test_an_option_that_cannot_work_is_named_in_one_line(run_cli: RunCli, rest: str, why: str) -> None:
    url = f"redis://localhost{rest}"
    for connect in (connection.connect, connection.connect_async):
        with pytest.raises(RedisUnavailableError) as caught:
            connect(url)
        assert why in str(caught.value)
        assert caught.value.wrong_value
        assert "\n" not in str(caught.value)
    done = run_cli("status", redis_url=url)
    assert (done.returncode, why in one_line(done)) == (2, True)


# Full, and too full


@pytest.mark.parametrize("redis_server", [("--maxclients", "6")], indirect=True)
def test_a_server_without_room_for_another_connection_says_so(redis_server: RedisServer, run_cli: RunCli) -> None:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(redis_server.url, settings=Settings()))
        client.workers()
        db = stack.enter_context(redis.Redis(port=redis_server.port))
        until(lambda: len(db.client_list()) == 2, "the connection of the first answer to be closed")
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", redis_server.port)))
        until(lambda: len(db.client_list()) == 6, "all connections")
        said = (
            rf"^Redis at {redis_server.url} accepts no more connections \(max number of clients reached; "
            r"\d+ of them are of this process\); raise its maxclients, or end programs that hold connections$"
        )
        with pytest.raises(RedisUnavailableError, match=said):
            connection.check(redis_server.url)
        with pytest.raises(RedisUnavailableError, match=said), Client(redis_server.url, settings=Settings()) as other:
            other.workers()
        with pytest.raises(RedisUnavailableError, match=said):
            asyncio.run(speak_async(redis_server.url, "mine"))
        assert "accepts no more connections" in one_line(run_cli("status"))
        assert connection.redis_pools.open_connections() >= 1
        client.workers()


@pytest.fixture
def not_warned() -> Iterator[None]:
    enqueuer._eviction_reported.clear()
    yield
    enqueuer._eviction_reported.set()


POLICIES = ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl"]


@pytest.mark.usefixtures("not_warned")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_that_evicts_keys_is_named_to_producers_once(
    redis_server: RedisServer, db: redis.Redis, run_cli: RunCli, policy: str
) -> None:
    db.config_set("maxmemory-policy", policy)
    with Client(redis_server.url, settings=Settings()) as client:
        with pytest.warns(
            EvictionWarning, match=rf"has the maxmemory-policy {policy}: .* set it to noeviction:"
        ) as given:
            client.enqueue(SENTENCE)
        assert given[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client.enqueue(SENTENCE)
    done = run_cli("enqueue", SENTENCE)
    assert done.returncode == 0
    warned = f"\nwarning: Redis at redis://127.0.0.1:{redis_server.port}/0 has the maxmemory-policy {policy}: "
    assert f"\n{done.stderr.decode()}".count(warned) == 1


def test_a_policy_that_evicts_keys_is_named_by_the_worker(
    redis_server: RedisServer, db: redis.Redis, start_worker: StartWorker
) -> None:
    assert "note  redis " not in worker_check(redis_server.url).stdout
    db.config_set("maxmemory-policy", "allkeys-lru")
    assert "redis.evicts why=Redis at" in start_worker().said()
    done = worker_check(redis_server.url)
    assert done.returncode == 0
    assert "note  redis     Redis at redis://127.0.0.1" in done.stdout
    assert "maxmemory-policy allkeys-lru" in done.stdout


def test_keys_of_running_jobs_have_a_lifetime_so_a_volatile_policy_can_evict_them(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 20, voice="sine-live")
    assert db.ttl(f"rq:job:{speech.id}") == -1
    until(lambda: db.xlen(keys.audio(speech.id)) > 1, "the speech to begin")
    until(lambda: db.ttl(keys.audio(speech.id)) > 0 and db.ttl(keys.control(speech.id)) > 0, "a heartbeat")
    assert speech.status().state == "running"


# A cluster


@pytest.mark.parametrize("redis_server", [("--cluster-enabled", "yes")], indirect=True, ids=["cluster"])
def test_a_cluster_is_refused_in_one_line(redis_server: RedisServer, db: redis.Redis, run_cli: RunCli) -> None:
    said = rf"^Redis at {redis_server.url}.* cannot be used: it is a Redis Cluster, which voxspool does not support; "
    for slots in (False, True):
        if slots:
            db.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            until(lambda: b"cluster_state:ok" in bytes(db.execute_command("CLUSTER", "INFO")), "the cluster")
        with Client(redis_server.url, settings=Settings()) as client, pytest.raises(RedisUnavailableError, match=said):
            client.workers()
        with pytest.raises(RedisUnavailableError, match=said):
            asyncio.run(speak_async(redis_server.url, "mine"))
        own = Client(settings=Settings(), redis=lambda: redis.Redis("127.0.0.1", redis_server.port))
        with own as client, pytest.raises(RedisUnavailableError, match=said):
            client.enqueue(SENTENCE)
        older = f"{redis_server.url}?protocol=2"
        with Client(older, settings=Settings()) as client, pytest.raises(RedisUnavailableError, match="Redis Cluster"):
            client.enqueue(SENTENCE)
        for url in (redis_server.url, older):
            with pytest.raises(RedisUnavailableError, match="Redis Cluster"):
                connection.check(url)
    done = run_cli("enqueue", SENTENCE)
    assert (done.returncode, "Redis Cluster" in one_line(done)) == (1, True)
    checked = worker_check(redis_server.url)
    assert checked.returncode == 1
    assert re.search(
        r"^MISS  redis     Redis at .* cannot be used: it is a Redis Cluster", checked.stdout, re.MULTILINE
    )


# Connections


def held(name: str, db: redis.Redis) -> int:
    """Return the number of connections with a client name."""
    return sum(one["name"] == name for one in db.client_list())


def test_an_idle_worker_and_a_reader_hold_few_connections(
    redis_server: RedisServer, db: redis.Redis, start_worker: StartWorker
) -> None:
    """docs/operations.md states these numbers."""
    start_worker(redis_url=f"{redis_server.url}?client_name=worker")
    with Client(f"{redis_server.url}?client_name=reader", settings=Settings()) as client:
        speech = client.enqueue(SENTENCE)
        assert speech.wait().pos > 0
        assert held("reader", db) == 1
    beats = {db.hget(key, "last_heartbeat") for key in db.scan_iter("rq:worker:*") if db.type(key) == b"hash"}

    def beat_twice() -> bool:
        beats.update(db.hget(key, "last_heartbeat") for key in db.scan_iter("rq:worker:*") if db.type(key) == b"hash")
        return len(beats) > 2

    until(beat_twice, "two heartbeats of the idle worker")
    assert held("worker", db) <= 6
    until(lambda: held("worker", db) <= 5, "the connections that the start needed to be closed", 30)


def test_each_asyncio_reader_holds_one_connection(redis_server: RedisServer, db: redis.Redis) -> None:
    async def use() -> None:
        made = redis_asyncio.Redis(port=redis_server.port, client_name="reader")
        client = AsyncClient(
            settings=Settings(), redis=lambda: made, sync_redis=lambda: redis.Redis(port=redis_server.port)
        )
        speeches = [await client.enqueue(SENTENCE, id=f"job-{number}") for number in range(3)]
        tasks = [asyncio.ensure_future(speech.wait()) for speech in speeches]
        await asyncio.to_thread(until, lambda: held("reader", db) == 3, "three connections")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()

    asyncio.run(use())
