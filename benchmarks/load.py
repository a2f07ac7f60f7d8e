"""A load with faults in it: 1,000 jobs, ten producers, a hundred readers, two workers; a kill -9 and a stall of Redis.

    python benchmarks/load.py --out build/load.json          two and a half minutes
    python benchmarks/load.py --out build/load.json --quick  half a minute: does it run

The engine is `tone`, at the pace of speech: most rows of both workers are taken, and what is measured is the queue's
own. Each job is read by several readers at once, from its first entry to its last, and every sample is held against
the reference; at the end the tests' judge looks at every job in Redis. After two fifths of the time a worker that is
speaking is killed, and another one started in its place, as a supervisor would; after two thirds Redis stands still
for 3 s.

*enqueue to start* and *to first chunk* run from before `enqueue` is called to the begin entry, and the first audio,
in the hands of the first of the job's readers; *gap* lies between two audio entries that one reader got. The two
faults are in all of them. *audio again* runs from the kill to the first audio, at its first reader, of each job that
the dead worker had begun and not ended.

A sample lost or doubled, or a job that did not end, is an error: exit code 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import queue
import signal
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

import bench
from figures import OURS, Figure
from load_sides import Enqueued, Job, Reading, listen, produce, reference
from stage import Stage, StartError
from tests.support.oracle import Expected, judge
from voxspool import Client, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TEXTS: Final = (
    "Good morning.",
    "The train to Kiel leaves.",
    "The keeper counted every lamp. Then the night began.",
)
"""0.8 s, 1.5 s, and 3.3 s in two segments."""
PRODUCERS: Final = 10
READER_PROCESSES: Final = 4
STALL_S: Final = 3.0
KILL_AT, STALL_AT = 0.4, 0.67
"""When the faults come, as shares of the time in which jobs are enqueued."""
LEAD_S: Final = 8.0
"""From the start of the producers' processes to the first job, in seconds: they import meanwhile."""
SILENCE_S: Final = 60.0
"""Without a word from anybody for so long, in seconds, the load has failed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    jobs: int = 1000
    jobs_a_second: float = 7.0
    """The two workers could speak nine: 16 rows, 1.75 s a job."""
    readers: int = 100
    readers_a_job: int = 4
    workers: int = 2


QUICK: Final = Plan(jobs=60, readers=40)


@dataclass
class Load:
    """What was seen."""

    plan: Plan
    enqueued: dict[str, Enqueued] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    killed_s: float = 0.0
    memory: dict[str, float] = field(default_factory=dict)
    """A figure's name -> MB."""

    @property
    def complete(self) -> bool:
        """Whether everything was enqueued and read."""
        jobs = self.plan.jobs
        return len(self.enqueued) == jobs and len(self.readings) == jobs * self.plan.readers_a_job

    def note(self, said: Enqueued | Reading) -> None:
        """Take note of what a producer or a reader says."""
        if isinstance(said, Enqueued):
            self.enqueued[said.job] = said
        else:
            self.readings.append(said)


def main() -> None:
    """Load, print, store."""
    parser = argparse.ArgumentParser(description="Load voxspool, with two faults in the middle.")
    parser.add_argument("--out", type=Path, default=Path("build/load.json"), help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="a short run")
    asked = parser.parse_args()
    report = run(QUICK if asked.quick else Plan(), Console(stderr=True))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=bench.PIPE_WIDTH)
    console.print(bench.table(report))
    if wrong := report["wrong"]:
        raise SystemExit("\n".join(wrong))


