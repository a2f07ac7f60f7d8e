"""Both decoders on the weights of a small checkpoint: in C and in PyTorch, in every precision."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.checkpoints import DECODER_POSITIONS, DECODER_ROWS
from voxspool_worker.engines.xtts import cpu_decoder
from voxspool_worker.engines.xtts.cpu_decoder import CpuDecoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from voxspool_worker.engines.xtts.gpt import Decoder
    from voxspool_worker.engines.xtts.weights import GptWeights

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings


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
    older = CpuDecoder(made, weights, rows=DECODER_ROWS, positions=DECODER_POSITIONS, precision=precision, threads=1)
    embeddings = torch.randn(40, weights.width, generator=torch.Generator().manual_seed(4)) * 0.5
    found = [one.prefill(2, embeddings, 0) for one in (decoder("c", precision), older)]
    older.close()
    assert (found[0] - found[1]).abs().max() < most
