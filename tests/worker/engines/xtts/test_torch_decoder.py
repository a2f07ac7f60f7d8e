"""The PyTorch decoder against a plain GPT-2 forward pass without a KV cache, on random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from tests.support.gpt_weights import WIDTH, random_weights
from voxspool_worker.engines.xtts.torch_decoder import CONTEXT_SIZES, PROMPT_SIZES, TorchDecoder
from voxspool_worker.engines.xtts.weights import HEAD_WIDTH

if TYPE_CHECKING:
    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights, LayerNormWeights, LinearWeights

ROWS, POSITIONS = 3, 304
WEIGHTS = random_weights()


def decoder(precision: str = "fp32") -> TorchDecoder:
    return TorchDecoder(WEIGHTS, rows=ROWS, positions=POSITIONS, precision=precision, device=torch.device("cpu"))


def embeddings(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.5


def forward(weights: GptWeights, x: Tensor) -> Tensor:
    """Return the latents (n, width) of embeddings (n, width), with causal attention over the whole sequence."""

    def norm(layer: LayerNormWeights, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), layer.gain, layer.bias)

    def linear(layer: LinearWeights, x: Tensor) -> Tensor:
        return x @ layer.weight + layer.bias

    for block in weights.blocks:
        q, k, v = (
            part.view(-1, weights.heads, HEAD_WIDTH).transpose(0, 1)
            for part in linear(block.qkv, norm(block.attention_norm, x)).split(WIDTH, dim=1)
        )
        scores = q @ k.transpose(1, 2) / HEAD_WIDTH**0.5
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        attended = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        x = x + linear(block.attention_output, attended.transpose(0, 1).reshape(len(x), WIDTH))
        hidden = F.gelu(linear(block.mlp_expand, norm(block.mlp_norm, x)), approximate="tanh")
        x = x + linear(block.mlp_contract, hidden)
    return norm(weights.norm_final, norm(weights.norm_gpt, x))


@pytest.mark.parametrize("count", [1, PROMPT_SIZES[0], PROMPT_SIZES[0] + 1, CONTEXT_SIZES[0] + 10, POSITIONS])
def test_prefill_returns_the_latent_of_the_last_token_for_any_padding(count: int) -> None:
    x = embeddings(count)
    found = decoder().prefill(1, x, 0)
    assert (found - forward(WEIGHTS, x)[-1]).abs().max() < 1e-4
    assert found.std() > 0.5


def test_steps_continue_rows_of_different_lengths() -> None:
    one = decoder()
    first, second = embeddings(20, seed=1), embeddings(CONTEXT_SIZES[0] + 5, seed=2)
    one.prefill(0, first[:-1], 0)
    one.prefill(2, second[:-1], 0)
    found = one.step([2, 0], torch.stack((second[-1], first[-1])), [len(second) - 1, len(first) - 1])
    wanted = torch.stack((forward(WEIGHTS, second)[-1], forward(WEIGHTS, first)[-1]))
    assert (found - wanted).abs().max() < 1e-4


def test_rows_that_a_step_leaves_out_keep_their_cache() -> None:
    one = decoder()
    x = embeddings(12)
    one.prefill(1, x[:10], 0)
    one.step([2], embeddings(1, seed=3), [0])
    one.step([1], x[10:11], [10])
    one.step([2], embeddings(1, seed=4), [1])
    assert (one.step([1], x[11:], [11])[0] - forward(WEIGHTS, x)[-1]).abs().max() < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_are_close_to_fp32_but_not_equal(precision: str) -> None:
    x = embeddings(40)
    difference = (decoder(precision).prefill(0, x, 0) - forward(WEIGHTS, x)[-1]).abs().max()
    assert 1e-4 < difference < 0.2


def test_a_restored_prefix_has_the_effect_of_a_prefill() -> None:
    one = decoder()
    x = embeddings(50)
    one.prefill(0, x[:32], 0)
    saved = one.save_prefix(0, 32)
    one.prefill(0, x.flip(0), 0)
    one.restore_prefix(2, 32, saved)
    assert (one.prefill(2, x[32:], 32) - forward(WEIGHTS, x)[-1]).abs().max() < 1e-4
