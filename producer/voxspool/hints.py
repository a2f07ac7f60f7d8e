"""Install commands for error messages. They install in the same way as this installation was made.

A package that was installed from a folder, a file or a repository may not be on the package index, so its extras are
installed from the same place.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

FOLDERS: Final = {"voxspool": "producer", "voxspool-worker": "worker"}
"""The folder of each distribution in a clone of the repository."""


def install_command(distribution: str, *extras: str) -> str:
    """Return a shell command that installs a distribution with extras into the environment of this process.

    The distribution is `voxspool`, `voxspool-worker`, or the name of any other package on the index.
    """
    chosen = f"[{','.join(extras)}]" if extras else ""
    return f"{_installer()} {shlex.join(_requirement(distribution, chosen))}"


def program(name: str) -> str:
    """Return the word that runs a program of this environment in a shell: its name, or its path if PATH lacks it."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if (found and Path(found).parent == own.parent) or not own.exists():
        return name
    return shlex.quote(typed_path(own))


def missing(what: str, package: str | None, distribution: str, *extras: str) -> str:
    """Return the message of a MissingExtraError: what needs which package, and the command that installs it."""
    return f"{what} needs {package}; install it with: {install_command(distribution, *extras)}"


def _requirement(distribution: str, extras: str) -> list[str]:
    """Return the arguments that name a distribution: from where it, or its sibling, was installed, else by name."""
    for installed in (distribution, *FOLDERS) if distribution in FOLDERS else ():
        record = _direct_url(installed)
        found = _from_repository(record, distribution, extras) or _from_disk(record, installed, distribution, extras)
        if found:
            return found
    return [distribution + extras]


def _direct_url(distribution: str) -> dict[str, Any]:
    """Return the installer's record of a distribution that did not come from an index; empty for every other.

    Source: https://packaging.python.org/specifications/direct-url/
    """
    try:
        recorded = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(recorded)) if recorded else {}


def _from_repository(record: dict[str, Any], distribution: str, extras: str) -> list[str]:
    """Return the arguments for an installation from a version control system; none for any other."""
    if "vcs_info" not in record:
        return []
    vcs = record["vcs_info"]
    source = f"{vcs['vcs']}+{record['url']}@{vcs['commit_id']}#subdirectory={FOLDERS[distribution]}"
    return [f"{distribution}{extras} @ {source}"]


def _from_disk(record: dict[str, Any], installed: str, distribution: str, extras: str) -> list[str]:
    """Return the arguments for an installation from a folder or a file that is still there; none for any other."""
    url = urlsplit(record.get("url", ""))
    origin = Path(url2pathname(url.path)) if url.scheme == "file" else None
    if origin and installed != distribution:
        origin = _sibling(origin, distribution)
    if origin is None or not origin.exists():
        return []
    editable = record.get("dir_info", {}).get("editable")
    return [*(["-e"] if editable else []), typed_path(origin) + extras]


def _sibling(origin: Path, distribution: str) -> Path | None:
    """Return the path of the other distribution: its folder in the clone, or its wheel in the same folder."""
    if origin.is_dir():
        return origin.parent / FOLDERS[distribution]
    wheels = origin.parent.glob(f"{distribution.replace('-', '_')}-[0-9]*.whl")
    return max(wheels, default=None, key=lambda wheel: wheel.stat().st_mtime)


def _installer() -> str:
    """Return the command that installs into this environment: `pip` if the shell would find the one of this Python."""
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sys.executable).parent:
        return "pip install"
    python = shlex.quote(typed_path(Path(sys.executable)))
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"


def typed_path(path: Path) -> str:
    """Return a path as a user would type it: relative if it is the working folder or below it, and shorter so."""
    try:
        below = path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return str(path)
    return min(f"./{below}" if below.parts else ".", str(path), key=len)
