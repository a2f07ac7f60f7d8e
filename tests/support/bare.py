"""Create a virtual environment with only what the README installs, and replace the loudspeaker by a file."""

from __future__ import annotations

import ctypes.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.processes import ROOT
from tests.support.shared import made_once

README = ROOT / "README.md"
RUNNING = ".".join(map(str, sys.version_info[:2]))
"""The version of the Python that runs the tests."""
ALSA: Path = Path("/usr/share/alsa/alsa.conf")


def unavailable(why: str) -> NoReturn:
    """Skip the test on a developer's machine, and fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def uv() -> str:
    """Return the uv that the Makefile uses."""
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    return found or unavailable("there is no uv: see the Makefile")


def python(version: str) -> Path:
    """Return a Python interpreter of a version. Each one is tried, because pyenv has shims for missing versions too."""
    roots = (Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions").glob(f"{version}.*")
    named = [shutil.which(f"python{version}"), *(root / "bin" / "python" for root in sorted(roots))]
    for one in filter(None, named):
        command = [one, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if (done.returncode, done.stdout.strip()) == (0, version):
            return Path(one)
    pytest.skip(f"there is no Python {version} on this machine")


def install_line() -> str:
    """Return the line of the README that installs both packages from this repository."""
    lines = re.findall(
        r"^.*\bpip install .*\./producer.*\./worker.*$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert lines, "the README shows no line that installs both packages"
    return str(lines[0]).partition("#")[0]


def environment(factory: pytest.TempPathFactory, version: str) -> Path:
    """Return the `bin` folder of a virtual environment with what the README installs, in the lock's versions."""
    interpreter = Path(sys.executable) if version == RUNNING else python(version)
    return made_once(factory, f"bare-{version}", lambda folder: _install(folder, interpreter)) / "bin"


def _install(folder: Path, interpreter: Path) -> None:
    """Create the environment."""
    wanted = shlex.split(install_line().split("pip install", 1)[1])
    install = [uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    for command in (
        [uv(), "venv", "--quiet", "--clear", "--python", str(interpreter), str(folder)],
        [*install, "--constraint", "requirements.lock", *wanted],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        if re.search("dns error|error sending request|Could not connect|Connection refused", done.stderr):
            unavailable("the package index cannot be reached")
        assert done.returncode == 0, done.stderr


def has_portaudio() -> bool:
    """Return whether this machine has PortAudio with ALSA, so that a file can replace the loudspeaker."""
    return bool(ctypes.util.find_library("portaudio")) and ALSA.is_file()


def loudspeaker(folder: Path) -> tuple[dict[str, str], Path]:
    """Return variables that make PortAudio write all sound to a file, and this file."""
    if not has_portaudio():
        pytest.skip("there is no PortAudio on ALSA here: apt install libportaudio2")
    heard = folder / "heard.raw"
    variables = _configured(
        folder / "loudspeaker.conf",
        f'pcm.!default {{ type plug slave.pcm "heard" }}\n'
        f'pcm.heard {{ type file slave.pcm "null" file "{heard}" format "raw" }}\n',
    )
    return variables, heard


def no_loudspeaker(folder: Path) -> dict[str, str]:
    """Return variables that hide the sound card from PortAudio. They have no effect without PortAudio."""
    return _configured(folder / "no-loudspeaker.conf", "pcm.!default { type hw card 99 }\n", alone=True)


def _configured(path: Path, config: str, *, alone: bool = False) -> dict[str, str]:
    """Write an ALSA configuration. Return the variable that loads it after the system's one; with `alone`, only it."""
    path.write_text(config, encoding="utf-8")
    return {"ALSA_CONFIG_PATH": str(path) if alone else f"{ALSA}:{path}"}