def run(plan: Plan, progress: Console) -> dict[str, Any]:
    """Start everybody, let the faults happen, judge; give the report."""
    began = datetime.now(UTC)
    with Stage() as stage, Client(settings=Settings(redis_url=stage.url)) as client:
        machine = bench.about(stage)
        workers = [stage.start_worker(client, "tone") for _ in range(plan.workers)]
        load, jobs = Load(plan), schedule(plan, time.monotonic() + LEAD_S)
        load.memory |= {"redis memory, at start": used_mb(stage), "worker memory, at start": rss_mb(workers[-1])}
        faults = [
            (at(jobs, KILL_AT), lambda: kill(load, stage, client, workers[0])),
            (at(jobs, STALL_AT), lambda: stall(stage.server)),
        ]
        with progress.status("starting producers and readers") as status:
            watch(load, stage.url, jobs, faults, status.update)
            status.update("judging every job in Redis")
            wrong = verdict(load, stage, jobs)
        load.memory |= {"redis memory, at the end": used_mb(stage), "worker memory, at the end": rss_mb(workers[-1])}
        forget(stage)
        load.memory["redis memory, jobs deleted"] = used_mb(stage)
    return {
        "date": began.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures(load)],
        "wrong": wrong,
    }


def schedule(plan: Plan, first_s: float) -> list[Job]:
    """Return the jobs, and when each is due."""
    return [
        Job(f"load-{number}", TEXTS[number % len(TEXTS)], first_s + number / plan.jobs_a_second)
        for number in range(plan.jobs)
    ]


def at(jobs: list[Job], share: float) -> float:
    """Return the moment at which a share of the jobs is due."""
    return jobs[round(share * (len(jobs) - 1))].due_s


def watch(
    load: Load, url: str, jobs: list[Job], faults: list[tuple[float, Callable[[], None]]], show: Callable[[str], None]
) -> None:
    """Run producers and readers until all is enqueued and read, and let each fault happen in its time."""
    context = multiprocessing.get_context("spawn")
    tickets, said = context.Queue(), context.Queue()
    plan, share = load.plan, load.plan.readers // READER_PROCESSES
    sides = [context.Process(target=listen, args=(url, share, tickets, said)) for _ in range(READER_PROCESSES)]
    for number in range(PRODUCERS):
        own = (url, jobs[number::PRODUCERS], tickets, said, plan.readers_a_job)
        sides.append(context.Process(target=produce, args=own))
    try:
        for side in sides:
            side.start()
        collect(load, said, faults, show)
        for _ in range(share * READER_PROCESSES):
            tickets.put(None)
        for side in sides:
            side.join(10)
    finally:
        for side in sides:
            side.kill()


def collect(load: Load, said: Any, faults: list[tuple[float, Callable[[], None]]], show: Callable[[str], None]) -> None:
    """Take note of everything that is said, until all is. Raises StartError after a long silence."""
    heard_s = time.monotonic()
    while not load.complete:
        while faults and time.monotonic() >= faults[0][0]:
            faults.pop(0)[1]()
        try:
            load.note(said.get(timeout=0.1))
            heard_s = time.monotonic()
        except queue.Empty:
            if time.monotonic() > heard_s + SILENCE_S:
                raise StartError(
                    f"nothing was heard for {SILENCE_S:g} s: {len(load.enqueued)} jobs enqueued, "
                    f"{len(load.readings)} readings"
                ) from None
        show(f"{len(load.enqueued)} of {load.plan.jobs} jobs enqueued, {len(load.readings)} readings")


def kill(load: Load, stage: Stage, client: Client, victim: subprocess.Popen[bytes]) -> None:
    """Kill a worker while it speaks, and start another, as a supervisor would."""
    name = next(card.name for card in client.workers() if card.pid == victim.pid)
    while True:
        victim.send_signal(signal.SIGSTOP)  # what it does now, it does when it dies
        if any(job.worker == name for job in client.overview().running):
            break
        victim.send_signal(signal.SIGCONT)
        time.sleep(0.02)  # it runs on for a moment, and then may speak
    victim.kill()
    load.killed_s = time.monotonic()
    victim.wait()
    stage.start_worker(client, "tone")


def stall(server: subprocess.Popen[bytes]) -> None:
    """Let Redis stand still for a while, and go on meanwhile."""
    server.send_signal(signal.SIGSTOP)
    threading.Timer(STALL_S, server.send_signal, (signal.SIGCONT,)).start()


