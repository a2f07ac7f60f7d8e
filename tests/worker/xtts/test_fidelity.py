"""What `check --fidelity` measures: nothing where nothing changed, something where it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from voxspool_worker.cli import main
from voxspool_worker.engines.xtts.fidelity import Reading, compare, measure, spectral_distance_db
from voxspool_worker.engines.xtts.sampling import Choice
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries warn of one another


def reading(noise: float = 0.0, *, seed: int = 0) -> Reading:
    chance = torch.Generator().manual_seed(seed)
    scores = torch.randn(200, 100, generator=chance) * 3
    disturbed = scores + noise * torch.randn(200, 100, generator=chance)
    sound = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    other = np.random.default_rng(1).standard_normal(24_000).astype(np.float32)
    return Reading(scores.argmax(1).tolist(), disturbed, sound + noise * other)


def test_the_same_is_the_same() -> None:
    found = compare("fp32", [reading()], [reading()], Choice())
    assert (found.greedy, found.sampled, found.gap, found.audio_db) == (1.0, 1.0, 0.0, 0.0)


def test_more_noise_is_more_distance_in_everything() -> None:
    little, much = (compare("x", [reading()], [reading(noise)], Choice()) for noise in (0.05, 1.0))
    assert 1.0 >= little.greedy > much.greedy
    assert 1.0 >= little.sampled > much.sampled
    assert 0.0 < little.gap < much.gap < much.largest_gap
    assert 0.0 < little.audio_db < much.audio_db


def test_what_nobody_hears_is_no_distance() -> None:
    sound = np.sin(np.arange(24_000) / 5).astype(np.float32)
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert spectral_distance_db(sound, sound + hiss) < 0.1
    assert spectral_distance_db(sound, sound + 1e4 * hiss) > 1.0


def test_the_precisions_of_a_checkpoint_are_near_to_fp32_and_int8_is_farther(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    bf16, int8 = measure(Settings(xtts_dir=small_checkpoint, cache_dir=tmp_path, device="cpu"))
    assert (bf16.precision, int8.precision) == ("bf16 on cpu", "int8 on cpu")
    assert 0.9 < int8.greedy <= 1.0
    assert 0.9 < bf16.greedy <= 1.0
    assert 0.0 < bf16.gap < int8.gap < 0.5
    assert 0.0 < int8.audio_db < 3.0


def test_the_command_prints_a_row_for_each(small_checkpoint: Path, tmp_path: Path) -> None:
    environ = {
        "VOXSPOOL_XTTS_DIR": str(small_checkpoint),
        "VOXSPOOL_CACHE_DIR": str(tmp_path),
        "VOXSPOOL_DEVICE": "cpu",
    }
    done = CliRunner().invoke(main, ["check", "--fidelity"], env=environ)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()]
    assert [row[0] for row in rows if row[1:3] == ["on", "cpu"]] == ["bf16", "int8"]


def test_without_a_checkpoint_it_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check", "--fidelity"], env={"VOXSPOOL_XTTS_DIR": str(tmp_path / "no")})
    assert done.exit_code == 1
    assert "VOXSPOOL_XTTS_DIR" in done.output
    assert "Traceback" not in done.output


def test_the_speed_of_tone_can_be_measured_too() -> None:
    done = CliRunner().invoke(main, ["check", "--bench", "--engine", "tone"])
    assert done.exit_code == 0, done.output
    assert "of real time" in done.output
