"""The commands work and their output is readable on narrow terminals and with encodings that lack characters."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import RedisServer, clean_env, until
from tests.support.reference import SENTENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

COLUMNS = 40
BOOK = "# Лампа – 灯台\n\nThe keeper said “fine…” — naïve 灯台.\n"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ENCODINGS = [{"PYTHONIOENCODING": name} for name in ("cp1252", "ascii", "latin-1", "cp437")]
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(
    *arguments: str, redis_server: RedisServer, environ: dict[str, str], module: str = "voxspool"
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of `module` without a terminal."""
    variables = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url} | environ
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, env=variables, timeout=120, check=False)


def on_a_terminal(command: list[str], environ: dict[str, str], columns: int = COLUMNS) -> tuple[int, str]:
    """Run a command on a terminal with `columns` columns. Return the exit code and the output without escape codes."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    printed = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            printed += part
        code = process.wait(60)
    os.close(ours)
    return code, ESCAPES.sub("", printed.decode()).replace("\r\n", "\n")


@pytest.fixture
def terminal_environ(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a terminal, which does not set a width."""
    kept = {name: value for name, value in clean_env().items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    store = {"VOXSPOOL_STORE": str(tmp_path / "store")}
    return kept | store | {"VOXSPOOL_REDIS_URL": redis_server.url, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}


# Width of the terminal


@pytest.mark.parametrize("how", ["terminal", "COLUMNS"])
def test_status_is_a_list_in_40_columns(
    start_worker: StartWorker,
    client: Client,
    terminal_environ: dict[str, str],
    how: str,
) -> None:
    worker = start_worker()
    client.enqueue("Over soon.").wait()
    client.pause("batch")
    client.enqueue("Later.", priority="batch")
    running = client.enqueue(SENTENCE * 40, voice="sine-live")
    until(lambda: running.status().segments_done > 0, "the first segment")
    command = [sys.executable, "-m", "voxspool", "status"]
    if how == "terminal":
        code, printed = on_a_terminal(command, terminal_environ)
    else:
        piped = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=terminal_environ | {"COLUMNS": str(COLUMNS)},
            timeout=60,
            check=False,
        )
        code, printed = piped.returncode, piped.stdout
    running.cancel()
    assert code == 0, printed
    lines = printed.splitlines()
    for whole in (f"worker {worker.name}", f"job {running.id}", "  engine  tone", "  voice     sine-live"):
        assert whole in lines
    assert re.search(r"^voxspool-auto-batch +1 *$", printed, re.MULTILINE)
    assert [line for line in lines if len(line) > COLUMNS and "is paused" not in line] == []


def test_status_is_a_table_in_80_columns(start_worker: StartWorker, terminal_environ: dict[str, str]) -> None:
    worker = start_worker()
    _, printed = on_a_terminal([sys.executable, "-m", "voxspool", "status"], terminal_environ, columns=80)
    assert re.search(rf"^{worker.name} +tone +cpu +0/32 +0/8 +\S+ *$", printed, re.MULTILINE)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_progress_fits_the_terminal(
    start_worker: StartWorker, terminal_environ: dict[str, str], tmp_path: Path, columns: int
) -> None:
    start_worker()
    book = tmp_path / "book.md"
    book.write_text(f"# The very long title of the first chapter\n\n{SENTENCE * 3}\n\n# Two\n\n{SENTENCE}\n")
    voxspool = [sys.executable, "-m", "voxspool"]
    speak = [*voxspool, "speak", SENTENCE, "--voice", "sine-live", "-o", str(tmp_path / "a.wav")]
    narrate = [*voxspool, "narrate", str(book), "-o", str(tmp_path / "out"), "--voice", "sine-live"]
    code, printed = on_a_terminal(speak, terminal_environ, columns)
    assert code == 0, printed
    assert re.search(r"speaking .* \d+%  \d\.\d s of speech.*\d:\d\d:\d\d", printed)
    code, shown = on_a_terminal(narrate, terminal_environ, columns)
    assert code == 0, shown
    assert re.search(r"1\. The.* \d+%", shown)
    live = [line for line in re.split(r"[\r\n]", printed + shown) if "%" in line]
    assert live
    assert max(map(len, live)) <= columns


# Encoding of the output


@pytest.mark.parametrize("environ", [*ENCODINGS, C_LOCALE], ids=lambda environ: next(iter(environ.values())))
def test_no_command_fails_with_an_encoding_that_lacks_characters(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path, environ: dict[str, str]
) -> None:
    if environ is C_LOCALE and not sys.prefix.isascii():
        pytest.skip("Python itself cannot start from a path with non-ASCII characters in this locale")
    start_worker()
    book = tmp_path / "book.md"
    book.write_text(BOOK, encoding="utf-8")
    environ = environ | {"VOXSPOOL_STORE": str(tmp_path / "store")}
    for arguments in (
        ["preview", str(book)],
        ["narrate", str(book), "--plan"],
        ["narrate", str(book), "-o", str(tmp_path / "out"), "--to", "opus"],
        ["status"],
        ["voices"],
        ["--help"],
    ):
        done = run(*arguments, redis_server=redis_server, environ=environ)
        assert done.returncode == 0, (arguments, done.stderr)
        assert b"Traceback" not in done.stderr
    refused = run("speak", "hi", "--voice", "Алиса (", "-o", "a.wav", redis_server=redis_server, environ=environ)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    plan = run("narrate", str(book), "--plan", "--json", redis_server=redis_server, environ=environ)
    assert json.loads(plan.stdout.decode("ascii"))["title"] == "Лампа – 灯台"
    check = run("check", redis_server=redis_server, environ=environ, module="voxspool_worker")
    assert check.returncode in {0, 1}
    assert b"Traceback" not in check.stderr


def test_only_characters_that_the_encoding_lacks_are_escaped(redis_server: RedisServer, tmp_path: Path) -> None:
    book = tmp_path / "book.md"
    book.write_text(BOOK, encoding="utf-8")
    done = run("preview", str(book), redis_server=redis_server, environ={"PYTHONIOENCODING": "cp1252"})
    assert "said “fine…” — naïve \\u706f\\u53f0." in done.stdout.decode("cp1252")
