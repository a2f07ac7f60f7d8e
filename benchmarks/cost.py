"""What a job costs the queue: wall time and Redis commands, with nothing to say and nothing to do.

*cost of a job* is the time from a full queue to its last result, over its number of jobs. One transaction fills the
queue, so hardly any producer runs beside the worker; its own time is counted, some 2% of the whole. A voxspool worker
runs 8 at once, each opening and closing a stream; SimpleWorker one after another. *one character* adds a segment:
two audio entries and a mark, through the engine.

*commands a job* counts all that Redis executes for one job at a time, from enqueue to its result: also what scripts
call and what RQ's transactions hold, by `INFO commandstats`, less the background rate of an idle while. *commands sent*
leaves out what scripts call, as `MONITOR` tells it of a few jobs. *round trips* are the reads of Redis's sockets in
that time (`total_reads_processed`): what latency is made of. The measuring's own commands are taken off.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from figures import Figure, Samples, alternate
from stage import SimpleWorker, Voxspool, settled, wait_all, wait_done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis
    from rq.queue import EnqueueData

TOP: Final = 15
WATCHED_JOBS: Final = 10
"""Jobs that MONITOR watches."""


def costs(voxspool: Voxspool, simple: SimpleWorker, rounds: int, jobs: int) -> list[Figure]:
    """Measure cost of a job and jobs a second, of both sides, and of ours with a character to say."""
    return alternate(rounds, {
        voxspool.who: lambda: _cost(voxspool, [voxspool.prepare("") for _ in range(jobs)]),
        simple.who: lambda: _cost(simple, [simple.prepare() for _ in range(jobs)]),
        f"{voxspool.who}, one character": lambda: _cost(voxspool, [voxspool.prepare("a") for _ in range(jobs)]),
    })  # fmt: skip


def commands(sides: Sequence[Voxspool | SimpleWorker], rounds: int, jobs: int, idle_s: float) -> list[Figure]:
    """Measure commands, sent commands and round trips a job, of both sides; the top commands stand in the detail."""
    top: dict[str, Counter[str]] = {side.who: Counter() for side in sides}
    idle = _rates(sides[0].redis, idle_s)
    called = {side.who: _called_by_scripts(side) for side in sides}
    figures = alternate(
        rounds, {side.who: partial(_commands, side, jobs, idle, called[side.who], top[side.who]) for side in sides}
    )
    return [Figure(one.name, one.who, one.rounds, _detail(top[one.who], rounds * jobs, idle)) for one in figures]


def _cost(side: Voxspool | SimpleWorker, jobs: list[EnqueueData]) -> Samples:
    """Measure one round."""
    with side.redis.pipeline() as pipeline:
        side.queue.enqueue_many(jobs, pipeline=pipeline)
        began = time.perf_counter()
        pipeline.execute()
    wait_all(side.redis, [str(job.job_id) for job in jobs])
    took_s = time.perf_counter() - began
    time.sleep(0.1)  # the last records are written before the other side is timed
    return {"cost of a job": [took_s * 1e3 / len(jobs)], "jobs a second": [len(jobs) / took_s]}


def _commands(
    side: Voxspool | SimpleWorker, jobs: int, idle: Counter[str], called: float, top: Counter[str]
) -> Samples:
    """Measure one round: totals over its jobs, as one sample each."""
    began, before = time.monotonic(), _counts(side.redis)
    asked = sum(wait_done(side.redis, side.enqueue()) for _ in settled(jobs))
    time.sleep(0.05)  # what follows a job's result is counted with it
    spent = _less(_counts(side.redis), before)
    spent = _less(spent, _scaled(idle, time.monotonic() - began))
    spent = _less(spent, Counter({"xread": asked, "(reads)": asked}))
    reads = spent.pop("(reads)")
    top.update(spent)
    executed = sum(spent.values()) / jobs
    return {
        "commands a job": [executed],
        "commands sent a job": [executed - called],
        "round trips a job": [reads / jobs],
    }


def _called_by_scripts(side: Voxspool | SimpleWorker) -> float:
    """Count the commands that scripts call for one job; the few of the background among them."""
    with side.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        for _ in settled(WATCHED_JOBS):
            wait_done(side.redis, side.enqueue())
        time.sleep(0.05)  # what follows a job's result is counted with it
        side.redis.echo("the last job is done")
        seen = itertools.takewhile(lambda one: not one["command"].startswith("ECHO"), monitor.listen())
        return [one["client_type"] for one in seen].count("lua") / WATCHED_JOBS


def _rates(redis: Redis, idle_s: float) -> Counter[str]:
    """Return what the workers do while nobody wants anything, a second."""
    before = _counts(redis)
    time.sleep(idle_s)  # this is what is measured
    return _scaled(_less(_counts(redis), before), 1 / idle_s)


def _counts(redis: Redis) -> Counter[str]:
    """Return the calls of each command so far, and Redis's reads; questions like this one left out."""
    stats: dict[str, Any] = redis.info("commandstats")
    counts = Counter({name.removeprefix("cmdstat_"): int(said["calls"]) for name, said in stats.items()})
    questions = counts.pop("info", 0)
    counts["(reads)"] = redis.info("stats")["total_reads_processed"] - questions
    return counts


def _less(whole: Counter[str], part: Counter[str]) -> Counter[str]:
    """Subtract, below zero too."""
    return Counter({name: whole[name] - part[name] for name in whole.keys() | part.keys()})


def _scaled(counts: Counter[str], factor: float) -> Counter[str]:
    """Multiply."""
    return Counter({name: count * factor for name, count in counts.items()})


def _detail(top: Counter[str], jobs: int, idle: Counter[str]) -> dict[str, Any]:
    """Return the commands a job, the most frequent first, and the background."""
    return {
        "top_commands_a_job": {name: round(count / jobs, 2) for name, count in top.most_common(TOP)},
        "idle_commands_a_second": round(sum(count for name, count in idle.items() if name != "(reads)"), 1),
    }
