"""Fixtures that start a real redis-server and real worker processes for a test, and stop them after it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.forks import ForkedProcess, ForkServer
from tests.support.processes import DEADLINE_S, RedisServer, WorkerProcess, clean_env, server_path, until
from tests.support.proxy import Proxy
from voxspool import Client, Settings
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULE = ("-m", "voxspool_worker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)


def pytest_report_header() -> str:
    done = subprocess.run([server_path(), "--version"], capture_output=True, text=True, timeout=10, check=True)
    return f"server: {' '.join(done.stdout.split()[:3])}"


@pytest.fixture
def redis_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Start a redis-server: of the class SERVER of the test's module, if there is one.

    An indirect parameter of the test sets its options.
    """
    folder = tmp_path / "redis"
    folder.mkdir()
    server = getattr(request.module, "SERVER", RedisServer)(folder, getattr(request, "param", ()))
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


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with contextlib.closing(ForkServer()) as server:
        yield server


@pytest.fixture
def start_worker(
    redis_server: RedisServer, db: redis.Redis, tmp_path: Path, fork_server: ForkServer
) -> Iterator[Callable[..., WorkerProcess]]:
    """Return a function that starts a worker, with its log in the file `worker-N.log` of the test's folder.

    The function waits until the worker takes jobs, except with `wait=False`. A worker with the engine tone is forked,
    because a fork starts faster. It is started as a new process instead if it has another program, a variable
    PYTHON... in its environment, or `wait=False`.
    """
    started: list[WorkerProcess] = []

    def start(
        engine: str = "tone",
        *options: str,
        wait: bool = True,
        environ: dict[str, str] | None = None,
        redis_url: str = redis_server.url,
        program: tuple[str, ...] = MODULE,
    ) -> WorkerProcess:
        before = db.smembers(keys.WORKERS)
        log = tmp_path / f"worker-{len(started)}.log"
        arguments = ["run", "--engine", engine, "--redis", redis_url, *options]
        own = {"VOXSPOOL_HEALTH_DIR": str(tmp_path / "health"), "VOXSPOOL_STORE": str(tmp_path / "store")}
        own |= environ or {}
        forked = wait and engine == "tone" and program == MODULE and not any(name.startswith("PYTHON") for name in own)
        process: subprocess.Popen[str] | ForkedProcess
        if forked:
            process = fork_server.start_logged("voxspool_worker", arguments, clean_env() | own, log)
        else:
            with log.open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, *program, *arguments], stderr=out, stdout=out, text=True, env=clean_env() | own
                )
        worker = WorkerProcess(process, log)
        started.append(worker)
        if wait:
            limit_s = 120.0 if engine == "xtts" else DEADLINE_S  # importing PyTorch is slow
            until(lambda: "worker.ready" in worker.said() or process.poll() is not None, "a worker", limit_s)
            assert process.poll() is None, worker.said()
            (name,) = db.smembers(keys.WORKERS) - before
            worker.name = name.decode()
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def proxies(redis_server: RedisServer, db: redis.Redis) -> Iterator[Callable[[], Proxy]]:
    """Return a function that starts a proxy in front of the test's Redis.

    All scripts are loaded before: the first request that names a script runs it, and is not refused with NOSCRIPT.
    """
    for package in ("voxspool.lua", "voxspool_worker.lua"):
        for script in files(package).iterdir():
            if script.name.endswith(".lua"):
                db.script_load(script.read_text(encoding="utf-8"))
    with contextlib.ExitStack() as closing:
        yield lambda: closing.enter_context(contextlib.closing(Proxy(redis_server.port)))


@pytest.fixture
def run_cli(redis_server: RedisServer, fork_server: ForkServer) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Return a function that runs `voxspool` in its own process, with the test's Redis."""

    def run(*arguments: str, stdin: bytes = b"", redis_url: str | None = None) -> subprocess.CompletedProcess[bytes]:
        environ = clean_env() | {"VOXSPOOL_REDIS_URL": redis_url or redis_server.url}
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            process = fork_server.start("voxspool", arguments, environ, (given.fileno(), out.fileno(), err.fileno()))
            try:
                code = process.wait(120)
            finally:
                process.kill()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(["voxspool", *arguments], code, out.read(), err.read())

    return run
