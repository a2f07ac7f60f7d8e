"""Deployments with name spaces on one Redis do not meet: jobs, workers, voices, pauses, commands, RQ's tools."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
import soundfile
from redis import asyncio as redis_asyncio

from tests.support.acl import PLAIN, PRECISE, GuardedRedis, denials
from tests.support.processes import ROOT, clean_env, until
from tests.support.reference import SENTENCE, passage, tone
from voxspool import AsyncClient, Client, RedisError, Settings, SettingsError, UnknownJobError
from voxspool.connections import connection
from voxspool.protocol import keys
from voxspool.queue import ending
from voxspool_worker import lua

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.processes import RedisServer, WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

NAMES = ("", "a", "b")
"""The name spaces of three deployments; the first has none."""


@pytest.fixture
def clients(redis_server: RedisServer) -> Iterator[dict[str, Client]]:
    found = {name: Client(settings=Settings(redis_url=redis_server.url, namespace=name)) for name in NAMES}
    yield found
    for client in found.values():
        client.close()


@pytest.fixture
def workers(start_worker: StartWorker, redis_server: RedisServer, clients: dict[str, Client]) -> dict[str, str]:
    """Start a worker for each deployment; return their names."""
    del redis_server
    for name in NAMES:
        start_worker(environ={"VOXSPOOL_NAMESPACE": name}, wait=name == "")
    for name in NAMES:
        until(lambda name=name: len(clients[name].workers()) == 1, f"the worker of {name!r}", 60)
    return {name: clients[name].workers()[0].name for name in NAMES}


def heard(speech: Any) -> bytes:  # noqa: ANN401 - of any client
    return b"".join(chunk.pcm for chunk in speech)


async def heard_async(url: str, name: str, job: str) -> bytes:
    client = AsyncClient(settings=Settings(redis_url=url, namespace=name))
    try:
        speech = await client.enqueue(passage(7, 1), id=job)
        return b"".join([chunk.pcm async for chunk in speech])
    finally:
        await client.close()


def test_deployments_do_not_meet(
    clients: dict[str, Client], workers: dict[str, str], db: redis.Redis, redis_server: RedisServer
) -> None:
    assert len(set(workers.values())) == len(NAMES)
    texts = {name: passage(number, 2) for number, name in enumerate(NAMES)}
    speeches = {name: clients[name].enqueue(texts[name], id="mine", live_s=60) for name in NAMES}
    for name in NAMES:  # the same id three times
        assert heard(speeches[name]) == tone(texts[name])
        state = speeches[name].status()
        assert (state.state, state.worker) == ("ended", workers[name])
        assert asyncio.run(heard_async(redis_server.url, name, "asyncio")) == tone(passage(7, 1))

    clients["a"].pause()
    waiting = clients["a"].enqueue(SENTENCE, id="paused")
    assert heard(clients["b"].enqueue(SENTENCE)) == tone(SENTENCE)
    assert clients["b"].paused() == clients[""].paused() == []
    assert waiting.status().state == "queued"
    assert clients["a"].overview().queues == {"voxspool-auto-interactive": 1}
    assert clients["b"].overview().queues == {}
    with pytest.raises(UnknownJobError):
        clients["b"].speech("paused").status()
    clients["a"].resume()
    assert heard(waiting) == tone(SENTENCE)

    clients["a"].add_voice("alice", [clip()])
    assert list(clients["a"].cloned_voices()) == ["alice"]
    assert clients["b"].cloned_voices() == clients[""].cloned_voices() == {}

    starts = re.compile(rb"^(?:a:|b:)?(?:rq|voxspool):")
    found = {bytes(key) for key in db.scan_iter()}
    assert [key for key in found if not starts.match(key)] == []
    assert db.smembers("a:rq:workers") == {f"a:rq:worker:{workers['a']}".encode()}
    assert db.smembers("rq:workers") == {f"rq:worker:{workers['']}".encode()}


def clip() -> bytes:
    """Return a recording that a voice can be cloned from."""
    made = io.BytesIO()
    samples = (np.sin(np.arange(24_000 * 4) / 20) * 8_000).astype(np.int16)
    soundfile.write(made, samples, 24_000, format="FLAC")
    return made.getvalue()


def test_running_jobs_are_stopped_in_their_own_name_space(clients: dict[str, Client], workers: dict[str, str]) -> None:
    del workers
    for name in ("a", "b"):
        clients[name].enqueue(passage(1, 20), id="long", voice="sine-live")
        until(lambda name=name: clients[name].speech("long").status().state == "running", "the speech to begin")
    assert clients["a"].speech("long").cancel() == "asked"
    until(lambda: clients["a"].speech("long").status().state == "cancelled", "the stop")
    assert clients["b"].speech("long").status().state == "running"


def test_a_job_of_a_dead_worker_is_recovered_in_its_name_space(
    clients: dict[str, Client], start_worker: StartWorker
) -> None:
    first = start_worker(environ={"VOXSPOOL_NAMESPACE": "a"}, wait=False)
    start_worker(environ={"VOXSPOOL_NAMESPACE": "b"}, wait=False)
    until(lambda: clients["a"].workers() and clients["b"].workers(), "the workers", 60)
    text = passage(1, 3)
    speech = clients["a"].enqueue(text, voice="sine-live")
    until(lambda: speech.status().spoken_s > 0.5, "the speech to begin")
    first.kill()
    start_worker(environ={"VOXSPOOL_NAMESPACE": "a"}, wait=False)
    assert heard(speech) == tone(text)


def test_a_book_is_narrated_in_a_name_space(
    clients: dict[str, Client], workers: dict[str, str], redis_server: RedisServer, tmp_path: Path, db: redis.Redis
) -> None:
    del workers, clients
    book = tmp_path / "book.txt"
    book.write_text(f"{passage(1, 2)}\n\n{passage(2, 2)}")
    environ = clean_env() | {
        "VOXSPOOL_NAMESPACE": "a", "VOXSPOOL_REDIS_URL": redis_server.url, "VOXSPOOL_STORE": str(tmp_path / "store"),
    }  # fmt: skip
    command = [sys.executable, "-m", "voxspool", "narrate", str(book), "--engine", "tone", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "out").iterdir())
    assert list(db.scan_iter("voxspool:*narrat*")) == []


def test_rqs_tools_show_a_name_space_by_its_prefix(
    clients: dict[str, Client], workers: dict[str, str], redis_server: RedisServer
) -> None:
    clients["a"].pause()
    clients["a"].enqueue(SENTENCE, engine="tone")
    rq = Path(sys.executable).parent / "rq"
    for prefix, name, jobs in (("rq", "", 0), ("a:rq", "a", 1)):
        done = subprocess.run(
            [str(rq), "info", "--raw", "-u", redis_server.url], capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"RQ_KEY_PREFIX": prefix},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert workers[name] in done.stdout
        assert not any(other in done.stdout for other in workers.values() if other != workers[name])
        if jobs:
            assert re.search(rf"voxspool-tone-interactive\D+{jobs}\b", done.stdout)


def test_scripts_name_no_key_outside_their_name_space(redis_server: RedisServer) -> None:
    client = connection.connect(redis_server.url, namespace="a")
    for file in (ROOT / "worker" / "voxspool_worker" / "lua").glob("*.lua"):
        assert not re.search(r"""(?<!a:)\b(?:rq|voxspool):""", code_of(lua.load(client, file.stem).script)), file.name
    for file in (ROOT / "producer" / "voxspool" / "lua").glob("*.lua"):
        assert not re.search(r"""(?<!a:)\b(?:rq|voxspool):""", code_of(ending.script(client, file.stem).script)), file
    client.close()


def code_of(script: Any) -> str:  # noqa: ANN401 - redis-py's Script keeps a text or bytes
    """Return a Lua script without its comments."""
    text = script.decode() if isinstance(script, bytes) else script
    return "\n".join(line.partition("--")[0] for line in text.splitlines())


def test_a_pool_of_the_programs_own_has_one_name_space(redis_server: RedisServer, db: redis.Redis) -> None:
    pool = redis.ConnectionPool(port=redis_server.port)
    settings = Settings(namespace="a")
    with Client(settings=settings, redis=lambda: redis.Redis(connection_pool=pool)) as client:
        client.enqueue(SENTENCE, id="mine")
        assert db.exists("a:rq:job:mine")
        Client(settings=settings, redis=lambda: redis.Redis(connection_pool=pool))
        with pytest.raises(RedisError, match="shares its pool with a client of the name space a; make a pool for each"):
            Client(settings=Settings(), redis=lambda: redis.Redis(connection_pool=pool))

    async def use() -> None:
        made = AsyncClient(
            settings=settings,
            redis=lambda: redis_asyncio.Redis(port=redis_server.port),
            sync_redis=lambda: redis.Redis(port=redis_server.port),
        )
        assert (await made.speech("mine").status()).state == "queued"
        await made.close()

    asyncio.run(use())
    pool.disconnect()


@pytest.mark.parametrize("name", ["a:b", "a b", "rq", "voxspool", "ä", "*", "a" * 41])
def test_a_name_that_cannot_be_a_name_space_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"VOXSPOOL_NAMESPACE is .*; it must be 1 to 40 letters"):
        Settings.from_env({"VOXSPOOL_NAMESPACE": name})
    with pytest.raises(SettingsError):
        Settings(namespace=name)


def test_rqs_prefix_may_be_that_of_the_name_space() -> None:
    assert Settings.from_env({"VOXSPOOL_NAMESPACE": "a", "RQ_KEY_PREFIX": "a:rq"}).namespace == "a"
    for environ in ({"RQ_KEY_PREFIX": "a:rq"}, {"VOXSPOOL_NAMESPACE": "a", "RQ_KEY_PREFIX": "b:rq"}):
        with pytest.raises(SettingsError, match="RQ_KEY_PREFIX"):
            Settings.from_env(environ)


@pytest.mark.parametrize("file", [PLAIN, PRECISE], ids=lambda file: file.name)
def test_the_documented_command_makes_users_of_a_name_space(
    file: Path, tmp_path: Path, redis_server: RedisServer, start_worker: StartWorker
) -> None:
    with redis.Redis(port=redis_server.port) as any_server:
        if file == PRECISE and str(any_server.info("server")["redis_version"]).startswith("6."):
            pytest.skip("this redis-server is older than 7 and has no read-only key permissions")
    docs = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(sed -nE .*?)```", docs, re.DOTALL)
    command = command.replace("NAME", "a").replace(PRECISE.name, str(file))
    lines = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=30, check=True).stdout
    lines = re.sub(r"#CHANGE-(a-\w+) ", lambda found: f"#{hashlib.sha256(found[1].encode()).hexdigest()} ", lines)
    both = tmp_path / "both.acl"
    both.write_text(f"{file.read_text(encoding='utf-8').rstrip()}\n{lines}", encoding="utf-8")
    folder = tmp_path / "guarded"
    folder.mkdir()
    server = GuardedRedis(folder, file=both)
    server.start()
    try:
        place = f"127.0.0.1:{server.port}/0"
        environ = {"VOXSPOOL_NAMESPACE": "a"}
        start_worker(environ=environ, redis_url=f"redis://a-worker:a-worker@{place}", wait=False)
        settings = Settings(redis_url=f"redis://a-producer:a-producer@{place}", namespace="a")
        with Client(settings=settings) as client, server.raw("admin") as admin:
            until(client.workers, "the worker", 60)
            admin.execute_command("ACL", "LOG", "RESET")
            assert heard(client.enqueue(SENTENCE, id="mine", live_s=60)) == tone(SENTENCE)
            client.add_voice("alice", [clip()])
            running = client.enqueue(passage(1, 20), voice="sine-live")
            until(lambda: running.status().state == "running", "the speech to begin")
            assert running.cancel() == "asked"
            until(lambda: running.status().state == "cancelled", "the stop")
            assert denials(admin) == []
        for user, key in (("a-producer", "rq:job:mine"), ("producer", "a:rq:job:mine"), ("producer", keys.WORKERS)):
            password = server.passwords.get(user, user).replace("/", "%2F").replace("+", "%2B")
            with redis.Redis.from_url(f"redis://{user}:{password}@{place}") as other:
                allowed = contextlib.nullcontext() if key == keys.WORKERS else pytest.raises(redis.ResponseError)
                with allowed:
                    other.exists(key)
    finally:
        server.stop()
