"""The weights of XTTS's GPT, by what they do. Views of the checkpoint's own tensors: nothing is copied here.

Knows upstream's names for them. Does not know precisions or devices: a decoder brings them into its own form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

HEAD: Final = 64
"""A head's width: GPT-2's, and every XTTS's."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm: gain and bias, shape (width,)."""

    gain: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight + bias; weight (inputs, outputs), as GPT-2 keeps it, bias (outputs,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A layer of the GPT, in the order of its work."""

    norm_1: Norm
    qkv: Linear
    project: Linear
    norm_2: Norm
    expand: Linear
    contract: Linear

    @property
    def norms(self) -> tuple[Norm, Norm]:
        """Before attention, before the MLP."""
        return self.norm_1, self.norm_2

    @property
    def linears(self) -> tuple[Linear, Linear, Linear, Linear]:
        """In the order of their work."""
        return self.qkv, self.project, self.expand, self.contract


@dataclass(frozen=True, slots=True)
class GptWeights:
    """All that turns text and a voice into latents and tokens."""

    blocks: tuple[Block, ...]
    norm_gpt: Norm
    norm_final: Norm
    head: Tensor
    """(tokens, width): latents to scores of audio tokens."""
    head_bias: Tensor
    text: Tensor
    """(text tokens, width)."""
    text_position: Tensor
    audio: Tensor
    """(audio tokens, width)."""
    audio_position: Tensor

    @property
    def width(self) -> int:
        """Features of a position."""
        return int(self.audio.shape[1])

    @property
    def heads(self) -> int:
        """Heads of a layer."""
        return self.width // HEAD

    @property
    def tokens(self) -> int:
        """How many audio tokens there are, start and stop among them."""
        return int(self.head.shape[0])

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> GptWeights:
        """Find them under upstream's names. Raises KeyError for a name that is missing."""

        def norm(name: str) -> Norm:
            return Norm(state[f"{name}.weight"], state[f"{name}.bias"])

        def linear(name: str) -> Linear:
            return Linear(state[f"{name}.weight"], state[f"{name}.bias"])

        def block(name: str) -> Block:
            return Block(
                norm(f"{name}.ln_1"), linear(f"{name}.attn.c_attn"), linear(f"{name}.attn.c_proj"),
                norm(f"{name}.ln_2"), linear(f"{name}.mlp.c_fc"), linear(f"{name}.mlp.c_proj"),
            )  # fmt: skip

        numbers = {int(name.split(".")[3]) for name in state if name.startswith("gpt.gpt.h.")}
        return cls(
            tuple(block(f"gpt.gpt.h.{number}") for number in sorted(numbers)),
            norm("gpt.gpt.ln_f"),
            norm("gpt.final_norm"),
            state["gpt.mel_head.weight"],
            state["gpt.mel_head.bias"],
            state["gpt.text_embedding.weight"],
            state["gpt.text_pos_embedding.emb.weight"],
            state["gpt.mel_embedding.weight"],
            state["gpt.mel_pos_embedding.emb.weight"],
        )
