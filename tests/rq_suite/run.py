"""Runs RQ's own tests of workers against ours, and holds the outcome against expectations.toml, both ways.

    python tests/rq_suite/run.py

Fetches the source distribution of the RQ that is installed, by pip, into build/rq-suite; only its tests are taken out,
RQ itself is the installed one. A few processes run them at once, each on a Redis of its own. Exit code 0:
all is as listed; 1: something is not, each on a line; 3: the source distribution is not to be had.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import expectations
from expectations import KILLS, NO_WORKER, TIMING, Expectations
from voxspool.embedded import find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build/rq-suite"
OTHER_PROCESSES = 2
LIMIT_S = 240.0
"""How long one process may take, in seconds."""
NOT_TO_BE_HAD = 3


@dataclass
class Outcome:
    """What one test did."""

    outcome: str
    """The worst that was reported of it: passed, failed or skipped."""
    worker: bool
    """Whether it made a worker of ours."""
    worked: bool
    """Whether it let it work."""
    said: str
    """What failed."""


def main() -> int:
    """Run, compare, say."""
    expected = expectations.load()
    installed = metadata.version("rq")
    if installed != expected.version:
        print(f"expectations.toml describes rq {expected.version}, and {installed} is installed: bring it up to date")
        return 1
    try:
        folder = fetch(installed)
    except subprocess.CalledProcessError as error:
        print(f"pip cannot get the source distribution of rq {installed}: {last_line(error.stderr)}")
        return NOT_TO_BE_HAD
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda modules: run_tests(folder, modules, expected), dealt(expected.modules))
        found = {test: outcome for part in parts for test, outcome in part.items()}
    surprises = [*modules_that_are_new(folder, expected), *compare(expected, found)]
    print(*summary(expected, found), *surprises, sep="\n")
    return bool(surprises)


def fetch(version: str) -> Path:
    """Return the folder with RQ's tests, from its source distribution. Raises CalledProcessError with what pip said."""
    folder = BUILD / f"rq-{version}"
    if not (folder / "tests").is_dir():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(BUILD)]
        subprocess.run([*download, "--no-binary", "rq", f"rq=={version}"], check=True, capture_output=True, text=True)
        with tarfile.open(BUILD / f"rq-{version}.tar.gz") as archive:
            tests = [member for member in archive.getmembers() if member.name.startswith(f"rq-{version}/tests/")]
            archive.extractall(BUILD, members=tests, filter="data")
    return folder


def modules_that_are_new(folder: Path, expected: Expectations) -> Iterator[str]:
    """Name each module that makes a worker and stands nowhere in the table."""
    known = {*expected.modules, *expected.not_run}
    for path in sorted((folder / "tests").glob("test_*.py")):
        if path.stem not in known and re.search(r"\b(Simple)?Worker\(", path.read_text()):
            yield f"{path.stem} makes workers, and is not listed"


def dealt(modules: list[str]) -> list[list[str]]:
    """Deal the modules to processes, the first, which takes as long as the others together, to one of its own."""
    first, *others = modules
    return [[first], *(others[hand::OTHER_PROCESSES] for hand in range(OTHER_PROCESSES))]


def run_tests(folder: Path, modules: list[str], expected: Expectations) -> dict[str, Outcome]:
    """Run some modules of RQ's tests in one process; give the outcome of each test."""
    with TemporaryDirectory() as scratch, redis_server(Path(scratch)) as port:
        report = Path(scratch) / "report"
        never = [f"--deselect={node(test)}" for test in expected.tests_of(KILLS)]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "adapter", "-p", "no:cacheprovider", "-c", os.devnull]
        done = subprocess.run(
            [*command, "--rootdir", str(folder), *never, *(f"tests/{module}.py" for module in modules)],
            cwd=folder,
            env=environment(port, report),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        found = read(report)
    if done.returncode not in {0, 1}:
        broken = [line for line in done.stdout.splitlines() if line.startswith("INTERNALERROR>")]
        said = f"pytest ended with {done.returncode}: {' '.join(broken[-3:]) or last_line(done.stdout)}"
        found[f"{modules[0]}.and-others"] = Outcome("failed", worker=True, worked=False, said=said)
    return found


def environment(port: int, report: Path) -> dict[str, str]:
    """Return the environment: where Redis is, where the plugin writes, and that RQ's tests take their time."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    said = {"RQ_SUITE_PORT": str(port), "RQ_SUITE_REPORT": str(report), "RUN_SLOW_TESTS_TOO": "1", "PYTHONPATH": path}
    return os.environ | said


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """Start a private Redis; give its port. RQ's tests wait for it no more than for any other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    program = os.environ.get("REDIS_SERVER") or find_server()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen([*command, "--databases", "32"], stdout=subprocess.DEVNULL) as server:
        try:
            yield port
        finally:
            server.kill()


def read(report: Path) -> dict[str, Outcome]:
    """Read what the plugin wrote: a line a test, and one for each of its parts."""
    found: dict[str, Outcome] = {}
    for line in report.read_text().splitlines() if report.exists() else ():
        said = json.loads(line)
        one = Outcome(said["outcome"], said["worker"], said["worked"], first_line(said["said"]))
        before = found.get(said["test"])
        found[said["test"]] = before if before and before.outcome == "failed" else one
    return found


def compare(expected: Expectations, found: dict[str, Outcome]) -> Iterator[str]:
    """Name each test that is not as it is listed."""
    for test, one in sorted(found.items()):
        reason = expected.reasons.get(test)
        passed = one.outcome == "passed" and one.worker
        if test in expected.passes and not passed:
            yield f"{test} is listed as passing: {one.outcome}, {one.said or 'it makes no worker'}"
        elif reason == NO_WORKER and one.worker:
            yield f"{test} is listed as making no worker, and makes one"
        elif reason not in {None, TIMING, NO_WORKER} and passed:
            yield f"{test} passes, and is listed as one that does not apply ({reason})"
        elif reason is None and test not in expected.passes and (one.worker or module_of(test) in expected.whole):
            yield f"{test} is not listed: {one.outcome}, {one.said}"
    for test in sorted((expected.passes | set(expected.reasons)) - set(found) - set(expected.tests_of(KILLS))):
        yield f"{test} is listed, and did not run"


def summary(expected: Expectations, found: dict[str, Outcome]) -> Iterator[str]:
    """Count what passes, and what does not apply by reason."""
    working = sum(one.worked for test, one in found.items() if test in expected.passes)
    yield f"rq {expected.version}: {len(expected.passes)} tests of workers pass with ours, {working} let it work"
    yield f"{len(expected.reasons)} do not apply:"
    for reason, count in Counter(expected.reasons.values()).most_common():
        yield f"{count:4}  {reason}: {expected.sentences[reason]}"
    others = [test for test, one in found.items() if not one.worker and test not in expected.reasons]
    yield f"{len(others):4}  others in these modules make no worker, and say nothing of ours"


def module_of(test: str) -> str:
    """Name a test's module."""
    return test.partition(".")[0]


def node(test: str) -> str:
    """Name a test as pytest does."""
    module, *rest = test.split(".")
    return "::".join([f"tests/{module}.py", *rest])


def first_line(said: str) -> str:
    """Return the first line that says something."""
    return (said.strip().splitlines() or [""])[0][:200]


def last_line(said: str) -> str:
    """Return the last line that says something."""
    return (said.strip().splitlines() or [""])[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
