"""What the README shows is what happens: its commands and its program are run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from processes import ROOT, RedisServer, clean_env
from voxspool.protocol.environment import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str, language: str) -> str:
    """Give the first fenced block under a heading."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no {language} under {heading}"
    return found[1]


def environment(redis_server: RedisServer) -> dict[str, str]:
    commands = str(Path(sys.executable).parent)
    environ = clean_env()
    return environ | {"VOXSPOOL_REDIS_URL": redis_server.url, "PATH": f"{commands}:{environ['PATH']}"}


def test_the_shell_commands_run(redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    script = "set -e\n" + block("From the shell", "sh")
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, cwd=tmp_path, env=environment(redis_server), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert soundfile.info(tmp_path / "ferry.wav").duration > 1
    assert soundfile.info(tmp_path / "ferry-2.opus").duration > 0.5


def test_the_program_runs_and_is_eight_lines_long(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    program = block("From Python", "python")
    assert len(program.splitlines()) <= 8
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, cwd=tmp_path, env=environment(redis_server), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"24000 Hz" in done.stdout
    assert soundfile.info(tmp_path / "ferry.flac").duration > 1


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in block("Try it", "sh").splitlines():
        target = line.split()[1]
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_variable_and_every_linked_file_is_there() -> None:
    for variable in VARIABLES:
        assert f"`{variable}`" in README
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
