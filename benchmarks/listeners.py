"""Benchmark of Piper with several listeners, optionally beside another checkout of voxspool; writes JSON.

    python -m benchmarks.listeners --out build/listeners.json
    python -m benchmarks.listeners --before ../other --rounds 10    both workers in turn, round after round

Each system is one worker with its defaults and a Redis of its own; while one is measured, the other is idle. All
readers are threads of this process.

*first audio* is the time from the call of `enqueue` to the first audio at a reader, in ms: of one job alone, of the
median job of several that are enqueued together, and of a sentence that is enqueued when eight passages have begun, for
listeners or as batch work. *characters a second* is the text of eight passages that are enqueued together, divided by
the time until the last has ended. *worker memory* is the resident memory of the worker after a round, in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psutil

from benchmarks.bench import describe_machine
from benchmarks.figures import OURS, Figure, Samples, alternate
from benchmarks.testbed import Testbed
from voxspool import Client, Settings, SpeechCancelledError
from voxspool_worker.engines.benchmark import PASSAGE, SENTENCE

if TYPE_CHECKING:
    import subprocess

    from voxspool import Speech
    from voxspool.protocol.jobs import Priority

BEFORE: Final = "before"
"""The name of the other checkout in the report."""
SHORT: Final = SENTENCE[:60]
PASSAGES: Final = 8
MANY: Final = 16


class Listened(NamedTuple):
    """What listeners of jobs that were enqueued together have measured."""

    first_ms: float
    """Median time to the first audio."""
    elapsed_s: float
    """Time until the last job has ended."""


class Listeners:
    """The listeners of one worker."""

    def __init__(self, client: Client, worker: subprocess.Popen[bytes]) -> None:
        self._client = client
        self._worker = worker
        self._threads = ThreadPoolExecutor(MANY)

    def warm_up(self) -> None:
        """Speak two sentences at once, which loads what a worker loads when it is first needed."""
        self._listen([SHORT, SHORT])

    def measure(self) -> Samples:
        """Return the samples of one round."""
        eight = self._listen([PASSAGE] * PASSAGES)
        return {
            "first audio, 60 characters alone": [self._listen([SHORT]).first_ms],
            "first audio, 700 characters alone": [self._listen([PASSAGE]).first_ms],
            "first audio, 8 at once": [eight.first_ms],
            "first audio, 16 at once": [self._listen([PASSAGE] * MANY, to_the_end=False).first_ms],
            "first audio, a sentence while 8 passages are spoken": [self._interrupt("interactive")],
            "first audio, a sentence while 8 passages are batch work": [self._interrupt("batch")],
            "characters a second, 8 at once": [len(PASSAGE) * PASSAGES / eight.elapsed_s],
            "worker memory": [psutil.Process(self._worker.pid).memory_info().rss / 1e6],
        }

    def _listen(self, texts: list[str], *, to_the_end: bool = True) -> Listened:
        """Speak texts that are enqueued together; without `to_the_end` they are cancelled when all have begun."""
        began = time.monotonic()
        speeches = [self._client.enqueue(text) for text in texts]
        first = [at - began for at in self._threads.map(wait_for_audio, speeches)]
        for speech in speeches:
            if not to_the_end:
                speech.cancel()
            end(speech)
        return Listened(1e3 * statistics.median(first), time.monotonic() - began)

    def _interrupt(self, priority: Priority) -> float:
        """Return the time to the first audio of a sentence, in ms, while passages of this priority are spoken."""
        passages = [self._client.enqueue(PASSAGE, priority=priority) for _ in range(PASSAGES)]
        list(self._threads.map(wait_for_audio, passages))
        first_ms = self._listen([SHORT]).first_ms
        for speech in passages:
            speech.cancel()
            end(speech)
        return first_ms


def wait_for_audio(speech: Speech) -> float:
    """Wait for the first audio of a speech; return when it came, by `time.monotonic`."""
    next(iter(speech))
    return time.monotonic()


def end(speech: Speech) -> None:
    """Wait for the end of a speech, however it ends."""
    with suppress(SpeechCancelledError):
        speech.wait()


def environment(checkout: Path | None) -> dict[str, str]:
    """Return the variables with which a worker runs from another checkout."""
    return (
        {}
        if checkout is None
        else {"PYTHONPATH": os.pathsep.join(str(checkout / part) for part in ("worker", "producer"))}
    )


def measure(rounds: int, before: Path | None) -> dict[str, object]:
    """Return the report."""
    started = datetime.now(UTC)
    with ExitStack() as stack:
        systems: dict[str, Listeners] = {}
        for who, checkout in ((BEFORE, before), (OURS, None)):
            if who == BEFORE and before is None:
                continue
            testbed = stack.enter_context(Testbed())
            client = stack.enter_context(Client(settings=Settings(redis_url=testbed.url, engine="piper")))
            worker = testbed.start_worker(client, "piper", environ=environment(checkout), jobs=None)
            systems[who] = Listeners(client, worker)
            systems[who].warm_up()
        machine = describe_machine(testbed)
        figures = alternate(rounds, {who: partial(system.measure) for who, system in systems.items()})
    return {
        "date": started.isoformat(timespec="seconds"),
        "machine": machine,
        "figures": [_as_json(one) for one in figures],
    }


def _as_json(figure: Figure) -> dict[str, object]:
    """Return a figure with its samples."""
    return figure.as_json() | {"samples": [sample for samples in figure.rounds for sample in samples]}


def main() -> None:
    """Run the benchmark, write the JSON file and print the medians."""
    parser = argparse.ArgumentParser(description="Measure Piper with several listeners.")
    parser.add_argument("--out", type=Path, default=Path("build/listeners.json"), help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn with this one")
    arguments = parser.parse_args()
    report = measure(arguments.rounds, arguments.before)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for figure in report["figures"]:  # type: ignore[attr-defined]
        print(f"{figure['name']:<58} {figure['who']:<10} {figure['p50']:>8.0f} {figure['unit']}")


if __name__ == "__main__":
    main()
