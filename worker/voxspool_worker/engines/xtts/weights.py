"""The weights of XTTS's GPT, grouped by layer, under names that say what each one does.

The tensors are views of the checkpoint's; nothing is copied. A decoder converts them to its own precision and device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

HEAD_WIDTH: Final = 64
"""Width of an attention head, in features: GPT-2's, and that of every XTTS v2 checkpoint."""


@dataclass(frozen=True, slots=True)
class LayerNormWeights:
    """A layer norm: gain and bias, shape (width,) each."""

    gain: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """A linear layer, y = x @ weight + bias: weight (inputs, outputs) as in GPT-2, bias (outputs,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class DecoderBlockWeights:
    """A GPT-2 block: layer norm and attention, then layer norm and MLP. The fields are in the order of execution."""

    attention_norm: LayerNormWeights
    qkv: LinearWeights
    """Projects to query, key and value: (width, 3 * width)."""
    attention_output: LinearWeights
    mlp_norm: LayerNormWeights
    mlp_expand: LinearWeights
    mlp_contract: LinearWeights

    @property
    def norms(self) -> tuple[LayerNormWeights, LayerNormWeights]:
        """The layer norms, in the order of execution."""
        return self.attention_norm, self.mlp_norm

    @property
    def linears(self) -> tuple[LinearWeights, LinearWeights, LinearWeights, LinearWeights]:
        """The linear layers, in the order of execution."""
        return self.qkv, self.attention_output, self.mlp_expand, self.mlp_contract


@dataclass(frozen=True, slots=True)
class GptWeights:
    """All weights of the GPT: embeddings, decoder blocks, final layer norms and the head that computes the logits."""

    blocks: tuple[DecoderBlockWeights, ...]
    norm_gpt: LayerNormWeights
    """GPT-2's final layer norm, `ln_f`."""
    norm_final: LayerNormWeights
    """The layer norm that XTTS adds after it."""
    audio_head: Tensor
    """(audio tokens, width): latents to logits."""
    audio_head_bias: Tensor
    """(audio tokens,)."""
    text_embedding: Tensor
    """(text tokens, width)."""
    text_position_embedding: Tensor
    """(text positions, width)."""
    audio_embedding: Tensor
    """(audio tokens, width)."""
    audio_position_embedding: Tensor
    """(audio positions, width)."""

    @property
    def width(self) -> int:
        """Number of features at each position."""
        return int(self.audio_embedding.shape[1])

    @property
    def heads(self) -> int:
        """Number of attention heads of a block."""
        return self.width // HEAD_WIDTH

    @property
    def audio_tokens(self) -> int:
        """Size of the audio vocabulary, including the start and stop tokens."""
        return int(self.audio_head.shape[0])

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> GptWeights:
        """Return the weights from a state dict with upstream's names. Raises KeyError if a name is missing."""
        numbers = {int(name.split(".")[3]) for name in state if name.startswith("gpt.gpt.h.")}
        return cls(
            tuple(_block(state, f"gpt.gpt.h.{number}") for number in sorted(numbers)),
            _norm(state, "gpt.gpt.ln_f"),
            _norm(state, "gpt.final_norm"),
            state["gpt.mel_head.weight"],
            state["gpt.mel_head.bias"],
            state["gpt.text_embedding.weight"],
            state["gpt.text_pos_embedding.emb.weight"],
            state["gpt.mel_embedding.weight"],
            state["gpt.mel_pos_embedding.emb.weight"],
        )


def _norm(state: Mapping[str, Tensor], name: str) -> LayerNormWeights:
    return LayerNormWeights(state[f"{name}.weight"], state[f"{name}.bias"])


def _linear(state: Mapping[str, Tensor], name: str) -> LinearWeights:
    return LinearWeights(state[f"{name}.weight"], state[f"{name}.bias"])


def _block(state: Mapping[str, Tensor], name: str) -> DecoderBlockWeights:
    return DecoderBlockWeights(
        _norm(state, f"{name}.ln_1"), _linear(state, f"{name}.attn.c_attn"), _linear(state, f"{name}.attn.c_proj"),
        _norm(state, f"{name}.ln_2"), _linear(state, f"{name}.mlp.c_fc"), _linear(state, f"{name}.mlp.c_proj"),
    )  # fmt: skip
