"""The weights of the GPT, by upstream's names."""

from __future__ import annotations

import pytest
import torch

from tests.support.gpt_weights import AUDIO_TOKENS, LAYERS, WIDTH, random_state
from voxspool_worker.engines.xtts.weights import HEAD_WIDTH, GptWeights


def test_weights_are_views_of_the_state_dict_in_the_order_of_execution() -> None:
    state = random_state()
    weights = GptWeights.from_state(state)
    block = weights.blocks[1]
    assert [linear.weight.data_ptr() for linear in block.linears] == [
        state[f"gpt.gpt.h.1.{name}.weight"].data_ptr()
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert [norm.gain.data_ptr() for norm in block.norms] == [
        state[f"gpt.gpt.h.1.ln_{number}.weight"].data_ptr() for number in (1, 2)
    ]
    assert weights.norm_gpt.bias is state["gpt.gpt.ln_f.bias"]
    assert weights.norm_final.bias is state["gpt.final_norm.bias"]


def test_sizes_follow_from_the_shapes() -> None:
    weights = GptWeights.from_state(random_state())
    assert (len(weights.blocks), weights.width, weights.heads) == (LAYERS, WIDTH, WIDTH // HEAD_WIDTH)
    assert weights.audio_tokens == AUDIO_TOKENS


def test_blocks_are_sorted_by_number_not_by_name() -> None:
    state = random_state()
    for name in [name for name in state if name.startswith("gpt.gpt.h.1.")]:
        state[name.replace(".h.1.", ".h.10.")] = torch.full_like(state[name], 10.0)
        state[name.replace(".h.1.", ".h.2.")] = torch.full_like(state[name], 2.0)
    blocks = GptWeights.from_state(state).blocks
    assert [float(block.qkv.bias[0]) for block in blocks[2:]] == [2.0, 10.0]


@pytest.mark.parametrize("name", ["gpt.mel_head.bias", "gpt.gpt.h.1.mlp.c_fc.bias", "gpt.final_norm.weight"])
def test_a_missing_weight_raises_a_key_error_with_its_name(name: str) -> None:
    state = random_state()
    del state[name]
    with pytest.raises(KeyError, match=name):
        GptWeights.from_state(state)
