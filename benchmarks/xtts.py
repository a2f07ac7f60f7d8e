"""Measures XTTS: upstream's two interfaces and voxspool's engine, on one random checkpoint, in one run.

    python benchmarks/xtts.py --out build/bench-xtts.json           a quarter of an hour on two cores
    python benchmarks/xtts.py --out build/bench-xtts.json --quick   a small checkpoint: does it run

Writes the JSON, a plot beside it (.png), and prints a table. The checkpoint, 1.9 GB, is made once and kept in build/.

| figure | what it is |
|---|---|
| first chunk | from a sentence to its first audio; the voice is known (but to TTS.api, which always listens again) |
| sentence, passage | seconds of work a second of audio; the passage's 7 sentences one after the other |
| narration | the same for 20 sentences, in whatever way is fastest; upstream has no batch: its passage stands for it |
| chunk | seconds between the chunks of a sentence, the k-th of each: all tokens and vocoding in between |
| load, peak memory | of a process that loads and says a few words; from the process's start, files cached |
| decode | tokens a second at B rows at once, no vocoding |

Sides take turns, figures are medians over rounds. Upstream is slow: it says the passage once. The machine must have
nothing else to do: where PyTorch's threads wait for a core, each of their many meetings costs milliseconds.
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

import xtts_sides as sides
from figures import Figure, Samples, alternate
from random_xtts import NEVER, SMALL, write_checkpoint
from voxspool_worker.engines.benchmark import PASSAGE
from xtts_limits import limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xtts_sides import Side

FIRST: Final = "The lighthouse stood at the end of a long and narrow spit of sand."
PACKAGES: Final = ("voxspool-worker", "torch", "coqui-tts", "transformers", "numpy")
LESS_IS_BETTER: Final = ("first chunk", "sentence", "passage", "narration", "load", "peak memory")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    sizes: dict[str, int] = field(default_factory=dict)
    rounds: int = 3
    load_rounds: int = 1
    passage: str = PASSAGE
    passage_rounds: dict[str, int] = field(default_factory=lambda: {"upstream": 1, "voxspool": 3})
    narration: int = 20
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    batch_steps: int = 30


QUICK: Final = Plan(
    sizes=dict(SMALL), rounds=1, passage="Two words. And two more.", passage_rounds={"upstream": 1, "voxspool": 1},
    narration=3, batches=(1, 2), batch_steps=3,
)  # fmt: skip


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="Measure XTTS: upstream and voxspool.")
    parser.add_argument("--out", type=Path, default=Path("build/bench-xtts.json"), help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="a small checkpoint, with meaningless figures")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the sides with this in their name")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else Plan()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    folder = checkpoint(asked.out.parent / ("xtts-small" if asked.quick else "xtts-random"), plan)
    names = [name for name in (sides.API, sides.STREAM, *sides.OURS) if asked.only in name]
    report = measure(plan, folder, names, Console(stderr=True))
    asked.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    plot(report, asked.out.with_suffix(".png"))
    Console().print(table(report))
    for line in ratios(report):
        print(line)


def checkpoint(folder: Path, plan: Plan) -> Path:
    """Make the checkpoint, once. It never stops by itself, so that all sides do the same work."""
    if not (folder / "clip.wav").exists():
        write_checkpoint(folder, stop_bias=NEVER, **plan.sizes)
        sides.write_clip(folder / "clip.wav")
    return folder


def measure(plan: Plan, folder: Path, names: Sequence[str], progress: Console) -> dict[str, Any]:
    """Measure everything."""
    began = datetime.now(UTC)
    load_before = os.getloadavg()[0]
    with progress.status("measuring load time and memory"):
        figures = alternate(plan.load_rounds, {name: partial(load, name, folder) for name in names})
    for name in (name for name in sides.OURS if name in names):
        with progress.status(f"measuring tokens a second, {name}"):
            figures += decode(name, folder, plan)
    with progress.status("loading"):
        loaded = _load(names, folder)
    for what, step in steps(plan, loaded):
        with progress.status(f"measuring {what}"):
            figures += step
    return {
        "date": began.isoformat(timespec="seconds"),
        "took_s": (datetime.now(UTC) - began).total_seconds(),
        "machine": about(load_before),
        "plan": asdict(plan),
        "figures": [figure.as_json() for figure in figures],
    }


def steps(plan: Plan, loaded: dict[str, Side]) -> Iterator[tuple[str, Iterator[Figure]]]:
    """Yield what is to be measured, one after another; each is measured when it is asked for its figures."""
    first = sides.Sentence.read(FIRST if not plan.sizes else "Two.")
    yield (
        "sentences",
        iter_of(lambda: alternate(plan.rounds, {who: partial(one, s, first) for who, s in loaded.items()})),
    )
    passage = [sides.Sentence.read(text) for text in re.split(r"(?<=[.!?]) ", plan.passage)]
    for who, side in loaded.items():
        rounds = plan.passage_rounds[who.partition(" ")[0]]
        yield f"the passage, {who}", iter_of(partial(whole, who, side, passage, rounds))
    sentences = (passage * plan.narration)[: plan.narration]
    ours = {who: side for who, side in loaded.items() if isinstance(side, sides.Ours)}
    yield (
        "narration",
        iter_of(
            lambda: alternate(plan.rounds, {who: partial(narration, side, sentences) for who, side in ours.items()})
        ),
    )


def iter_of(measuring: Any) -> Iterator[Figure]:
    """Measure when the first figure is asked for."""
    yield from measuring()


def _load(names: Sequence[str], folder: Path) -> dict[str, Side]:
    """Load the sides; upstream's two share one model."""
    loaded: dict[str, Side] = {}
    for name in names:
        if name == sides.STREAM and isinstance(api := loaded.get(sides.API), sides.UpstreamApi):
            loaded[name] = sides.UpstreamStream(api.model)
        else:
            loaded[name] = sides.load(name, folder, folder / "clip.wav")
    return loaded


