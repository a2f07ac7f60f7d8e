"""The URL of a service that three Sentinels watch: workers, clients and commands find its primary, before and after a
failover."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
import redis

from tests.support.processes import RedisServer, clean_env, free_port, server_path, until
from tests.support.reference import SENTENCE, passage, tone
from voxspool import AsyncClient, Client, RedisUnavailableError, Settings
from voxspool.connections import connection
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

SERVICE: Final = "speeches"
PASSWORD: Final = "s3cret/+&"
QUOTED: Final = "s3cret%2F%2B%26"
SECURED: Final = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)


@dataclass
class Watched:
    """A primary and a replica with a password, and three Sentinels with another."""

    primary: RedisServer
    replica: RedisServer
    ports: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://:{QUOTED}@{hosts}/{SERVICE}/0?sentinel_password=watch%26"

    def ask(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password="watch&")

    def knows_all(self, port: int) -> bool:
        """Return whether a Sentinel knows the replica and the two other Sentinels."""
        with contextlib.suppress(redis.RedisError), self.ask(port) as sentinel:
            state = sentinel.sentinel_master(SERVICE)
            return bool((state["num-slaves"], state["num-other-sentinels"]) == (1, 2))
        return False

    def names(self, server: RedisServer) -> bool:
        """Return whether all Sentinels name a server as the primary."""
        named = []
        for port in self.ports:
            with self.ask(port) as sentinel:
                named.append(sentinel.sentinel_get_master_addr_by_name(SERVICE)[1])
        return named == [server.port] * len(self.ports)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Start the primary; the fixtures that start workers ask it for their cards."""
    folder = tmp_path / "primary"
    folder.mkdir()
    server = RedisServer(folder, SECURED)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_server.port, password=PASSWORD) as client:
        yield client


@pytest.fixture
def watched(redis_server: RedisServer, tmp_path: Path) -> Iterator[Watched]:
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = RedisServer(folder, (*SECURED, "--replicaof", "127.0.0.1", str(redis_server.port)))
    with contextlib.ExitStack() as stack:
        replica.start()
        stack.callback(replica.stop)
        found = Watched(redis_server, replica, [free_port() for _ in range(3)])
        for port in found.ports:
            stack.enter_context(sentinel_on(port, redis_server.port, tmp_path))
        until(lambda: all(found.knows_all(port) for port in found.ports), "the Sentinels to know each other", 60)
        yield found


@contextlib.contextmanager
def sentinel_on(port: int, primary: int, folder: Path) -> Iterator[None]:
    """Run a Sentinel that takes a primary for dead after a second; skip if the server has no Sentinel mode."""
    config = folder / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass watch&\nsentinel sentinel-pass watch&\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 4000\n"
    )
    with (folder / f"sentinel-{port}.log").open("wb") as log:
        process = subprocess.Popen([str(server_path()), str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or listens(port), "a Sentinel")
        if process.poll() is not None:
            pytest.skip(f"this server has no Sentinel: {(folder / f'sentinel-{port}.log').read_text()[-200:]}")
        yield
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port, password="watch&", retry=None) as sentinel:
        return bool(sentinel.ping())
    return False


async def speak_async(url: str, job: str) -> bytes:
    client = AsyncClient(settings=Settings(redis_url=url))
    try:
        speech = await client.enqueue(SENTENCE, id=job)
        return b"".join([chunk.pcm async for chunk in speech])
    finally:
        await client.close()


def check_all(url: str, run_cli: RunCli, tmp_path: Path, name: str) -> None:
    """Speak with a client, an asyncio client and a command."""
    with Client(url, settings=Settings()) as client:
        assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE, id=f"{name}-plain")) == tone(SENTENCE)
    assert asyncio.run(speak_async(url, f"{name}-asyncio")) == tone(SENTENCE)
    file = tmp_path / f"{name}.wav"
    done = run_cli("speak", "--engine", "tone", "-o", str(file), SENTENCE, redis_url=url)
    assert (done.returncode, file.exists()) == (0, True), done.stderr


def test_everything_follows_a_service_through_a_failover(
    watched: Watched, start_worker: StartWorker, run_cli: RunCli, tmp_path: Path, db: redis.Redis
) -> None:
    url = watched.url
    worker = start_worker(redis_url=url)
    check_all(url, run_cli, tmp_path, "before")
    command = [sys.executable, "-m", "voxspool_worker", "check", "--engine", "tone"]
    environ = clean_env() | {"VOXSPOOL_REDIS_URL": url}
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert checked.returncode == 0, checked.stdout
    assert "s3cret" not in checked.stdout
    assert "watch" not in checked.stdout

    heard: list[bytes] = []
    text = passage(1, 4)
    with Client(url, settings=Settings()) as client:
        speech = client.enqueue(text, id="through", voice="sine-live")
        reader = threading.Thread(target=lambda: heard.extend(chunk.pcm for chunk in speech))
        reader.start()
        until(lambda: db.xlen(keys.audio("through")) > 3, "the speech to begin")
        db.wait(1, 1000)
        with watched.ask(watched.ports[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
        until(lambda: watched.names(watched.replica), "a failover", 60)
        reader.join()
        assert b"".join(heard) == tone(text, speed=1.0)
    check_all(url, run_cli, tmp_path, "after")

    until(lambda: watched.knows_all(watched.ports[0]), "the old primary to be a replica", 60)
    watched.replica.stop()  # the primary dies, and the old one takes over again
    until(lambda: watched.names(watched.primary), "a second failover", 60)
    check_all(url, run_cli, tmp_path, "again")
    assert worker.process.poll() is None


def test_wrong_names_and_passwords_of_sentinels_are_one_line(watched: Watched) -> None:
    with pytest.raises(RedisUnavailableError, match=r"no Sentinel names a primary for .*/music"):
        connection.check(watched.url.replace(SERVICE, "music"))
    with pytest.raises(RedisUnavailableError) as caught:
        connection.check(watched.url.replace("sentinel_password=watch%26", "sentinel_password=hunter2"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(RedisUnavailableError, match=r"cannot be used: it is a Sentinel; write redis\+sentinel://"):
        connection.check(f"redis://:watch%26@127.0.0.1:{watched.ports[0]}")


def test_a_sentinel_that_is_away_is_passed_over(watched: Watched) -> None:
    watched.ports.insert(0, free_port())
    with Client(watched.url, settings=Settings()) as client:
        assert client.workers() == []
