"""Small GPTs with random weights: they need no checkpoint and no upstream library."""

from __future__ import annotations

import torch

from voxspool_worker.engines.xtts.weights import GptWeights

LAYERS = 2
WIDTH = 128
TEXT_TOKENS = 30
AUDIO_TOKENS = 64


def random_state(*, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a state dict with upstream's names, as a checkpoint contains them."""
    chance = torch.Generator().manual_seed(seed)

    def draw(*shape: int, spread: float = 0.5) -> torch.Tensor:
        return spread * torch.randn(*shape, generator=chance)

    state = {
        "gpt.mel_head.weight": draw(AUDIO_TOKENS, WIDTH, spread=0.3),
        "gpt.mel_head.bias": draw(AUDIO_TOKENS),
        "gpt.text_embedding.weight": draw(TEXT_TOKENS, WIDTH),
        "gpt.text_pos_embedding.emb.weight": draw(100, WIDTH),
        "gpt.mel_embedding.weight": draw(AUDIO_TOKENS, WIDTH),
        "gpt.mel_pos_embedding.emb.weight": draw(100, WIDTH),
    }
    blocks = [f"gpt.gpt.h.{layer}" for layer in range(LAYERS)]
    norms = [f"{block}.ln_{number}" for block in blocks for number in (1, 2)]
    for name in (*norms, "gpt.gpt.ln_f", "gpt.final_norm"):
        state |= {f"{name}.weight": 1 + draw(WIDTH, spread=0.1), f"{name}.bias": draw(WIDTH, spread=0.1)}
    for block in blocks:
        for name, inputs, outputs in (
            ("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1),
        ):  # fmt: skip
            state[f"{block}.{name}.weight"] = draw(inputs * WIDTH, outputs * WIDTH, spread=0.1)
            state[f"{block}.{name}.bias"] = draw(outputs * WIDTH, spread=0.1)
    return state


def random_weights(*, seed: int = 0) -> GptWeights:
    """Return the weights of a GPT with LAYERS blocks of WIDTH features."""
    return GptWeights.from_state(random_state(seed=seed))
