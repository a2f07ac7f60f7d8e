"""Benchmark of narrating a book with the command `voxspool narrate --json` and real workers.

    python -m benchmarks.narration                    a quarter of an hour; JSON in build/bench-narration.json
    python -m benchmarks.narration --quick            a minute: a check that it runs

*Speed*: one book with Piper on one, two and three workers that may use all cores (Piper's default), and on workers that
are pinned to one core each (if taskset is installed), which shows the gain of another worker. *Memory*: books of three
lengths with tone on one worker. Each run has its own Redis, store and output folder; the output is FLAC, captions and
one M4B file.

*characters a second* is the length of the book divided by the time from the event `begin` (the book was read, nothing
was enqueued yet) to the last segment. *scaling* is that speed relative to one worker. *not speech* is the share of this
time, multiplied by the workers, in which no engine computed: queue, store, checks, waiting for the last segments.
*first segment* is the time since the start of the command, *files* the time from the last segment to the end. Memory is
the peak of the command and of the largest worker (VmHWM) and of Redis (`used_memory_peak`).

A run that does not speak the whole book is an error. The runs with Piper are skipped, with the reason, if Piper or a
voice is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import bench
from benchmarks.narration_book import book
from benchmarks.testbed import StartError, Testbed, environment
from voxspool import Client, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FIGURES: Final = {
    "characters_per_s": "{:.0f}",
    "scaling": "{:.2f}",
    "not_speech": "{:.1%}",
    "first_segment_s": "{:.2f}",
    "files_s": "{:.1f}",
    "command_mb": "{:.0f}",
    "worker_mb": "{:.0f}",
    "redis_mb": "{:.1f}",
}
"""Field of a run -> its format in the table."""
VM_HWM: Final = "VmHWM:"
"""Name of a process's peak resident memory in Linux's /proc/PID/status; the unit is KiB."""


@dataclass(frozen=True, slots=True)
class NarrationPlan:
    """The runs of the benchmark."""

    rounds: int = 1
    """Number of rounds. All runs with Piper alternate, so that other load on the machine affects them equally."""
    characters: int = 50_000
    """Length of the book for Piper, in characters."""
    workers: tuple[int, ...] = (1, 2, 3)
    """Numbers of workers that may use all cores."""
    pinned: tuple[int, ...] = (1, 2)
    """Numbers of workers that are pinned to one core each."""
    lengths: tuple[int, ...] = (10_000, 50_000, 200_000)
    """Lengths of the books for tone, in characters."""


QUICK: Final = NarrationPlan(characters=400, workers=(1, 2), pinned=(1,), lengths=(400, 800))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run."""

    name: str
    engine: str
    characters: int
    workers: int
    pinned: bool = False
    round: int = 1


@dataclass(slots=True)
class RunResult:
    """The results of one run. Times are in seconds, memory in MB."""

    name: str
    engine: str
    workers: int
    pinned: bool
    round: int
    characters: int = 0
    segments: int = 0
    first_segment_s: float = 0.0
    speaking_s: float = 0.0
    files_s: float = 0.0
    audio_s: float = 0.0
    work_s: float = 0.0
    """Computing time of all engines, from the report. It assumes one row per engine, so it is wrong for tone."""
    command_mb: float | None = None
    worker_mb: float | None = None
    redis_mb: float = 0.0
    scaling: float | None = None
    """Speed relative to one worker in the same round."""
    events: dict[str, float] = field(default_factory=dict, repr=False)
    """Event of the command -> its latest time since the start, in seconds; `first EVENT` -> its first time."""

    @property
    def characters_per_s(self) -> float:
        """Speed of the narration, in characters per second."""
        return self.characters / self.speaking_s

    @property
    def not_speech(self) -> float | None:
        """Share of the workers' time in which no engine computed; None for tone."""
        return None if self.engine == "tone" else 1 - self.work_s / (self.workers * self.speaking_s)

    def as_json(self) -> dict[str, Any]:
        """Return all fields and properties, for the JSON file."""
        return asdict(self) | {"characters_per_s": self.characters_per_s, "not_speech": self.not_speech}


