"""The comparison of precisions, and the command `check --fidelity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from voxspool_worker.cli import main
from voxspool_worker.engines.xtts.precision_report import ForcedOutput, compare, spectral_distance_db
from voxspool_worker.engines.xtts.sampling import SamplingOptions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings


def output(noise: float = 0.0, *, seed: int = 0) -> ForcedOutput:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(200, 100, generator=chance) * 3
    disturbed = logits + noise * torch.randn(200, 100, generator=chance)
    sound = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    other = np.random.default_rng(1).standard_normal(24_000).astype(np.float32)
    return ForcedOutput(logits.argmax(1).tolist(), disturbed, sound + noise * other)


def test_equal_outputs_have_no_difference() -> None:
    found = compare("fp32", [output()], [output()], SamplingOptions())
    assert (found.greedy, found.sampled, found.gap, found.audio_db) == (1.0, 1.0, 0.0, 0.0)


def test_more_noise_increases_every_measure() -> None:
    little, much = (compare("x", [output()], [output(noise)], SamplingOptions()) for noise in (0.05, 1.0))
    assert 1.0 >= little.greedy > much.greedy
    assert 1.0 >= little.sampled > much.sampled
    assert 0.0 < little.gap < much.gap < much.largest_gap
    assert 0.0 < little.audio_db < much.audio_db


def test_inaudible_noise_does_not_increase_the_spectral_distance() -> None:
    sound = np.sin(np.arange(24_000) / 5).astype(np.float32)
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert spectral_distance_db(sound, sound + hiss) < 0.1
    assert spectral_distance_db(sound, sound + 1e4 * hiss) > 1.0


def test_the_command_reports_small_differences_and_larger_ones_for_int8(small_checkpoint: Path, tmp_path: Path) -> None:
    environ = {
        "VOXSPOOL_XTTS_DIR": str(small_checkpoint),
        "VOXSPOOL_CACHE_DIR": str(tmp_path),
        "VOXSPOOL_DEVICE": "cpu",
    }
    done = CliRunner().invoke(main, ["check", "--fidelity"], env=environ)
    assert done.exit_code == 0, done.output
    rows = [line.replace("%", "").split() for line in done.output.splitlines() if " on cpu " in line]
    (bf16, bf16_greedy, _, bf16_gap, *_), (int8, int8_greedy, _, int8_gap, _, int8_audio_db, _) = (
        (row[0], *map(float, row[3:8]), row[8]) for row in rows
    )
    assert (bf16, int8) == ("bf16", "int8")
    assert 90.0 < int8_greedy <= 100.0
    assert 90.0 < bf16_greedy <= 100.0
    assert 0.0 < bf16_gap < int8_gap < 0.5
    assert 0.0 < int8_audio_db < 3.0


def test_without_a_checkpoint_the_command_prints_an_error_without_traceback(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check", "--fidelity"], env={"VOXSPOOL_XTTS_DIR": str(tmp_path / "no")})
    assert done.exit_code == 2
    assert "VOXSPOOL_XTTS_DIR" in done.output
    assert "Traceback" not in done.output


def test_the_benchmark_of_an_engine_prints_its_speed() -> None:
    done = CliRunner().invoke(main, ["check", "--bench", "--engine", "tone"])
    assert done.exit_code == 0, done.output
    assert "x real time" in done.output
