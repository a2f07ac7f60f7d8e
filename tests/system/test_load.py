"""The load test runs, loses no samples and reports every figure. The latencies are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NONE = ("jobs failed", "lost samples", "doubled samples")
TIMES = (
    "enqueue, under load", "enqueue to start, under load", "enqueue to first chunk, under load", "gap between chunks",
    "longest gap", "audio again, after kill -9",
)  # fmt: skip
MEMORY = (
    "redis memory, at start", "redis memory, at the end", "redis memory, jobs deleted", "worker memory, at start",
    "worker memory, at the end",
)  # fmt: skip


@pytest.mark.long
def test_no_samples_are_lost_or_doubled_despite_a_kill_and_a_stall(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    command = [sys.executable, "-m", "benchmarks.load", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress display in a pipe"

    report = json.loads(out.read_text())
    figures = {figure["name"]: figure for figure in report["figures"]}
    jobs = report["plan"]["jobs"]

    assert report["wrong"] == []
    assert figures["jobs ended"]["p50"] == jobs
    assert [figures[name]["p50"] for name in NONE] == [0, 0, 0]
    assert figures["readings"]["p50"] == jobs * report["plan"]["readers_a_job"]
    assert figures["jobs resumed"]["p50"] >= 1, "the killed worker was speaking"
    assert figures["longest gap"]["p50"] > 3000, "a job was being read when Redis stalled or the worker was killed"
    assert all(figures[name]["p50"] > 0 and figures[name]["unit"] in {"ms", "s"} for name in TIMES)
    assert all(figures[name]["unit"] == "MB" for name in MEMORY)
    assert all(name.partition(",")[0] in done.stdout for name in figures)
