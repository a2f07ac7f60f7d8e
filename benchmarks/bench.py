"""Measures voxspool, with RQ's SimpleWorker beside it in the same run: prints a table, stores JSON.

    python benchmarks/bench.py --out build/bench.json          two minutes
    python benchmarks/bench.py --out build/bench.json --quick  seconds: does it run; its figures are rough

What is measured and how stands at the top of each module: start, publish, cost, memory, imports, voice. All of it runs
on this machine over loopback: no network, no load but the one that is measured, and whatever else the machine does. An
aim missed is no error: the exit code says only whether everything could be measured.
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

import cost
import imports
import memory
import publish
import start
import voice
from stage import Stage, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from figures import Figure

PACKAGES: Final = ("voxspool", "voxspool-worker", "rq", "redis", "numpy", "piper-tts", "onnxruntime")
PIPE_WIDTH: Final = 120
"""Columns of the table where no terminal says how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int = 5
    start_jobs: int = 80
    chunk_jobs: int = 40
    entries: int = 400
    cost_jobs: int = 200
    command_jobs: int = 40
    idle_s: float = 6.0
    import_times: int = 5
    memory_rounds: int = 3
    voice_rounds: int = 3


QUICK: Final = Plan(
    rounds=1, start_jobs=20, chunk_jobs=10, entries=60, cost_jobs=40, command_jobs=10, idle_s=1.0, import_times=2,
    memory_rounds=1, voice_rounds=1,
)  # fmt: skip


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="Measure voxspool, with RQ's SimpleWorker beside it.")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="a short run, with rough figures")
    asked = parser.parse_args()
    report = measure(QUICK if asked.quick else Plan(), Console(stderr=True))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=PIPE_WIDTH)
    console.print(table(report))
    for name, why in report["skipped"].items():
        console.print(f"{name}: skipped, {why}", soft_wrap=True, markup=False)


def measure(plan: Plan, progress: Console) -> dict[str, Any]:
    """Measure everything that can be measured here."""
    began = datetime.now(UTC)
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    with Stage() as stage:
        machine = about(stage)
        for name, step in steps(stage, plan):
            with progress.status(f"measuring {name}"):
                try:
                    figures += step()
                except StartError as error:
                    if name != "piper":
                        raise
                    skipped[name] = str(error)
    return {
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures],
        "skipped": skipped,
    }


def steps(stage: Stage, plan: Plan) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """Yield what is to be measured, one after another."""
    yield "imports", lambda: imports.imports(plan.rounds, plan.import_times)
    yield "publish to consumer", lambda: publish.fan_outs(stage.url, plan.rounds, plan.entries)
    ours, simple = stage.voxspool_worker("tone"), stage.simple_worker()
    yield "enqueue to start", lambda: start.starts([ours, simple], plan.rounds, plan.start_jobs)
    yield "enqueue to first chunk", lambda: start.first_chunks(ours, plan.rounds, plan.chunk_jobs)
    yield "cost of a job", lambda: cost.costs(ours, simple, plan.rounds, plan.cost_jobs)
    yield "commands a job", lambda: cost.commands([ours, simple], plan.rounds, plan.command_jobs, plan.idle_s)
    yield "memory", lambda: memory.memory(ours, plan.memory_rounds)
    yield "piper", lambda: voice.piper(stage, plan.voice_rounds)


def about(stage: Stage) -> dict[str, Any]:
    """Describe the machine and the versions: figures mean little without."""
    return {
        "cpu_count": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "redis": stage.redis.info("server")["redis_version"],
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    """Yield the versions of the packages that are installed."""
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def table(report: dict[str, Any]) -> Table:
    """Lay the figures out, the aims beside them."""
    machine = report["machine"]
    title = "{cpu_count} CPUs, Python {python}, Redis {redis}".format_map(machine)
    shown = Table(title=title)
    for heading in ("figure", "of"):
        shown.add_column(heading)
    for heading in ("p50", "p99", "unit", "n", "aim", "reached"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for figure in report["figures"]:
        shown.add_row(*_row(figure))
    return shown


def _row(figure: dict[str, Any]) -> list[str]:
    """Write one figure."""
    aim = " / ".join(f"{most:g}" for most in (figure["aim"] or {}).values() if most is not None)
    reached = {None: "", True: "yes", False: "no"}[figure["reached"]]
    return [
        figure["name"], figure["who"], _short(figure["p50"]), _short(figure["p99"]), figure["unit"], str(figure["n"]),
        aim, reached,
    ]  # fmt: skip


def _short(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
