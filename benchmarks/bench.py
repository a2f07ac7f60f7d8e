"""Benchmark of voxspool and, for comparison, of RQ's SimpleWorker; prints a table and writes JSON.

    python -m benchmarks.bench --out build/bench.json          two minutes
    python -m benchmarks.bench --out build/bench.json --quick  seconds: a check that it runs, with rough figures

The docstrings of the modules start, enqueue, publish, cost, memory, imports and voice define the figures. All processes
run on this machine and communicate over loopback, with no other load than the measured one. A missed target is not an
error: the exit code is 0 if everything could be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import cost, enqueue, imports, memory, publish, start, voice
from benchmarks.testbed import StartError, Testbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.figures import Figure

PACKAGES: Final = ("voxspool", "voxspool-worker", "rq", "redis", "numpy", "piper-tts", "onnxruntime")
PIPE_WIDTH: Final = 120
"""Width of the table if stdout is not a terminal, in columns."""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The numbers of rounds and jobs of each measurement."""

    rounds: int = 5
    start_jobs: int = 80
    chunk_jobs: int = 40
    entries: int = 400
    enqueued_jobs: int = 3000
    cost_jobs: int = 200
    command_jobs: int = 40
    idle_s: float = 6.0
    import_times: int = 5
    memory_rounds: int = 3
    voice_rounds: int = 3


QUICK: Final = BenchPlan(
    rounds=1, start_jobs=20, chunk_jobs=10, entries=60, enqueued_jobs=100, cost_jobs=40, command_jobs=10, idle_s=1.0,
    import_times=2, memory_rounds=1, voice_rounds=1,
)  # fmt: skip


def main() -> None:
    """Run the benchmark, write the JSON file and print the table."""
    parser = argparse.ArgumentParser(description="Measure voxspool and, for comparison, RQ's SimpleWorker.")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a short run with rough figures")
    arguments = parser.parse_args()
    report = measure(QUICK if arguments.quick else BenchPlan(), Console(stderr=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=PIPE_WIDTH)
    console.print(table(report))
    for name, why in report["skipped"].items():
        console.print(f"{name}: skipped, {why}", soft_wrap=True, markup=False)


def measure(plan: BenchPlan, progress: Console) -> dict[str, Any]:
    """Return the report. Piper is skipped if it is not installed."""
    started = datetime.now(UTC)
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    with Testbed() as testbed:
        machine = describe_machine(testbed)
        for name, measurement in measurements(testbed, plan):
            with progress.status(f"measuring {name}"):
                try:
                    figures += measurement()
                except StartError as error:
                    if name != "piper":
                        raise
                    skipped[name] = str(error)
    return {
        "date": started.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures],
        "skipped": skipped,
    }


def measurements(testbed: Testbed, plan: BenchPlan) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """Yield the name of each measurement and the function that runs it, in order."""
    yield "imports", lambda: imports.imports(plan.rounds, plan.import_times)
    yield "publish to consumer", lambda: publish.publish_latencies(testbed.url, plan.rounds, plan.entries)
    voxspool, simple = testbed.voxspool_worker("tone"), testbed.simple_worker()
    yield "enqueue to start", lambda: start.starts([voxspool, simple], plan.rounds, plan.start_jobs)
    yield "enqueue to first chunk", lambda: start.first_chunks(voxspool, plan.rounds, plan.chunk_jobs)
    yield "jobs enqueued a second", lambda: enqueue.enqueue_rates(voxspool, plan.rounds, plan.enqueued_jobs)
    yield "cost of a job", lambda: cost.costs(voxspool, simple, plan.rounds, plan.cost_jobs)
    yield "commands a job", lambda: cost.commands([voxspool, simple], plan.rounds, plan.command_jobs, plan.idle_s)
    yield "memory", lambda: memory.memory(voxspool, plan.memory_rounds)
    yield "piper", lambda: voice.piper(testbed, plan.voice_rounds)


def describe_machine(testbed: Testbed) -> dict[str, Any]:
    """Return a description of the machine and the versions of the software."""
    return {
        "cpu_count": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "redis": testbed.redis.info("server")["redis_version"],
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    """Yield name and version of each of the PACKAGES that is installed."""
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def table(report: dict[str, Any]) -> Table:
    """Return a table of the figures with their targets."""
    machine = report["machine"]
    title = "{cpu_count} CPUs, Python {python}, Redis {redis}".format_map(machine)
    result = Table(title=title)
    for heading in ("figure", "system"):
        result.add_column(heading)
    for heading in ("p50", "p99", "unit", "n", "target", "reached"):
        result.add_column(heading, justify="right", no_wrap=True)
    for figure in report["figures"]:
        result.add_row(*_row(figure))
    return result


def _row(figure: dict[str, Any]) -> list[str]:
    """Return the cells of one figure."""
    aim = " / ".join(f"{most:g}" for most in (figure["aim"] or {}).values() if most is not None)
    reached = {None: "", True: "yes", False: "no"}[figure["reached"]]
    return [
        figure["name"], figure["who"], _short(figure["p50"]), _short(figure["p99"]), figure["unit"], str(figure["n"]),
        aim, reached,
    ]  # fmt: skip


def _short(value: float | None) -> str:
    """Return a number with three significant digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
