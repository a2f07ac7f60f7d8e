"""Load test with faults: 1,000 jobs, ten producers, a hundred readers, two workers; a kill -9 and a stall of Redis.

    python -m benchmarks.load --out build/load.json          two and a half minutes
    python -m benchmarks.load --out build/load.json --quick  half a minute: a check that it runs

The engine is `tone` in real time, so most rows of both workers are in use while the measured latencies are those of the
queue. Several readers read each job from its first entry to its last and compare every sample with the reference; at
the end, the checks of the test suite are applied to every job in Redis. After 40 % of the time, a worker that is
speaking is killed and a new one is started, as a supervisor would do. After two thirds, Redis is suspended for 3 s.

*enqueue to start* and *enqueue to first chunk* are the times from the call of `enqueue` to the begin entry and to the
first audio entry, at the first of the job's readers. *gap between chunks* is the time between two audio entries at the
same reader. The two faults affect all of them. *audio again* is the time from the kill to the first audio entry, at its
first reader, of each job that the killed worker had begun and not ended.

A lost or doubled sample, or a job that does not end, is an error: the exit code is 1.
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

from benchmarks import bench
from benchmarks.figures import OURS, Figure
from benchmarks.load_processes import Enqueued, JobReading, LoadJob, produce, read_jobs, reference
from benchmarks.testbed import StartError, Testbed
from tests.support.oracle import Expected, check_jobs
from voxspool import Client, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TEXTS: Final = (
    "Good morning.",
    "The train to Kiel leaves.",
    "The keeper counted every lamp. Then the night began.",
)
"""Texts of the jobs: 0.8 s, 1.5 s, and 3.3 s in two segments."""
PRODUCERS: Final = 10
READER_PROCESSES: Final = 4
STALL_S: Final = 3.0
"""How long Redis is suspended, in seconds."""
KILL_AT, STALL_AT = 0.4, 0.67
"""Times of the faults, as shares of the time in which jobs are enqueued."""
LEAD_S: Final = 8.0
"""Time from the start of the producers to the first job, in seconds. The producers need it to import libraries."""
SILENCE_S: Final = 60.0
"""The load test fails after this time without a result of any process, in seconds."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The numbers of jobs, readers and workers."""

    jobs: int = 1000
    jobs_a_second: float = 7.0
    """Two workers can speak nine jobs per second: they have 16 rows, and a job takes 1.75 s."""
    readers: int = 100
    readers_a_job: int = 4
    workers: int = 2


QUICK: Final = LoadPlan(jobs=60, readers=40)


@dataclass
class LoadResults:
    """The results of all processes."""

    plan: LoadPlan
    enqueued: dict[str, Enqueued] = field(default_factory=dict)
    readings: list[JobReading] = field(default_factory=list)
    killed_s: float = 0.0
    memory: dict[str, float] = field(default_factory=dict)
    """Name of a figure -> MB."""

    @property
    def complete(self) -> bool:
        """True if all jobs were enqueued and read by all their readers."""
        jobs = self.plan.jobs
        return len(self.enqueued) == jobs and len(self.readings) == jobs * self.plan.readers_a_job

    def add(self, result: Enqueued | JobReading) -> None:
        """Add a result of a producer or a reader."""
        if isinstance(result, Enqueued):
            self.enqueued[result.job] = result
        else:
            self.readings.append(result)


