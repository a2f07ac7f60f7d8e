"""Benchmark of Piper behind voxspool and behind other servers, with the same voice; prints a table and writes JSON.

    python -m benchmarks.peers --out build/bench-peers.json          ten minutes, after the installation of the others
    python -m benchmarks.peers --out build/bench-peers.json --quick  a check that it runs, with rough figures

The systems are voxspool, wyoming-piper, the HTTP server of piper-tts, and a loop in Python with two sessions of one
thread each. Every other system has an environment of its own in build/peers. All servers run for the whole benchmark;
they are measured in turn, so that other load on the machine affects all of them equally.

*first audio* is the time from the request to the first samples at the client, in ms: a sentence or a passage of about
700 characters alone, 8 and 16 different sentences at once, and one sentence after 8 passages have begun. *speed* is
the number of characters per second if 8 passages are spoken at once. *CPU after leaving* is the CPU time that a server
uses after its only client has left a long text at the first audio, in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from benchmarks.bench import PIPE_WIDTH, describe_machine, table
from benchmarks.figures import OURS, Figure, Samples, alternate
from benchmarks.peer_systems import PEERS, InstallError, PeerServer, VoxspoolServer
from benchmarks.testbed import StartError, Testbed
from voxspool_worker.engines.benchmark import PASSAGE, SENTENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peer_systems import Server

LONG: Final = 5
"""Number of passages in a long text, which takes Piper seconds: about 3,500 characters."""
BESIDE_S: Final = 1.0
"""Time after which a sentence is requested beside 8 passages, in seconds: together they take Piper 7 s on two cores."""
IDLE_CPU_S: Final = 0.05
"""A server is idle if it uses less CPU time than this, in seconds, within IDLE_S."""
IDLE_S: Final = 0.5
IDLE_TIMES: Final = 3
"""The number of quiet intervals in a row after which a server is idle; one that waits for a core is quiet, too."""
WORDS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight")

_numbers = itertools.count()


def main() -> None:
    """Run the benchmark, write the JSON file and print the table."""
    parser = argparse.ArgumentParser(description="Measure Piper behind voxspool and behind other servers.")
    parser.add_argument("--out", type=Path, default=Path("build/bench-peers.json"), help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a short run with rough figures")
    parser.add_argument("--only", nargs="*", default=[*PEERS], choices=[*PEERS], help="the other systems to measure")
    arguments = parser.parse_args()
    folder = arguments.out.parent / "peers"
    rounds, passage = (1, SENTENCE) if arguments.quick else (5, PASSAGE)
    report = measure(arguments.only, folder, rounds, passage, Console(stderr=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=PIPE_WIDTH)
    console.print(table(report))
    for name, why in report["skipped"].items():
        console.print(f"{name}: skipped, {why}", soft_wrap=True, markup=False)
    sys.exit(0 if report["figures"] else 1)


def measure(peers: list[str], folder: Path, rounds: int, passage: str, progress: Console) -> dict[str, Any]:
    """Return the report. A system that cannot be installed or started is skipped, with the reason."""
    started = datetime.now(UTC)
    skipped: dict[str, str] = {}
    figures: list[Figure] = []
    with Testbed() as testbed, ExitStack() as opened:
        servers: dict[str, Server] = {}
        for name in (OURS, *peers):
            with progress.status(f"starting {name}"):
                try:
                    server = VoxspoolServer(testbed) if name == OURS else PeerServer(PEERS[name], testbed, folder)
                    opened.callback(server.close)
                    speak(server, SENTENCE)  # not measured, because models are loaded and memory is allocated
                    servers[name] = server
                except (StartError, InstallError, OSError) as error:
                    skipped[name] = str(error)
        machine = describe_machine(testbed)
        for name, measurement in measurements(passage).items():
            with progress.status(f"measuring {name}"):
                figures += alternate(rounds, {who: partial(measurement, server) for who, server in servers.items()})
    return {
        "date": started.isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {name: PEERS[name].requirement for name in peers},
        "figures": [figure.as_json() for figure in figures],
        "skipped": skipped,
    }


def speak(server: Server, text: str) -> float:
    """Read the whole audio of a text from a server; return the time to the first audio, in ms."""
    before = time.monotonic()
    first_ms = 0.0
    for _ in server.speak(text):
        if not first_ms:
            first_ms = (time.monotonic() - before) * 1e3
    if not first_ms:
        raise StartError(f"{server.who} returned no audio")
    return first_ms


def alone(passage: str, server: Server) -> Samples:
    """Return the samples of a sentence and of a passage, each alone."""
    return {
        "first audio, sentence alone": [speak(server, fresh(SENTENCE))],
        "first audio, passage alone": [speak(server, fresh(passage))],
    }


def at_once(clients: int, server: Server) -> Samples:
    """Return the median of the times to the first audio of several clients that ask at the same time."""
    with ThreadPoolExecutor(clients) as pool:
        times = [*pool.map(partial(speak, server), [fresh(SENTENCE) for _ in range(clients)])]
    return {f"first audio, {clients} at once": [statistics.median(times)]}


def busy(passage: str, server: Server) -> Samples:
    """Return the samples of a sentence that is requested while 8 passages are spoken, and the speed of the passages."""
    texts = [fresh(passage) for _ in range(8)]
    before = time.monotonic()
    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(partial(speak, server), texts))
    speed = sum(map(len, texts)) / (time.monotonic() - before)
    with ThreadPoolExecutor(len(texts)) as pool:
        running = [pool.submit(speak, server, fresh(passage)) for _ in texts]
        time.sleep(BESIDE_S)  # by then all passages are being spoken
        first_ms = speak(server, fresh(SENTENCE))
        for one in running:
            one.result()
    return {"first audio, sentence beside 8 passages": [first_ms], "speed, 8 passages at once": [speed]}


def leaving(passage: str, server: Server) -> Samples:
    """Return the CPU time that a server uses after its client has left."""
    audio = server.speak(fresh(" ".join([passage] * LONG)))
    next(audio)
    before = server.cpu_s()
    audio.close()
    return {"CPU after leaving": [_cpu_when_idle(server) - before]}


def _cpu_when_idle(server: Server) -> float:
    """Wait until a server is idle and return its CPU time, in seconds."""
    seen, quiet = server.cpu_s(), 0
    while quiet < IDLE_TIMES:
        time.sleep(IDLE_S)  # the interval over which CPU time is compared
        now = server.cpu_s()
        quiet = quiet + 1 if now - seen < IDLE_CPU_S else 0
        seen = now
    return seen


def fresh(text: str) -> str:
    """Return a text that begins with words of its own, so that no system can answer from a cache."""
    number = next(_numbers)
    return f"{WORDS[number % 8].capitalize()} {WORDS[number // 8 % 8]} {WORDS[number // 64 % 8]}, {text}"


def measurements(passage: str) -> dict[str, Callable[[Server], Samples]]:
    """Return the name of each measurement and its function, in order."""
    return {
        "one client": partial(alone, passage),
        "8 clients": partial(at_once, 8),
        "16 clients": partial(at_once, 16),
        "a sentence beside 8 passages": partial(busy, passage),
        "a client that leaves": partial(leaving, passage),
    }


if __name__ == "__main__":
    main()
