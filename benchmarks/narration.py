"""Measures the narration of a book: `voxspool narrate --json`, a process as people start it, and real workers.

    python benchmarks/narration.py                    a quarter of an hour; JSON in build/bench-narration.json
    python benchmarks/narration.py --quick            a minute: does it run

*Speed*: one book on Piper with one, two and three worker processes, free to use all cores, as Piper does by itself; and
pinned to one core each (where there is taskset), which shows what a worker more is worth. *Memory*: books of three
lengths on tone, with one worker. Every run has a Redis, a store and a folder of its own; the files are FLAC, captions
and one M4B.

*characters a second* are the book's, from `begin` (the book is read, nothing is enqueued) to the last segment, and
*scaling* is the same against one worker of the same kind of run. *not speech* is the share of that time, times the
workers, in which no engine spoke: queue, store, checks, waiting for the last segments. *first segment* runs from the
command's start; *files* is what is left to do when the last segment is there. Memory is the peak of each process
(VmHWM; of the worker that took most), and of what Redis holds, as it says itself.

A run that does not end with everything spoken is an error. Piper's runs are skipped, with the worker's reason, where
Piper or a voice is not installed.
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

import bench
from narration_book import book
from stage import Stage, StartError, environment
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
"""What the table shows of a run, and how it is written."""
VM_HWM: Final = "VmHWM:"
"""A process's peak of resident memory, in Linux's /proc/PID/status, in KiB."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    rounds: int = 1
    """Of the runs on Piper, which take turns: what else the machine does hits them alike."""
    characters: int = 50_000
    workers: tuple[int, ...] = (1, 2, 3)
    pinned: tuple[int, ...] = (1, 2)
    """Workers with one core each."""
    lengths: tuple[int, ...] = (10_000, 50_000, 200_000)
    """Characters of the books by which memory is measured."""


QUICK: Final = Plan(characters=400, workers=(1, 2), pinned=(1,), lengths=(400, 800))


@dataclass(frozen=True, slots=True)
class Course:
    """How one book is to be narrated."""

    name: str
    engine: str
    characters: int
    workers: int
    pinned: bool = False
    round: int = 1


