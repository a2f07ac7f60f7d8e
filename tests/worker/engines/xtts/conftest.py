"""A random checkpoint of XTTS, small except for its vocoder, and upstream's model of it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Limit PyTorch to one thread: its threads spin while they wait, which is ten times slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_checkpoint() -> Path:
    return checkpoints.small_checkpoint()


@pytest.fixture(scope="session")
def upstream(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Upstream's Xtts, loaded by upstream from a copy: it may rewrite a checkpoint that it loads."""
    folder = shutil.copytree(small_checkpoint, tmp_path_factory.mktemp("upstream") / "checkpoint")
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(folder / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
    return model
