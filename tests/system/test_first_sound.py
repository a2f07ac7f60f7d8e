"""The first steps of a new user: the README's install line in a bare environment, then the first speech."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.support import bare
from tests.support.processes import skip_if_a_redis_is_running

if TYPE_CHECKING:
    from pathlib import Path

HELLO = 'voxspool speak "Hello."'


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13", "3.14"])
def commands(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of commands of a bare environment, for each Python that is on this machine."""
    return bare.environment(tmp_path_factory, request.param)


@pytest.fixture
def environ(commands: Path, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a new user's shell in which the environment is activated."""
    skip_if_a_redis_is_running()
    return {"HOME": str(tmp_path), "PATH": f"{commands}:/usr/bin:/bin", "SHELL": "/bin/bash"}


def run(line: str, folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", line]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)


def test_after_the_readmes_install_line_the_first_command_is_heard(environ: dict[str, str], tmp_path: Path) -> None:
    assert HELLO in bare.README.read_text(encoding="utf-8")
    variables, heard = bare.loudspeaker(tmp_path)
    done = run(HELLO, tmp_path, environ | variables)
    assert done.returncode == 0, done.stderr
    samples = np.fromfile(heard, "<i2")
    assert len(samples) > 0.3 * 22_050
    assert np.abs(samples).max() > 3_000, "the audio is not silence"


def test_without_a_loudspeaker_one_line_shows_the_option_that_writes_a_file(
    environ: dict[str, str], tmp_path: Path
) -> None:
    no_device = bare.no_loudspeaker(tmp_path)
    done = run(HELLO, tmp_path, environ | no_device)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("write a file instead: -o hello.wav")
    written = run(f"{HELLO} -o hello.wav", tmp_path, environ | no_device)
    assert written.returncode == 0, written.stderr
    assert soundfile.info(tmp_path / "hello.wav").duration > 0.3


def test_the_demo_writes_a_file_and_prints_next_steps_that_work(
    commands: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    off_path = environ | bare.no_loudspeaker(tmp_path) | {"PATH": "/usr/bin:/bin"}
    done = run(f"{commands / 'voxspool'} demo --engine tone", tmp_path, off_path)
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "demo.wav").duration > 10
    _, steps = done.stderr.split("\nNext steps:\n")
    assert "demo.wav" in steps
    activate, speak = steps.splitlines()[-2:]
    assert re.split(r" {3,}", activate.strip()) == [f"source {commands / 'activate'}", "put voxspool on your PATH"]
    assert speak.strip().startswith(f"{HELLO} -o hello.wav")
    script = f"{activate.split('   ')[0]}; {speak.split('   ')[0]} --engine tone"
    again = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=off_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "hello.wav").exists()
