"""The benchmark runs and reports every figure. Its values are not tested: they depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

BOTH = {
    "enqueue", "enqueue to start", "cost of a job", "jobs a second", "commands a job", "commands sent a job",
    "round trips a job",
}  # fmt: skip
OURS = {
    "enqueue to first chunk", "jobs enqueued a second", "jobs enqueued a second, many at once",
    "publish to 1 consumer", "publish to 10 consumers", "stream a minute of audio",
    "used memory a minute of audio", "import voxspool", "from voxspool import Client",
}  # fmt: skip
PIPER = {"piper first chunk", "piper real-time factor"}


@pytest.mark.long
def test_a_quick_run_measures_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr

    report = json.loads(out.read_text())
    measured = {(figure["who"], figure["name"]): figure for figure in report["figures"]}
    ours = BOTH | OURS | (set() if "piper" in report["skipped"] else PIPER)
    expected = {("voxspool", name) for name in ours} | {("rq SimpleWorker", name) for name in BOTH}

    assert expected <= measured.keys()
    assert all(figure["n"] > 0 and figure["p50"] is not None and figure["unit"] for figure in measured.values())
    assert {"date", "machine", "plan", "figures", "skipped"} == report.keys()
    assert done.stderr == ""
    assert all(name.partition(" ")[0] in done.stdout for name in ours)
