"""Benchmark of XTTS: upstream's two interfaces and voxspool's engine, with one random checkpoint, in one run.

    python -m benchmarks.xtts --out build/bench-xtts.json           a quarter of an hour on two cores
    python -m benchmarks.xtts --out build/bench-xtts.json --quick   a small checkpoint: a check that it runs

It writes the JSON file and a plot (.png), and prints a table. The checkpoint (1.9 GB) is written once, into build/.

| figure | definition |
|---|---|
| first chunk | time to the first audio of a sentence; conditioning is cached, except with TTS.api, which cannot |
| sentence, passage | real-time factor: computing time / audio duration; the passage is 7 sentences in sequence |
| narration | real-time factor of 20 sentences in a batch; upstream has no batches, so its passage is compared |
| chunk | time from one chunk of a sentence to the next, for each chunk number: token generation and vocoding |
| load, peak memory | of a process that loads the model and speaks a few words; from its start, with cached files |
| decode | tokens per second with a number of rows, without vocoding |

The systems alternate, and figures are medians over rounds; upstream is slow, so it speaks the passage once. The machine
must have no other load: PyTorch's threads synchronise often, and a thread that waits for a core costs milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import xtts_systems as systems
from benchmarks.figures import Figure, Samples, alternate
from benchmarks.random_xtts import NEVER, SMALL, write_checkpoint
from benchmarks.xtts_limits import limits
from voxspool_worker.engines.benchmark import PASSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.xtts_systems import XttsSystem

FIRST: Final = "The lighthouse stood at the end of a long and narrow spit of sand."
PACKAGES: Final = ("voxspool-worker", "torch", "coqui-tts", "transformers", "numpy")
LESS_IS_BETTER: Final = ("first chunk", "sentence", "passage", "narration", "load", "peak memory")


@dataclass(frozen=True, slots=True)
class XttsPlan:
    """The numbers of rounds and sentences of each measurement."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of the checkpoint; empty: those of XTTS v2."""
    rounds: int = 3
    load_rounds: int = 1
    passage: str = PASSAGE
    passage_rounds: dict[str, int] = field(default_factory=lambda: {"upstream": 1, "voxspool": 3})
    narration: int = 20
    """Number of sentences."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch_steps: int = 30


QUICK: Final = XttsPlan(
    sizes=dict(SMALL), rounds=1, passage="Two words. And two more.", passage_rounds={"upstream": 1, "voxspool": 1},
    narration=3, batches=(1, 2), batch_steps=3,
)  # fmt: skip


def main() -> None:
    """Run the benchmark, write the JSON file and the plot, and print the table."""
    parser = argparse.ArgumentParser(description="Measure XTTS: upstream and voxspool.")
    parser.add_argument("--out", type=Path, default=Path("build/bench-xtts.json"), help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small checkpoint; the figures are meaningless")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the systems whose names contain TEXT")
    arguments = parser.parse_args()
    out: Path = arguments.out
    plan = QUICK if arguments.quick else XttsPlan()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = checkpoint(out.parent / ("xtts-small" if arguments.quick else "xtts-random"), plan)
    names = [name for name in (systems.API, systems.STREAM, *systems.VOXSPOOL) if arguments.only in name]
    report = measure(plan, folder, names, Console(stderr=True))
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot(report, out.with_suffix(".png"))
    Console().print(table(report))
    for line in ratios(report):
        print(line)


def checkpoint(folder: Path, plan: XttsPlan) -> Path:
    """Return the folder of the checkpoint; write it first if it does not exist.

    The checkpoint never generates the stop token, so that all systems do the same work.
    """
    if not (folder / "clip.wav").exists():
        write_checkpoint(folder, stop_bias=NEVER, **plan.sizes)
        systems.write_clip(folder / "clip.wav")
    return folder


def measure(plan: XttsPlan, folder: Path, names: Sequence[str], progress: Console) -> dict[str, Any]:
    """Return the report of the named systems."""
    started = datetime.now(UTC)
    load_before = os.getloadavg()[0]
    with progress.status("measuring load time and memory"):
        figures = alternate(plan.load_rounds, {name: partial(load, name, folder) for name in names})
    for name in (name for name in systems.VOXSPOOL if name in names):
        with progress.status(f"measuring tokens per second, {name}"):
            figures += decode(name, folder, plan)
    with progress.status("loading"):
        loaded = _load(names, folder)
    for what, measured in measurements(plan, loaded):
        with progress.status(f"measuring {what}"):
            figures += measured
    return {
        "date": started.isoformat(timespec="seconds"),
        "took_s": (datetime.now(UTC) - started).total_seconds(),
        "machine": describe_machine(load_before),
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures],
    }


def measurements(plan: XttsPlan, loaded: dict[str, XttsSystem]) -> Iterator[tuple[str, Iterator[Figure]]]:
    """Yield the name of each measurement and its figures; a measurement runs when its figures are iterated over."""
    first = systems.Sentence.of_text(FIRST if not plan.sizes else "Two.")
    yield "sentences", lazily(lambda: alternate(
        plan.rounds, {who: partial(speak_sentence, system, first) for who, system in loaded.items()}
    ))  # fmt: skip
    passage = [systems.Sentence.of_text(text) for text in re.split(r"(?<=[.!?]) ", plan.passage)]
    for who, system in loaded.items():
        rounds = plan.passage_rounds[who.partition(" ")[0]]
        yield f"the passage, {who}", speak_passage(who, system, passage, rounds)
    sentences = (passage * plan.narration)[: plan.narration]
    batched = {who: system for who, system in loaded.items() if isinstance(system, systems.VoxspoolEngine)}
    yield "narration", lazily(lambda: alternate(
        plan.rounds, {who: partial(narrate, system, sentences) for who, system in batched.items()}
    ))  # fmt: skip


def lazily(measure_figures: Callable[[], list[Figure]]) -> Iterator[Figure]:
    """Run a measurement when its first figure is requested."""
    yield from measure_figures()


def _load(names: Sequence[str], folder: Path) -> dict[str, XttsSystem]:
    """Load the systems; upstream's two interfaces share one model."""
    loaded: dict[str, XttsSystem] = {}
    for name in names:
        if name == systems.STREAM and isinstance(api := loaded.get(systems.API), systems.UpstreamApi):
            loaded[name] = systems.UpstreamStream(api.model)
        else:
            loaded[name] = systems.load(name, folder, folder / "clip.wav")
    return loaded


