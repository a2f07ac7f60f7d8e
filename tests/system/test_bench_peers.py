"""The benchmark of Piper's servers reports every figure. Its values are not tested: they depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = {
    "first audio, sentence alone", "first audio, passage alone", "first audio, 8 at once", "first audio, 16 at once",
    "first audio, sentence beside 8 passages", "speed, 8 passages at once", "CPU after leaving",
}  # fmt: skip


@pytest.mark.long
def test_a_quick_run_without_other_servers_measures_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "bench-peers.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", "--only", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert {figure["name"] for figure in report["figures"]} == FIGURES
    assert all(figure["who"] == "voxspool" and figure["p50"] > 0 for figure in report["figures"])
    assert report["skipped"] == {}
