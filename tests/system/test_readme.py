"""The commands and the program of the README work word for word.

The pages on installation and settings name all extras, platforms and variables.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from tests.support.processes import ROOT, RedisServer, clean_env
from voxspool.protocol.environment import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def block(heading: str, language: str) -> str:
    """Return the first code block under a heading of the README."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"the README has no {language} block under {heading}"
    return found[1]


def environment(redis_server: RedisServer) -> dict[str, str]:
    """Return a user's environment, with the commands in PATH."""
    commands = str(Path(sys.executable).parent)
    environ = clean_env()
    return environ | {"VOXSPOOL_REDIS_URL": redis_server.url, "PATH": f"{commands}:{environ['PATH']}"}


def test_the_shell_commands_of_the_readme_run(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    script = "set -e\n" + block("From the shell", "sh")
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, cwd=tmp_path, env=environment(redis_server), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert soundfile.info(tmp_path / "ferry.wav").duration > 1
    assert soundfile.info(tmp_path / "ferry-2.opus").duration > 0.5


def test_the_program_of_the_readme_runs_and_has_at_most_eight_lines(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    program = README.split("```python\n", 1)[1].split("```", 1)[0]
    assert len(program.splitlines()) <= 8
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, cwd=tmp_path, env=environment(redis_server), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert b"24000 Hz" in done.stdout
    assert soundfile.info(tmp_path / "ferry.flac").duration > 1


def test_the_makefile_has_every_target_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"`make ([a-z-]+)`", README)
    assert "demo" in named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_extra_and_every_page_of_the_documentation_is_mentioned() -> None:
    for folder in ("producer", "worker"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for extra in project["optional-dependencies"]:
            assert f"`{extra}`" in INSTALL, extra
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README, page.name


def test_the_documented_platforms_are_those_of_the_lock_file() -> None:
    tool = runpy.run_path(str(ROOT / "tools/dependencies.py"))
    table = INSTALL.split("## Platforms\n\n", 1)[1].split("\n\n", 1)[0]
    heading, _, *rows = table.splitlines()
    assert [cell.strip() for cell in heading.split("|")[2:-1]] == [
        "Linux x86-64", "Linux ARM64", "macOS 14 or later, Apple silicon",
    ]  # fmt: skip
    assert len(tool["PLATFORMS"]) == 3
    oldest, newest = tool["PYTHONS"][0], tool["PYTHONS"][-1]
    assert f"Python {oldest} to {newest}" in README
    assert f"Python {oldest} to {newest}" in INSTALL
    assert len(re.findall(rf"{oldest} to {newest}", "\n".join(rows))) >= 5


def test_every_variable_is_documented_and_every_linked_file_exists() -> None:
    for variable in VARIABLES:
        assert f"`{variable}`" in SETTINGS
    for link in re.findall(r"\]\((?!https:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