def main() -> None:
    """Run the benchmark, write the JSON file and print the table."""
    parser = argparse.ArgumentParser(description="Measure the narration of a book.")
    parser.add_argument("--out", type=Path, default=Path("build/bench-narration.json"), help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a short run with rough figures")
    parser.add_argument("--rounds", type=int, help="repetitions of the runs with Piper; the table shows medians")
    parser.add_argument("--characters", type=int, help=f"length of the book for Piper [{NarrationPlan().characters:,}]")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else NarrationPlan()
    plan = replace(plan, rounds=arguments.rounds or plan.rounds, characters=arguments.characters or plan.characters)
    report = measure(plan, Console(stderr=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=bench.PIPE_WIDTH)
    console.print(table(report))
    for name, why in report["skipped"].items():
        console.print(f"{name}: skipped, {why}", soft_wrap=True, markup=False)


def measure(plan: NarrationPlan, progress: Console) -> dict[str, Any]:
    """Run everything in the plan, and return the report."""
    started = datetime.now(UTC)
    with Testbed() as testbed:
        machine = bench.describe_machine(testbed)
    runs: list[RunResult] = []
    skipped: dict[str, str] = {}
    for options in planned_runs(plan):
        with progress.status(f"narrating {options.name}"):
            try:
                runs.append(narrate(options))
            except StartError as error:
                if options.engine != "piper" or any(run.engine == "piper" for run in runs):
                    raise
                skipped[options.name] = str(error)
    set_scaling(runs)
    return {
        "date": started.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "runs": [run.as_json() for run in runs],
        "skipped": skipped,
    }


def planned_runs(plan: NarrationPlan) -> Iterator[RunOptions]:
    """Yield the runs in order. Runs with pinned workers are omitted if taskset is not installed."""
    pinned = plan.pinned if shutil.which("taskset") else ()
    for number in range(1, plan.rounds + 1):
        for workers in plan.workers:
            yield RunOptions(f"piper, {_count(workers)}", "piper", plan.characters, workers, round=number)
        for workers in pinned:
            name = f"piper, {workers} pinned"
            yield RunOptions(name, "piper", plan.characters, workers, pinned=True, round=number)
    for characters in plan.lengths:
        yield RunOptions(f"tone, {characters:,} characters", "tone", characters, 1)


def narrate(options: RunOptions) -> RunResult:
    """Narrate one book with a new Redis, store and workers. Raises StartError if a process fails."""
    with Testbed() as testbed, Client(settings=Settings(redis_url=testbed.url)) as client:
        store = {"VOXSPOOL_STORE": str(testbed.folder / "store")}
        workers = [
            testbed.start_worker(
                client, options.engine, environ=store, before=["taskset", "-c", str(number)] if options.pinned else []
            )
            for number in range(options.workers)
        ]
        run = RunResult(options.name, options.engine, options.workers, options.pinned, options.round)
        out = testbed.folder / "out"
        source = testbed.folder / "book.md"
        source.write_text(book(options.characters), encoding="utf-8")
        command = [sys.executable, "-m", "voxspool", "narrate", str(source), "-o", str(out), "--to", "m4b", "--json"]
        environ = environment() | store | {"VOXSPOOL_REDIS_URL": testbed.url, "VOXSPOOL_ENGINE": options.engine}
        run_command(run, command, environ, testbed.folder / "narrate.log")
        run.worker_mb = max((mb for worker in workers if (mb := peak_mb(worker.pid)) is not None), default=None)
        run.redis_mb = float(testbed.redis.info("memory")["used_memory_peak"]) / 1e6
        totals = json.loads((out / "report.json").read_text(encoding="utf-8"))["totals"]
        run.segments, run.audio_s, run.work_s = totals["segments"], totals["duration_s"], totals["work_s"]
        return run


def run_command(run: RunResult, command: list[str], environ: dict[str, str], log: Path) -> None:
    """Run the command to its end, and store the times of its events in `run`. Raises StartError if it fails."""
    started = time.monotonic()
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            event, at_s = json.loads(line), time.monotonic() - started
            run.events.setdefault(f"first {event['event']}", at_s)
            run.events[event["event"]] = at_s
            run.command_mb = peak_mb(process.pid) or run.command_mb
            if event["event"] == "begin":
                run.characters = sum(chapter["characters"] for chapter in event["chapters"])
    if process.returncode:
        output = log.read_text(errors="replace").strip()
        raise StartError(f"voxspool narrate: {output or 'it failed and its log is empty'}")
    run.first_segment_s = run.events["first segment"]
    run.speaking_s = run.events["segment"] - run.events["begin"]
    run.files_s = run.events["end"] - run.events["segment"]


def peak_mb(pid: int) -> float | None:
    """Return the peak memory of a process, in MB; None if it has ended or the system is not Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(VM_HWM)), None)


def set_scaling(runs: Iterable[RunResult]) -> None:
    """Set the scaling of the runs with Piper: relative to the first, which has one worker, pinned or not."""
    one_worker: dict[tuple[bool, int], float] = {}
    for run in runs:
        if run.engine == "piper":
            base = one_worker.setdefault((run.pinned, run.round), run.characters_per_s)
            run.scaling = run.characters_per_s / base


def table(report: dict[str, Any]) -> Table:
    """Return a table of the runs."""
    result = Table(title="{cpu_count} CPUs, Python {python}, Redis {redis}".format_map(report["machine"]))
    result.add_column("narration", no_wrap=True)
    result.add_column("characters", justify="right", no_wrap=True)
    for heading in (
        "chars/s", "scaling", "not speech", "first, s", "files, s", "command, MB", "worker, MB", "Redis, MB",
    ):  # fmt: skip
        result.add_column(heading, justify="right")
    rounds: dict[str, list[dict[str, Any]]] = {}
    for run in report["runs"]:
        rounds.setdefault(run["name"], []).append(run)
    for name, runs in rounds.items():
        result.add_row(name, f"{runs[0]['characters']:,}", *_figures(runs))
    return result


def _figures(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the cells of one run: the medians over all rounds."""
    for name, form in FIGURES.items():
        values = [run[name] for run in runs if run[name] is not None]
        yield form.format(statistics.median(values)) if values else "-"


def _count(workers: int) -> str:
    """Return a number of workers in words, such as `2 workers`."""
    return "1 worker" if workers == 1 else f"{workers} workers"


if __name__ == "__main__":
    main()