def load(name: str, folder: Path) -> Samples:
    """Load a side in a process of its own."""
    command = [
        sys.executable, str(Path(sides.__file__)), name, str(folder), str(folder / "clip.wav"), str(time.time()),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return {"load": [said["load_s"]], "peak memory": [said["peak_bytes"] / 1e9]}


def decode(name: str, folder: Path, plan: Plan) -> list[Figure]:
    """Decode on many rows at once."""
    taken: dict[int, list[list[float]]] = {}
    for _ in range(plan.rounds):
        for rows, tokens in sides.decoding(folder, sides.OURS[name], plan.batches, plan.batch_steps):
            taken.setdefault(rows, []).append([tokens])
    return [Figure(f"decode, {rows} rows", name, samples) for rows, samples in taken.items()]


def one(side: Side, sentence: sides.Sentence) -> Samples:
    """Speak one sentence."""
    chunks = list(heard(side, sentence))
    return {"first chunk": [chunks[0][0]], "sentence": [chunks[-1][0] / _audio_s(chunks)]}


def whole(who: str, side: Side, passage: Sequence[sides.Sentence], rounds: int) -> Iterator[Figure]:
    """Speak the passage, sentence by sentence; look at the chunks of each."""
    factors, costs = [], []
    for _ in range(rounds):
        spoken = [list(heard(side, sentence)) for sentence in passage]
        seconds, audio_s = sum(chunks[-1][0] for chunks in spoken), sum(map(_audio_s, spoken))
        factors.append([seconds / audio_s])
        costs.append([_gaps_s(chunks) for chunks in spoken])
        detail = {"seconds": seconds, "audio_s": audio_s, "characters": sum(len(one.text) for one in passage)}
    yield Figure("passage", who, factors, detail)
    yield Figure(
        "chunk",
        who,
        [[gap for gaps in spoken for gap in gaps] for spoken in costs],
        {"by_k": _by_k(list(chain.from_iterable(costs)))},
    )


def narration(side: Side, sentences: Sequence[sides.Sentence]) -> Samples:
    """Speak many sentences in whatever way is fastest."""
    began = time.perf_counter()
    samples = sum(side.narrate(sentences))
    return {"narration": [(time.perf_counter() - began) / (samples / sides.RATE_HZ)]}


def heard(side: Side, sentence: sides.Sentence) -> Iterator[tuple[float, int]]:
    """Yield each chunk's time since the sentence was handed over, and its samples."""
    began = time.perf_counter()
    for samples in side.speak(sentence):
        yield time.perf_counter() - began, samples


def _audio_s(chunks: Sequence[tuple[float, int]]) -> float:
    """Return the seconds of what was heard."""
    return sum(samples for _, samples in chunks) / sides.RATE_HZ


def _gaps_s(chunks: Sequence[tuple[float, int]]) -> list[float]:
    """Return the time that each chunk took."""
    times = [0.0, *(at_s for at_s, _ in chunks)]
    return [later - earlier for earlier, later in pairwise(times)]


def _by_k(costs: Sequence[Sequence[float]]) -> list[float]:
    """Return the median time of the k-th chunk, over sentences that have one."""
    import statistics

    return [
        statistics.median(gaps[k] for gaps in costs if len(gaps) > k) for k in range(max(len(gaps) for gaps in costs))
    ]


def about(load_before: float) -> dict[str, Any]:
    """Describe the machine, its limits and the versions."""
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
    """Name the processor."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")), "")


def table(report: dict[str, Any]) -> Table:
    """Lay the figures out."""
    machine, most = report["machine"], report["machine"]["limits"]
    shown = Table(
        title=f"{machine['cpu_count']} CPUs ({machine['processor']}), {most['read_gb_s']:.0f} GB/s, "
        f"{most['gflops_fp32']:.0f} / {most['gflops_bf16']:.0f} GFLOP/s in fp32 / bf16"
    )
    shown.add_column("figure")
    shown.add_column("of")
    for heading in ("p50", "unit", "n"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for figure in report["figures"]:
        shown.add_row(figure["name"], figure["who"], f"{figure['p50']:.3g}", figure["unit"], str(figure["n"]))
    return shown


def ratios(report: dict[str, Any]) -> Iterator[str]:
    """Yield one line for each comparison of voxspool with an interface of upstream."""
    found = {(figure["name"], figure["who"]): figure["p50"] for figure in report["figures"]}
    for name in LESS_IS_BETTER:
        for who in sides.OURS:
            for upstream in (sides.STREAM, sides.API):
                theirs = found.get(("passage" if name == "narration" else name, upstream))
                if theirs is not None and (name, who) in found:
                    yield f"{name}: {who} {theirs / found[name, who]:.1f} x better than {upstream}"


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the chunks' cost, and the real-time factors."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for figure in report["figures"]:
        if figure["name"] == "chunk" and figure["who"] != sides.API:
            costs = figure["detail"]["by_k"]
            left.plot(range(1, len(costs) + 1), costs, marker="o", label=figure["who"])
    left.set(xlabel="chunk k of a sentence", ylabel="seconds since the chunk before", ylim=(0, None))
    left.legend()
    passages = [figure for figure in report["figures"] if figure["name"] in {"passage", "narration"}]
    bars = right.barh(
        [f"{figure['who']}, {figure['name']}" for figure in passages], [figure["p50"] for figure in passages]
    )
    right.bar_label(bars, fmt="%.2f", padding=3)
    right.axvline(1.0, color="black", linewidth=1, linestyle=":")
    right.invert_yaxis()
    right.set(xlabel="seconds of work a second of audio")
    drawn.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