def load(name: str, folder: Path) -> Samples:
    """Load a system in a new process; return its load time (s) and peak memory (GB)."""
    command = [
        sys.executable, "-m", systems.__name__, name, str(folder), str(folder / "clip.wav"), str(time.time()),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return {"load": [result["load_s"]], "peak memory": [result["peak_bytes"] / 1e9]}


def decode(name: str, folder: Path, plan: XttsPlan) -> list[Figure]:
    """Return the tokens per second for each number of rows."""
    speeds: dict[int, list[list[float]]] = {}
    for _ in range(plan.rounds):
        for rows, speed in systems.decoding_speeds(folder, systems.VOXSPOOL[name], plan.batches, plan.batch_steps):
            speeds.setdefault(rows, []).append([speed])
    return [Figure(f"decode, {rows} rows", name, samples) for rows, samples in speeds.items()]


def speak_sentence(system: XttsSystem, sentence: systems.Sentence) -> Samples:
    """Return the time to the first chunk (s) and the real-time factor of one sentence."""
    chunks = list(timed_chunks(system, sentence))
    return {"first chunk": [chunks[0][0]], "sentence": [chunks[-1][0] / _audio_s(chunks)]}


def speak_passage(who: str, system: XttsSystem, passage: Sequence[systems.Sentence], rounds: int) -> Iterator[Figure]:
    """Speak the passage sentence by sentence; yield its real-time factor and the times of its chunks."""
    factors, chunk_times = [], []
    for _ in range(rounds):
        spoken = [list(timed_chunks(system, sentence)) for sentence in passage]
        seconds, audio_s = sum(chunks[-1][0] for chunks in spoken), sum(map(_audio_s, spoken))
        factors.append([seconds / audio_s])
        chunk_times.append([_gaps_s(chunks) for chunks in spoken])
        detail = {"seconds": seconds, "audio_s": audio_s, "characters": sum(len(sentence.text) for sentence in passage)}
    yield Figure("passage", who, factors, detail)
    yield Figure(
        "chunk",
        who,
        [[gap for gaps in spoken for gap in gaps] for spoken in chunk_times],
        {"by_k": _by_k(list(chain.from_iterable(chunk_times)))},
    )


def narrate(system: XttsSystem, sentences: Sequence[systems.Sentence]) -> Samples:
    """Return the real-time factor of many sentences, spoken in the fastest way of the system."""
    started = time.perf_counter()
    samples = sum(system.narrate(sentences))
    return {"narration": [(time.perf_counter() - started) / (samples / systems.RATE_HZ)]}


def timed_chunks(system: XttsSystem, sentence: systems.Sentence) -> Iterator[tuple[float, int]]:
    """Yield the time of each chunk since the start of the sentence (s), and its number of samples."""
    started = time.perf_counter()
    for samples in system.speak(sentence):
        yield time.perf_counter() - started, samples


def _audio_s(chunks: Sequence[tuple[float, int]]) -> float:
    """Return the duration of the audio in chunks, in seconds."""
    return sum(samples for _, samples in chunks) / systems.RATE_HZ


def _gaps_s(chunks: Sequence[tuple[float, int]]) -> list[float]:
    """Return the time that each chunk took, in seconds."""
    times = [0.0, *(at_s for at_s, _ in chunks)]
    return [later - earlier for earlier, later in pairwise(times)]


def _by_k(times: Sequence[Sequence[float]]) -> list[float]:
    """Return the median time of the k-th chunk over all sentences that have one; `times` has a list per sentence."""
    import statistics

    return [
        statistics.median(gaps[k] for gaps in times if len(gaps) > k) for k in range(max(len(gaps) for gaps in times))
    ]


def describe_machine(load_before: float) -> dict[str, Any]:
    """Return a description of the machine, its hardware limits and the versions of the software."""
    return {
        "cpu_count": os.cpu_count(),
        "load_before": load_before,
        "platform": platform.platform(),
        "processor": _processor(),
        "python": sys.version.split()[0],
        "limits": limits(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """Return the name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")


def table(report: dict[str, Any]) -> Table:
    """Return a table of the figures, with the machine and its limits in the title."""
    machine, maximum = report["machine"], report["machine"]["limits"]
    result = Table(
        title=f"{machine['cpu_count']} CPUs ({machine['processor']}), {maximum['read_gb_s']:.0f} GB/s, "
        f"{maximum['gflops_fp32']:.0f} / {maximum['gflops_bf16']:.0f} GFLOP/s in fp32 / bf16"
    )
    result.add_column("figure")
    result.add_column("system")
    for heading in ("p50", "unit", "n"):
        result.add_column(heading, justify="right", no_wrap=True)
    for figure in report["figures"]:
        result.add_row(figure["name"], figure["who"], f"{figure['p50']:.3g}", figure["unit"], str(figure["n"]))
    return result


def ratios(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each comparison of voxspool with an interface of upstream."""
    found = {(figure["name"], figure["who"]): figure["p50"] for figure in report["figures"]}
    for name in LESS_IS_BETTER:
        for who in systems.VOXSPOOL:
            for upstream in (systems.STREAM, systems.API):
                theirs = found.get(("passage" if name == "narration" else name, upstream))
                if theirs is not None and (name, who) in found:
                    yield f"{name}: {who} {theirs / found[name, who]:.1f} x better than {upstream}"


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the times of chunks and the real-time factors, and write them to an image file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    image, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _plot_chunk_times(report, left)
    _plot_real_time_factors(report, right)
    image.savefig(path, dpi=120)


def _plot_chunk_times(report: dict[str, Any], axes: Any) -> None:
    """Draw the time of each chunk of a sentence, a line per system."""
    for figure in report["figures"]:
        if figure["name"] == "chunk" and figure["who"] != systems.API:
            times = figure["detail"]["by_k"]
            axes.plot(range(1, len(times) + 1), times, marker="o", label=figure["who"])
    axes.set(xlabel="chunk k of a sentence", ylabel="seconds since the chunk before", ylim=(0, None))
    axes.legend()


def _plot_real_time_factors(report: dict[str, Any], axes: Any) -> None:
    """Draw the real-time factors of passage and narration as bars, with a line at 1."""
    passages = [figure for figure in report["figures"] if figure["name"] in {"passage", "narration"}]
    names = [f"{figure['who']}, {figure['name']}" for figure in passages]
    bars = axes.barh(names, [figure["p50"] for figure in passages])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1.0, color="black", linewidth=1, linestyle=":")
    axes.invert_yaxis()
    axes.set(xlabel="real-time factor (computing time / audio duration)")


if __name__ == "__main__":
    main()
