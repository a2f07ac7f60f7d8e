"""Both decoders on the weights of a small checkpoint: in C and in PyTorch, in every precision."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from voxspool_worker.engines.xtts import cpu_decoder
from voxspool_worker.engines.xtts.cpu_decoder import CpuDecoder
from voxspool_worker.engines.xtts.torch_decoder import TorchDecoder
from voxspool_worker.engines.xtts.weights import GptWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from voxspool_worker.engines.xtts.gpt import Decoder

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

ROWS, POSITIONS = 6, 1072


@pytest.fixture(scope="module")
def weights(upstream: Any) -> GptWeights:
    return GptWeights.from_state(upstream.state_dict())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cpu_decoder.compile_decoder(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def decoder(library: Path, weights: GptWeights) -> Iterator[Callable[[str, str], Decoder]]:
    """Return a function that makes decoders (in C or PyTorch) of a precision; they are closed after the test."""
    made: list[Decoder] = []

    def make(kind: str, precision: str = "fp32") -> Decoder:
        size: dict[str, Any] = {"rows": ROWS, "positions": POSITIONS, "precision": precision}
        if kind == "c":
            made.append(CpuDecoder(library, weights, threads=2, **size))
        else:
            made.append(TorchDecoder(weights, device=torch.device("cpu"), **size))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.06), ("int8", 0.15)])
def test_latents_of_a_checkpoint_are_those_of_the_decoder_in_pytorch(
    decoder: Callable[..., Decoder], weights: GptWeights, precision: str, most: float
) -> None:
    chance = torch.Generator().manual_seed(0)
    embeddings = torch.randn(90, weights.width, generator=chance) * 0.5
    found = []
    for kind in ("c", "torch"):
        one = decoder(kind, precision)
        prompt = one.prefill(1, embeddings[:80], 0)
        one.prefill(4, embeddings[:17], 0)
        found.append(torch.cat((prompt[None], one.step([1, 4], embeddings[80:82], [80, 17]))))
    assert (found[0] - found[1]).abs().max() < most
    assert found[1].std() > 0.5, "latents near zero would agree with anything"


@pytest.mark.parametrize("kind", ["c", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_restored_prefix_has_the_effect_of_a_prefill(
    decoder: Callable[..., Decoder], weights: GptWeights, kind: str, precision: str
) -> None:
    one = decoder(kind, precision)
    embeddings = torch.randn(60, weights.width, generator=torch.Generator().manual_seed(3))
    whole = one.prefill(0, embeddings, 0)
    saved = one.save_prefix(0, 32)
    one.prefill(0, embeddings.flip(0), 0)
    one.restore_prefix(3, 32, saved)
    assert (one.prefill(3, embeddings[32:], 32) - whole).abs().max() < (2e-5 if kind == "torch" else 1e-12)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.06), ("int8", 0.02)])
def test_older_instruction_sets_give_the_same_latents(
    decoder: Callable[..., Decoder], weights: GptWeights, tmp_path: Path, target: str, precision: str, most: float
) -> None:
    compiler, made = shutil.which("cc"), tmp_path / "decoder.so"
    if compiler is None or torch.cpu.get_capabilities().get("architecture") != "x86_64":
        pytest.skip("for x86-64 with a compiler")
    cpu_decoder._compile([compiler, *cpu_decoder.FLAGS, f"-march={target}", str(cpu_decoder.SOURCE), "-lm"], made)
    older = CpuDecoder(made, weights, rows=ROWS, positions=POSITIONS, precision=precision, threads=1)
    embeddings = torch.randn(40, weights.width, generator=torch.Generator().manual_seed(4)) * 0.5
    found = [one.prefill(2, embeddings, 0) for one in (decoder("c", precision), older)]
    older.close()
    assert (found[0] - found[1]).abs().max() < most