def main() -> None:
    """Run the load test, write the JSON file and print the table; exit with 1 if there was an error."""
    parser = argparse.ArgumentParser(description="Run a load test of voxspool with two faults.")
    parser.add_argument("--out", type=Path, default=Path("build/load.json"), help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a short run")
    arguments = parser.parse_args()
    report = run(QUICK if arguments.quick else LoadPlan(), Console(stderr=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=bench.PIPE_WIDTH)
    console.print(bench.table(report))
    if wrong := report["wrong"]:
        raise SystemExit("\n".join(wrong))


def run(plan: LoadPlan, progress: Console) -> dict[str, Any]:
    """Run all processes and faults, check every job, and return the report."""
    started = datetime.now(UTC)
    with Testbed() as testbed, Client(settings=Settings(redis_url=testbed.url)) as client:
        machine = bench.describe_machine(testbed)
        workers = [testbed.start_worker(client, "tone") for _ in range(plan.workers)]
        load, jobs = LoadResults(plan), schedule(plan, time.monotonic() + LEAD_S)
        load.memory |= {"redis memory, at start": used_mb(testbed), "worker memory, at start": rss_mb(workers[-1])}
        faults = [
            (due_at(jobs, KILL_AT), lambda: kill(load, testbed, client, workers[0])),
            (due_at(jobs, STALL_AT), lambda: stall(testbed.server)),
        ]
        with progress.status("starting producers and readers") as status:
            run_processes(load, testbed.url, jobs, faults, status.update)
            status.update("checking every job in Redis")
            wrong = find_errors(load, testbed, jobs)
        load.memory |= {"redis memory, at the end": used_mb(testbed), "worker memory, at the end": rss_mb(workers[-1])}
        delete_jobs(testbed)
        load.memory["redis memory, jobs deleted"] = used_mb(testbed)
    return {
        "date": started.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures(load)],
        "wrong": wrong,
    }


def schedule(plan: LoadPlan, first_s: float) -> list[LoadJob]:
    """Return the jobs, of which the first is due at `first_s`."""
    return [
        LoadJob(f"load-{number}", TEXTS[number % len(TEXTS)], first_s + number / plan.jobs_a_second)
        for number in range(plan.jobs)
    ]


def due_at(jobs: list[LoadJob], share: float) -> float:
    """Return the time at which this share of the jobs is due."""
    return jobs[round(share * (len(jobs) - 1))].due_s


def run_processes(
    load: LoadResults, url: str, jobs: list[LoadJob], faults: list[tuple[float, Callable[[], None]]],
    show: Callable[[str], None],
) -> None:  # fmt: skip
    """Run producers and readers until all jobs are enqueued and read, and cause each fault at its time."""
    context = multiprocessing.get_context("spawn")
    to_read, results = context.Queue(), context.Queue()
    plan, readers = load.plan, load.plan.readers // READER_PROCESSES
    processes = [
        context.Process(target=read_jobs, args=(url, readers, to_read, results)) for _ in range(READER_PROCESSES)
    ]
    for number in range(PRODUCERS):
        arguments = (url, jobs[number::PRODUCERS], to_read, results, plan.readers_a_job)
        processes.append(context.Process(target=produce, args=arguments))
    try:
        for process in processes:
            process.start()
        collect(load, results, faults, show)
        for _ in range(readers * READER_PROCESSES):
            to_read.put(None)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()


def collect(
    load: LoadResults, results: Any, faults: list[tuple[float, Callable[[], None]]], show: Callable[[str], None]
) -> None:
    """Collect results until they are complete. Raises StartError after SILENCE_S without a result."""
    latest_s = time.monotonic()
    while not load.complete:
        while faults and time.monotonic() >= faults[0][0]:
            faults.pop(0)[1]()
        try:
            load.add(results.get(timeout=0.1))
            latest_s = time.monotonic()
        except queue.Empty:
            if time.monotonic() > latest_s + SILENCE_S:
                raise StartError(
                    f"there was no result for {SILENCE_S:g} s: {len(load.enqueued)} jobs enqueued, "
                    f"{len(load.readings)} readings"
                ) from None
        show(f"{len(load.enqueued)} of {load.plan.jobs} jobs enqueued, {len(load.readings)} readings")


def kill(load: LoadResults, testbed: Testbed, client: Client, victim: subprocess.Popen[bytes]) -> None:
    """Kill a worker while it speaks, and start another one as a supervisor would."""
    name = next(worker.name for worker in client.workers() if worker.pid == victim.pid)
    while True:
        victim.send_signal(signal.SIGSTOP)  # its state must not change between the check and the kill
        if any(job.worker == name for job in client.overview().running):
            break
        victim.send_signal(signal.SIGCONT)
        time.sleep(0.02)  # time to start a job
    victim.kill()
    load.killed_s = time.monotonic()
    victim.wait()
    testbed.start_worker(client, "tone")


def stall(server: subprocess.Popen[bytes]) -> None:
    """Suspend Redis, and resume it after STALL_S from another thread."""
    server.send_signal(signal.SIGSTOP)
    threading.Timer(STALL_S, server.send_signal, (signal.SIGCONT,)).start()


def find_errors(load: LoadResults, testbed: Testbed, jobs: Iterable[LoadJob]) -> list[str]:
    """Return a description of each error; an empty list if there is none."""
    wrong = [
        f"a reader of {reading.job}: {reading.state}, {reading.lost} samples lost, {reading.doubled} doubled"
        for reading in load.readings
        if reading.state != "ended" or reading.lost or reading.doubled
    ]
    try:
        check_jobs(testbed.redis, {job.id: Expected(reference(job.text)) for job in jobs})
    except AssertionError as error:
        wrong.append(f"the check of the jobs in Redis: {error}")
    return wrong


def delete_jobs(testbed: Testbed) -> None:
    """Delete the keys of all jobs, as if they had expired. Memory that Redis still uses afterwards has leaked."""
    for pattern in ("voxspool:{load-*}:*", "rq:job:load-*", "rq:results:load-*"):
        for key in testbed.redis.scan_iter(pattern, count=1000):
            testbed.redis.delete(key)


def used_mb(testbed: Testbed) -> float:
    """Return the memory that Redis uses, in MB."""
    time.sleep(0.2)  # Redis frees the buffers of its clients every 0.1 s
    return float(testbed.redis.info("memory")["used_memory"]) / 1e6


def rss_mb(worker: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a worker, in MB."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(worker.pid)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def figures(load: LoadResults) -> Iterator[Figure]:
    """Yield the figures of a complete load test."""
    states = {reading.job: reading.state for reading in load.readings}
    yield single("jobs ended", sum(state == "ended" for state in states.values()))
    yield single("jobs failed", sum(state != "ended" for state in states.values()))
    yield single("lost samples", sum(reading.lost for reading in load.readings))
    yield single("doubled samples", sum(reading.doubled for reading in load.readings))
    yield single("readings", len(load.readings))
    yield from latencies(load)
    last = max(reading.audio_s[-1] for reading in load.readings if reading.audio_s)
    first = min(job.called_s for job in load.enqueued.values())
    yield single("jobs a second", len(states) / (last - first))
    for name, value in sorted(load.memory.items()):
        yield single(name, value)


def latencies(load: LoadResults) -> Iterator[Figure]:
    """Yield the latencies of enqueueing, start, first chunk and recovery, and the gaps between chunks."""
    called = {job.job: job.called_s for job in load.enqueued.values()}
    yield several("enqueue, under load", ((job.returned_s - job.called_s) * 1e3 for job in load.enqueued.values()))
    began = earliest(load, lambda reading: reading.began_s)
    yield several("enqueue to start, under load", ((began[job] - called[job]) * 1e3 for job in began))
    first_audio = earliest(load, lambda reading: reading.audio_s[0] if reading.audio_s else None)
    yield several("enqueue to first chunk, under load", ((first_audio[job] - called[job]) * 1e3 for job in first_audio))
    gaps = [gap for reading in load.readings for gap in gaps_ms(reading.audio_s)]
    yield several("gap between chunks", gaps)
    yield single("longest gap", max(gaps))
    resumed = earliest(load, lambda reading: reading.resumed_s)
    yield single("jobs resumed", len(resumed))
    yield several("audio again, after kill -9", (resumed[job] - load.killed_s for job in resumed))


def earliest(load: LoadResults, when: Callable[[JobReading], float | None]) -> dict[str, float]:
    """Return the earliest time of each job among its readings; `when` returns None if it did not happen."""
    found: dict[str, float] = {}
    for reading in load.readings:
        if (moment := when(reading)) is not None:
            found[reading.job] = min(moment, found.get(reading.job, moment))
    return found


def gaps_ms(moments_s: list[float]) -> Iterator[float]:
    """Return the differences between consecutive times, in ms."""
    return ((after - before) * 1e3 for before, after in itertools.pairwise(moments_s))


def single(name: str, value: float) -> Figure:
    """Return a figure with one sample."""
    return Figure(name, OURS, [[value]])


def several(name: str, samples: Iterable[float]) -> Figure:
    """Return a figure with several samples in one round."""
    return Figure(name, OURS, [list(samples)])


if __name__ == "__main__":
    main()
