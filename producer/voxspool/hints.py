"""Install commands for error messages: the command that works for this installation, as it was made.

A package that was installed from a folder or a file is not on the package index, so its extras come from there too.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

REPOSITORY_FOLDERS = {"voxspool": "producer", "voxspool-worker": "worker"}
"""Where each distribution lies in a clone of the repository."""


def install_command(distribution: str, *extras: str) -> str:
    """Return a shell command that installs a distribution with extras into the environment of this process.

    The distribution is `voxspool`, `voxspool-worker`, or the name of any other package on the index.
    """
    chosen = f"[{','.join(extras)}]" if extras else ""
    return f"{_installer()} {shlex.quote(_source(distribution) + chosen)}"


def program(name: str) -> str:
    """Return how one calls a program of this environment in a shell here: by its name, or by its path if need be."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if (found and Path(found).parent == own.parent) or not own.exists():
        return name
    return shlex.quote(_shortest(own))


def _source(distribution: str) -> str:
    """Return where a distribution is to be had: a path where it, or its sibling, came from one, else its name."""
    for installed in (distribution, *REPOSITORY_FOLDERS):
        origin = _origin(installed) if distribution in REPOSITORY_FOLDERS else None
        if origin is None:
            continue
        if installed != distribution:  # beside its sibling, in a clone
            origin = origin.parent / REPOSITORY_FOLDERS[distribution]
        if origin.exists():
            return _shortest(origin)
    return distribution


def _origin(distribution: str) -> Path | None:
    """Return the folder or file that an installed distribution came from; None for one from an index.

    Installers record it in `direct_url.json` (https://packaging.python.org/specifications/direct-url/).
    """
    try:
        recorded = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    url = urlsplit(str(json.loads(recorded).get("url", "")) if recorded else "")
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def _installer() -> str:
    """Return the command that installs into this environment: `pip` where the shell would find that of this Python."""
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sys.executable).parent:
        return "pip install"
    python = shlex.quote(_shortest(Path(sys.executable)))
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python}"
    return f"{python} -m pip install"


def _shortest(path: Path) -> str:
    """Return a path as one would type it here: relative where it lies below the working folder."""
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except (ValueError, OSError):
        return str(path)
