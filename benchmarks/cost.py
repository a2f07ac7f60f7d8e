"""Overhead of the queue per job: wall time and Redis commands, for jobs with empty texts or with one character.

*cost of a job* is the time in which a worker empties a full queue, divided by the number of jobs. One transaction fills
the queue, so almost no producer runs beside the worker; this transaction is included, about 2 %. A voxspool worker runs
8 jobs at the same time, each of which opens and closes a stream; SimpleWorker runs one after another. A job with *one
character* also has one segment: two audio entries and a mark, produced by the engine.

*commands a job* is the number of commands that Redis executes from enqueueing a job to its result, one job at a time.
It is read from `INFO commandstats`, so it includes the commands in Lua scripts and in RQ's transactions; the rate of an
idle worker is subtracted. *commands sent a job* excludes the commands in scripts, which `MONITOR` counts for a few
jobs. *round trips a job* is the number of reads from Redis's sockets (`total_reads_processed`), on which the latency
depends. The commands of the measurement itself are subtracted.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.figures import Figure, Samples, alternate
from benchmarks.testbed import SimpleWorkerQueue, VoxspoolQueue, paced, wait_all, wait_done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from rq.queue import EnqueueData

TOP_COMMANDS: Final = 15
"""Number of commands in the detail of a figure."""
MONITORED_JOBS: Final = 10
"""Number of jobs during which MONITOR runs."""


def costs(voxspool: VoxspoolQueue, simple: SimpleWorkerQueue, rounds: int, jobs: int) -> list[Figure]:
    """Measure *cost of a job* (ms) and *jobs a second* of both workers, and of voxspool with one character."""
    return alternate(rounds, {
        voxspool.who: lambda: _cost(voxspool, [voxspool.prepare("") for _ in range(jobs)]),
        simple.who: lambda: _cost(simple, [simple.prepare() for _ in range(jobs)]),
        f"{voxspool.who}, one character": lambda: _cost(voxspool, [voxspool.prepare("a") for _ in range(jobs)]),
    })  # fmt: skip


def commands(
    queues: Sequence[VoxspoolQueue | SimpleWorkerQueue], rounds: int, jobs: int, idle_s: float
) -> list[Figure]:
    """Measure commands, commands sent and round trips per job of both workers; the detail has the top commands."""
    top: dict[str, Counter[str]] = {queue.who: Counter() for queue in queues}
    idle = _idle_rates(queues[0].redis, idle_s)
    in_scripts = {queue.who: _commands_in_scripts(queue) for queue in queues}
    figures = alternate(rounds, {
        queue.who: partial(_commands, queue, jobs, idle, in_scripts[queue.who], top[queue.who]) for queue in queues
    })  # fmt: skip
    return [Figure(one.name, one.who, one.rounds, _detail(top[one.who], rounds * jobs, idle)) for one in figures]


def _cost(queue: VoxspoolQueue | SimpleWorkerQueue, jobs: list[EnqueueData]) -> Samples:
    """Return the samples of one round."""
    with queue.redis.pipeline() as pipeline:
        queue.queue.enqueue_many(jobs, pipeline=pipeline)
        started = time.perf_counter()
        pipeline.execute()
    wait_all(queue.redis, [str(job.job_id) for job in jobs])
    elapsed_s = time.perf_counter() - started
    time.sleep(0.1)  # the worker stores its last records before the other worker is measured
    return {"cost of a job": [elapsed_s * 1e3 / len(jobs)], "jobs a second": [len(jobs) / elapsed_s]}


def _commands(
    queue: VoxspoolQueue | SimpleWorkerQueue, jobs: int, idle: Counter[str], in_scripts: float, top: Counter[str]
) -> Samples:
    """Return the samples of one round: each is the mean over its jobs."""
    started, before = time.monotonic(), _counts(queue.redis)
    waits = sum(wait_done(queue.redis, queue.enqueue()) for _ in paced(jobs))
    time.sleep(0.05)  # include the commands after the result of the last job
    used = _difference(_counts(queue.redis), before)
    used = _difference(used, _scaled(idle, time.monotonic() - started))
    used = _difference(used, Counter({"xread": waits, "(reads)": waits}))
    reads = used.pop("(reads)")
    top.update(used)
    executed = sum(used.values()) / jobs
    return {
        "commands a job": [executed],
        "commands sent a job": [executed - in_scripts],
        "round trips a job": [reads / jobs],
    }


def _commands_in_scripts(queue: VoxspoolQueue | SimpleWorkerQueue) -> float:
    """Return the number of commands in Lua scripts per job; it includes the few of the idle workers."""
    with queue.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        for _ in paced(MONITORED_JOBS):
            wait_done(queue.redis, queue.enqueue())
        time.sleep(0.05)  # include the commands after the result of the last job
        queue.redis.echo("the last job is done")
        seen = itertools.takewhile(lambda one: not one["command"].startswith("ECHO"), monitor.listen())
        return [one["client_type"] for one in seen].count("lua") / MONITORED_JOBS


def _idle_rates(redis: Redis, idle_s: float) -> Counter[str]:
    """Return how often the idle workers call each command, per second, measured for `idle_s` seconds."""
    before = _counts(redis)
    time.sleep(idle_s)  # the measured time
    return _scaled(_difference(_counts(redis), before), 1 / idle_s)


def _counts(redis: Redis) -> Counter[str]:
    """Return the number of calls of each command so far without INFO, and the number of socket reads as `(reads)`."""
    stats: dict[str, Any] = redis.info("commandstats")
    counts = Counter({name.removeprefix("cmdstat_"): int(command["calls"]) for name, command in stats.items()})
    infos = counts.pop("info", 0)
    counts["(reads)"] = redis.info("stats")["total_reads_processed"] - infos
    return counts


def _difference(whole: Counter[str], part: Counter[str]) -> Counter[str]:
    """Return whole - part for each name; unlike `Counter`'s own, it keeps negative results."""
    return Counter({name: whole[name] - part[name] for name in whole.keys() | part.keys()})


def _scaled(counts: Counter[str], factor: float) -> Counter[str]:
    """Return the counts, each multiplied by a factor."""
    return Counter({name: count * factor for name, count in counts.items()})


def _detail(top: Counter[str], jobs: int, idle: Counter[str]) -> dict[str, Any]:
    """Return the number of calls per job of the most frequent commands, and the rate of all commands when idle."""
    return {
        "top_commands_a_job": {name: round(count / jobs, 2) for name, count in top.most_common(TOP_COMMANDS)},
        "idle_commands_a_second": round(sum(count for name, count in idle.items() if name != "(reads)"), 1),
    }
