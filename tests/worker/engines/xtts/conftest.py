"""A random checkpoint of XTTS, small except for its vocoder, and upstream's model of it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.support import checkpoints
from voxspool_worker.engines.xtts import cpu_decoder
from voxspool_worker.engines.xtts.cpu_decoder import CpuDecoder
from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder
from voxspool_worker.engines.xtts.weights import GptWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from voxspool_worker.engines.xtts.gpt import Decoder


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


@pytest.fixture(scope="session")
def weights(upstream: Any) -> GptWeights:
    return GptWeights.from_state(upstream.state_dict())


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cpu_decoder.compile_decoder(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def decoder(library: Path, weights: GptWeights) -> Iterator[Callable[[str, str], Decoder]]:
    """Return a function that makes decoders (in C or PyTorch) of a precision; they are closed after the test."""
    made: list[Decoder] = []

    def make(kind: str, precision: str = "fp32") -> Decoder:
        size: dict[str, Any] = {
            "rows": checkpoints.DECODER_ROWS,
            "positions": checkpoints.DECODER_POSITIONS,
            "precision": precision,
        }
        if kind == "c":
            made.append(CpuDecoder(library, weights, threads=2, **size))
        else:
            made.append(TorchDecoder(weights, device=torch.device("cpu"), **size))
        return made[-1]

    yield make
    for one in made:
        one.close()