@dataclass(slots=True)
class Run:
    """What was seen of it; times are seconds, memory is MB."""

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
    """What the engines worked, all workers together, by the report: of a row each, so not tone's."""
    command_mb: float | None = None
    worker_mb: float | None = None
    redis_mb: float = 0.0
    scaling: float | None = None
    """Speed against one worker in the same round."""
    events: dict[str, float] = field(default_factory=dict, repr=False)
    """An event of the command -> when it came last, from the command's start."""

    @property
    def characters_per_s(self) -> float:
        """How fast the book was spoken."""
        return self.characters / self.speaking_s

    @property
    def not_speech(self) -> float | None:
        """The share of the workers' time in which no engine spoke."""
        return None if self.engine == "tone" else 1 - self.work_s / (self.workers * self.speaking_s)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, and what follows from it."""
        return asdict(self) | {"characters_per_s": self.characters_per_s, "not_speech": self.not_speech}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="Measure the narration of a book.")
    parser.add_argument("--out", type=Path, default=Path("build/bench-narration.json"), help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="a short run, with rough figures")
    parser.add_argument("--rounds", type=int, help="how often Piper's runs are repeated, in turns; medians are shown")
    parser.add_argument("--characters", type=int, help=f"how long Piper's book is [{Plan().characters:,}]")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else Plan()
    plan = replace(plan, rounds=asked.rounds or plan.rounds, characters=asked.characters or plan.characters)
    report = measure(plan, Console(stderr=True))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=bench.PIPE_WIDTH)
    console.print(table(report))
    for name, why in report["skipped"].items():
        console.print(f"{name}: skipped, {why}", soft_wrap=True, markup=False)


def measure(plan: Plan, progress: Console) -> dict[str, Any]:
    """Narrate every book of a plan."""
    began = datetime.now(UTC)
    with Stage() as stage:
        machine = bench.about(stage)
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    for course in courses(plan):
        with progress.status(f"narrating {course.name}"):
            try:
                runs.append(narrate(course))
            except StartError as error:
                if course.engine != "piper" or any(run.engine == "piper" for run in runs):
                    raise
                skipped[course.name] = str(error)
    scale(runs)
    return {
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "runs": [run.as_json() for run in runs],
        "skipped": skipped,
    }


def courses(plan: Plan) -> Iterator[Course]:
    """Yield what is narrated, in order."""
    pinned = plan.pinned if shutil.which("taskset") else ()
    for number in range(1, plan.rounds + 1):
        for workers in plan.workers:
            yield Course(f"piper, {_count(workers)}", "piper", plan.characters, workers, round=number)
        for workers in pinned:
            name = f"piper, {workers} pinned"
            yield Course(name, "piper", plan.characters, workers, pinned=True, round=number)
    for characters in plan.lengths:
        yield Course(f"tone, {characters:,} characters", "tone", characters, 1)


def narrate(course: Course) -> Run:
    """Narrate one book, with everything fresh. Raises StartError where a process does not start, or fails."""
    with Stage() as stage, Client(settings=Settings(redis_url=stage.url)) as client:
        store = {"VOXSPOOL_STORE": str(stage.folder / "store")}
        workers = [
            stage.start_worker(
                client, course.engine, environ=store, before=["taskset", "-c", str(number)] if course.pinned else []
            )
            for number in range(course.workers)
        ]
        run = Run(course.name, course.engine, course.workers, course.pinned, course.round)
        out = stage.folder / "out"
        source = stage.folder / "book.md"
        source.write_text(book(course.characters), encoding="utf-8")
        command = [sys.executable, "-m", "voxspool", "narrate", str(source), "-o", str(out), "--to", "m4b", "--json"]
        environ = environment() | store | {"VOXSPOOL_REDIS_URL": stage.url, "VOXSPOOL_ENGINE": course.engine}
        follow(run, command, environ, stage.folder / "narrate.log")
        run.worker_mb = max((mb for one in workers if (mb := peak_mb(one.pid)) is not None), default=None)
        run.redis_mb = float(stage.redis.info("memory")["used_memory_peak"]) / 1e6
        totals = json.loads((out / "report.json").read_text(encoding="utf-8"))["totals"]
        run.segments, run.audio_s, run.work_s = totals["segments"], totals["duration_s"], totals["work_s"]
        return run


def follow(run: Run, command: list[str], environ: dict[str, str], log: Path) -> None:
    """Run the command to its end, and take note of when it says what. Raises StartError where it fails."""
    began = time.monotonic()
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            said, at_s = json.loads(line), time.monotonic() - began
            run.events.setdefault(f"first {said['event']}", at_s)
            run.events[said["event"]] = at_s
            run.command_mb = peak_mb(process.pid) or run.command_mb
            if said["event"] == "begin":
                run.characters = sum(chapter["characters"] for chapter in said["chapters"])
    if process.returncode:
        raise StartError(f"voxspool narrate: {log.read_text(errors='replace').strip() or 'failed and said nothing'}")
    run.first_segment_s = run.events["first segment"]
    run.speaking_s = run.events["segment"] - run.events["begin"]
    run.files_s = run.events["end"] - run.events["segment"]


def peak_mb(pid: int) -> float | None:
    """Return the most memory that a process has had; None where the system does not say, or the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(VM_HWM)), None)


def scale(runs: Iterable[Run]) -> None:
    """Hold runs on Piper against the one with one worker, free or with one core."""
    alone: dict[tuple[bool, int], float] = {}
    for run in runs:
        if run.engine == "piper":
            one = alone.setdefault((run.pinned, run.round), run.characters_per_s)
            run.scaling = run.characters_per_s / one


def table(report: dict[str, Any]) -> Table:
    """Lay the runs out."""
    shown = Table(title="{cpu_count} CPUs, Python {python}, Redis {redis}".format_map(report["machine"]))
    shown.add_column("narration", no_wrap=True)
    shown.add_column("characters", justify="right", no_wrap=True)
    for heading in ("a second", "scaling", "not speech", "first, s", "files, s", "command", "worker", "Redis, MB"):
        shown.add_column(heading, justify="right")
    rounds: dict[str, list[dict[str, Any]]] = {}
    for run in report["runs"]:
        rounds.setdefault(run["name"], []).append(run)
    for name, runs in rounds.items():
        shown.add_row(name, f"{runs[0]['characters']:,}", *_figures(runs))
    return shown


def _figures(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Write the medians of the same run in all rounds."""
    for name, form in FIGURES.items():
        values = [run[name] for run in runs if run[name] is not None]
        yield form.format(statistics.median(values)) if values else "-"


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


if __name__ == "__main__":
    main()