def verdict(load: Load, stage: Stage, jobs: Iterable[Job]) -> list[str]:
    """Return what is wrong; an empty list if nothing is."""
    wrong = [
        f"a reader of {reading.job}: {reading.state}, {reading.lost} samples lost, {reading.doubled} doubled"
        for reading in load.readings
        if reading.state != "ended" or reading.lost or reading.doubled
    ]
    try:
        judge(stage.redis, {job.id: Expected(reference(job.text)) for job in jobs})
    except AssertionError as error:
        wrong.append(f"the judge: {error}")
    return wrong


def forget(stage: Stage) -> None:
    """Delete every job, as their lifetimes would: what is left then is what a job leaves behind."""
    for pattern in ("voxspool:{load-*}:*", "rq:job:load-*", "rq:results:load-*"):
        for key in stage.redis.scan_iter(pattern, count=1000):
            stage.redis.delete(key)


def used_mb(stage: Stage) -> float:
    """Return what Redis holds."""
    time.sleep(0.2)  # Redis frees its clients' buffers by the tenth of a second
    return float(stage.redis.info("memory")["used_memory"]) / 1e6


def rss_mb(worker: subprocess.Popen[bytes]) -> float:
    """Return what a worker holds."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(worker.pid)], capture_output=True, text=True, check=True)
    return int(said.stdout) * 1024 / 1e6


def figures(load: Load) -> Iterator[Figure]:
    """Sum up what was seen."""
    states = {reading.job: reading.state for reading in load.readings}
    yield one("jobs ended", sum(state == "ended" for state in states.values()))
    yield one("jobs failed", sum(state != "ended" for state in states.values()))
    yield one("lost samples", sum(reading.lost for reading in load.readings))
    yield one("doubled samples", sum(reading.doubled for reading in load.readings))
    yield one("readings", len(load.readings))
    asked = {job.job: job.asked_s for job in load.enqueued.values()}
    yield many("enqueue, under load", ((job.accepted_s - job.asked_s) * 1e3 for job in load.enqueued.values()))
    began = firsts(load, lambda reading: reading.began_s)
    yield many("enqueue to start, under load", ((began[job] - asked[job]) * 1e3 for job in began))
    heard = firsts(load, lambda reading: reading.audio_s[0] if reading.audio_s else None)
    yield many("enqueue to first chunk, under load", ((heard[job] - asked[job]) * 1e3 for job in heard))
    gaps = [gap for reading in load.readings for gap in between(reading.audio_s)]
    yield many("gap between chunks", gaps)
    yield one("longest gap", max(gaps))
    again = firsts(load, lambda reading: reading.again_s)
    yield one("jobs resumed", len(again))
    yield many("audio again, after kill -9", (again[job] - load.killed_s for job in again))
    last = max(reading.audio_s[-1] for reading in load.readings if reading.audio_s)
    yield one("jobs a second", len(states) / (last - min(asked.values())))
    for name, value in sorted(load.memory.items()):
        yield one(name, value)


def firsts(load: Load, when: Callable[[Reading], float | None]) -> dict[str, float]:
    """Give, for each job, when it happened at the first of its readers; those at which it did."""
    found: dict[str, float] = {}
    for reading in load.readings:
        if (moment := when(reading)) is not None:
            found[reading.job] = min(moment, found.get(reading.job, moment))
    return found


def between(moments_s: list[float]) -> Iterator[float]:
    """Return the times between moments, in ms."""
    return ((after - before) * 1e3 for before, after in itertools.pairwise(moments_s))


def one(name: str, value: float) -> Figure:
    """Make a figure of one number."""
    return Figure(name, OURS, [[value]])


def many(name: str, samples: Iterable[float]) -> Figure:
    """Make a figure of many samples."""
    return Figure(name, OURS, [list(samples)])


if __name__ == "__main__":
    main()
