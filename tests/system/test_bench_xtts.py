"""The XTTS benchmark runs and reports every figure. Its values are not tested: they depend on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

UPSTREAM = ("upstream TTS.api", "upstream inference_stream")
OURS = ("voxspool fp32", "voxspool bf16", "voxspool int8")
BOTH = ("load", "peak memory", "first chunk", "sentence", "passage", "chunk")


@pytest.mark.long
def test_a_quick_run_measures_every_figure_of_upstream_and_voxspool(tmp_path: Path) -> None:
    pytest.importorskip("TTS", reason="XTTS is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "xtts.json"
    command = [sys.executable, "-m", "benchmarks.xtts", "--quick", "--out", str(out)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # several threads would wait for each other on a busy machine
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr

    report = json.loads(out.read_text())
    measured = {(figure["who"], figure["name"]): figure for figure in report["figures"]}
    expected = {(who, name) for who in (*UPSTREAM, *OURS) for name in BOTH}
    expected |= {(who, name) for who in OURS for name in ("narration", "decode, 1 rows", "decode, 2 rows")}
    assert expected == measured.keys()
    assert all(figure["p50"] > 0 and figure["unit"] != "ms" for figure in measured.values())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "first chunk: voxspool int8" in done.stdout

    spoken_s = {who: measured[who, "passage"]["detail"]["audio_s"] for who in (*UPSTREAM, *OURS)}
    assert max(spoken_s.values()) - min(spoken_s.values()) < 0.1, (
        f"the systems did different amounts of work: {spoken_s}"
    )
