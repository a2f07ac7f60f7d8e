"""The narration benchmark runs and reports every run. Its values are not tested: they depend on the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.narration_book import CHAPTER_SHARES, book
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.long
def test_a_quick_run_measures_every_narration(tmp_path: Path) -> None:
    out = tmp_path / "narration.json"
    command = [sys.executable, "-m", "benchmarks.narration", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no progress display in a pipe"

    report = json.loads(out.read_text())
    runs = {run["name"]: run for run in report["runs"]}
    assert {"date", "machine", "plan", "runs", "skipped"} == report.keys()
    assert len(runs) + len(report["skipped"]) >= len(report["plan"]["workers"]) + len(report["plan"]["lengths"])
    for run in runs.values():
        assert run["characters"] > 0
        assert run["segments"] >= len(CHAPTER_SHARES)
        assert run["audio_s"] > 10
        assert min(run[name] for name in ("first_segment_s", "speaking_s", "files_s", "redis_mb")) > 0
        assert min(run[name] or 1 for name in ("command_mb", "worker_mb")) > 0
        assert run["name"].partition(",")[0] in done.stdout
    if sys.platform == "linux":
        assert all(run["command_mb"] > 30 and run["worker_mb"] > 30 for run in runs.values()), "the unit is MB"
    for run in runs.values():
        assert (run["scaling"] is None, run["not_speech"] is None) == (run["engine"] == "tone",) * 2


@pytest.mark.parametrize("characters", [10_000, 50_000, 200_000])
def test_the_book_has_the_requested_length_and_no_repeated_sentence(characters: int) -> None:
    text = book(characters)
    sentences = re.findall(r"[A-Z][^.\n#]+\.", text)
    chapters = [len(one) for one in text.split("\n# ")[1:]]
    assert characters < len(text) < 1.1 * characters
    assert len(sentences) == len(set(sentences)) > characters / 100
    assert len(chapters) == len(set(chapters)) == len(CHAPTER_SHARES), "chapters have different lengths"
    assert text == book(characters)
