"""Both distributions are built as for a package index, have the right contents, and run in a fresh environment."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tests.support.shared import made_once

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

SIDES = {"producer": "voxspool", "worker": "voxspool_worker"}
LICENCE = (ROOT / "LICENSE").read_bytes()
TOOLS = ("build", "hatchling", "twine")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command that must succeed, and return its output."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build each source distribution, and each wheel from its source distribution; return their folder."""
    if lacking := [tool for tool in TOOLS if importlib.util.find_spec(tool) is None]:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{', '.join(lacking)} not installed")

    def build(folder: Path) -> None:
        for side in SIDES:
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT / side)

    return made_once(tmp_path_factory, "dist", build)


def wheel(built: Path, side: str) -> Path:
    """Return the wheel of a distribution."""
    (found,) = built.glob(f"{SIDES[side]}-[0-9]*.whl")
    return found


def source(built: Path, side: str) -> Path:
    """Return the source distribution."""
    (found,) = built.glob(f"{SIDES[side]}-[0-9]*.tar.gz")
    return found


def metadata(built: Path, side: str) -> Message:
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel(built, side)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_twine_accepts_every_distribution(built: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))
    assert said.count("PASSED") == 4


@pytest.mark.parametrize("side", SIDES)
def test_wheel_and_source_distribution_contain_the_licence(side: str, built: Path) -> None:
    assert (ROOT / side / "LICENSE").read_bytes() == LICENCE
    with zipfile.ZipFile(wheel(built, side)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        assert archive.read(name) == LICENCE
    with tarfile.open(source(built, side)) as archive:
        (member,) = [member for member in archive.getmembers() if member.name.endswith("/LICENSE")]
        file = archive.extractfile(member)
        assert file
        assert file.read() == LICENCE


@pytest.mark.parametrize("side", SIDES)
def test_wheel_and_source_distribution_contain_the_package_and_no_other_files(side: str, built: Path) -> None:
    package = SIDES[side]
    wanted = {
        str(path.relative_to(ROOT / side))
        for path in (ROOT / side / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel(built, side)) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == wanted
    with tarfile.open(source(built, side)) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names - wanted == {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"} | names & {".gitignore"}
    assert wanted <= names


@pytest.mark.parametrize("side", SIDES)
def test_the_metadata_names_licence_author_pythons_and_keywords(side: str, built: Path) -> None:
    said = metadata(built, side)
    assert (said["License-Expression"], said["Author"]) == ("Apache-2.0", "voxspool contributors")
    assert said["Requires-Python"] == ">=3.11"
    assert "text-to-speech" in said["Keywords"]
    classifiers = said.get_all("Classifier") or []
    pythons = [one.rpartition(" ")[2] for one in classifiers if re.search(r":: 3\.\d+$", one)]
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert not [one for one in classifiers if one.startswith("License")], (
        "an index refuses licence classifiers beside a licence expression"
    )
    page = str(said.get_payload())
    assert page.startswith(f"# {said['Name']}\n")
    assert not re.search(r"\]\((?!https://)", page), "a relative link does not work on the page of an index"


@pytest.mark.parametrize("side", SIDES)
def test_the_readme_of_a_package_names_each_extra(side: str) -> None:
    project = tomllib.loads((ROOT / side / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / side / "README.md").read_text(encoding="utf-8")
    assert {extra for extra in project["optional-dependencies"] if f"`{extra}`" not in page} == set()


def test_the_wheels_run_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # the dependencies of both distributions
    wheels = [wheel(built, side) for side in SIDES]
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", *wheels)
    version = tomllib.loads((ROOT / "producer" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for program in ("voxspool", "voxspool-worker"):
        assert run(home / "bin" / program, "--version", cwd=tmp_path).strip().endswith(version)
    where = run(
        python, "-c", "import voxspool, voxspool_worker as w; print(voxspool.__file__, w.__file__)", cwd=tmp_path
    )
    assert all(str(home) in path for path in where.split())
    (tmp_path / "book.md").write_text("# One\n\nThe keeper counted every lamp.\n")
    assert "keeper" in run(home / "bin" / "voxspool", "preview", "book.md", cwd=tmp_path)
