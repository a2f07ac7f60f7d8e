"""A real redis-server and real worker processes, started for a test and gone with it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from processes import RedisServer, WorkerProcess, clean_env, until
from voxspool import Client, Settings
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis(port=redis_server.port)) as client:
        yield client


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Client]:
    with Client(settings=Settings(redis_url=redis_server.url)) as client:
        yield client


@pytest.fixture
def start_worker(redis_server: RedisServer, db: redis.Redis, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker and wait until it takes jobs. Its log stands in `worker-N.log` of the test's folder."""
    started: list[WorkerProcess] = []

    def start(
        engine: str = "tone", *options: str, wait: bool = True, environ: dict[str, str] | None = None
    ) -> WorkerProcess:
        before = db.smembers(keys.WORKERS)
        log = tmp_path / f"worker-{len(started)}.log"
        command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", engine, "--redis", redis_server.url]
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, *options],
                stderr=out,
                stdout=out,
                text=True,
                env=clean_env() | {"VOXSPOOL_HEALTH_DIR": str(tmp_path / "health")} | (environ or {}),
            )
        worker = WorkerProcess(process, log)
        started.append(worker)
        if wait:
            until(lambda: "worker.ready" in worker.said() or process.poll() is not None, "a worker")
            assert process.poll() is None, worker.said()
            (name,) = db.smembers(keys.WORKERS) - before
            worker.name = name.decode()
        return worker

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def run_cli(redis_server: RedisServer) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `voxspool …` in a process of its own, against the test's Redis."""

    def run(*arguments: str, stdin: bytes = b"", redis_url: str | None = None) -> subprocess.CompletedProcess[bytes]:
        environ = clean_env() | {"VOXSPOOL_REDIS_URL": redis_url or redis_server.url}
        command = [sys.executable, "-m", "voxspool", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, env=environ, timeout=120, check=False)

    return run
