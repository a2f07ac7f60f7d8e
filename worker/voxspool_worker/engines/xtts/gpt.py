"""The autoregressive loop of XTTS's GPT: text and a voice to audio tokens and their latents, for many rows at once.

The positions of a row are the voice's prefix (32), the text between its start and stop tokens, and the audio tokens
generated so far. `start` puts a text into a free row and `release` frees it, at any step; `step` generates the next
token of every active row.

This module handles embeddings, positions and the end of a row. The decoder runs the transformer blocks, `sampling`
chooses the tokens, and the vocoder turns the latents into audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

from voxspool_worker.engines.xtts.sampling import Sampler, SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights


class DecoderError(RuntimeError):
    """A decoder refused a call: its sizes, rows or positions are not those of the model. The message is one line."""


class Decoder(Protocol):
    """The transformer blocks of the GPT with a KV cache for a fixed number of rows.

    Implemented by cpu_decoder and torch_decoder. Positions count from the start of the row. One thread calls it.
    """

    @property
    def device(self) -> torch.device:
        """The device on which it computes and returns latents."""

    def prefill(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Run embeddings (n, width) of one row from position `first` on; return the latent (width,) of the last one."""

    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Run one embedding per row (rows, width), each at its position; return the latents (rows, width)."""

    def save_prefix(self, row: int, positions: int) -> Tensor:
        """Return a copy of the KV cache of a row's first positions, for `restore_prefix`."""

    def restore_prefix(self, row: int, positions: int, saved: Tensor) -> None:
        """Copy a saved prefix into the KV cache of a row. The effect is that of `prefill` with the same embeddings."""

    def close(self) -> None:
        """Free the memory."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The start and stop tokens of a model, and the maximum length of its output."""

    text_start: int
    text_stop: int
    audio_start: int
    audio_stop: int
    max_audio_tokens: int
    """Maximum number of audio tokens in one row; 602 in XTTS v2, which is 28 s."""


@dataclass(frozen=True, slots=True)
class VoicePrefix:
    """The KV cache of a voice's conditioning latents, in the decoder's own format."""

    positions: int
    saved: Tensor


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One audio token of one row."""

    row: int
    token: int
    latent: Tensor
    """(width,), fp32. The vocoder needs the latents of all tokens, including the stop token."""
    last: bool
    """True if the row has ended, by the stop token or by its maximum length."""


@dataclass(slots=True)
class _RowState:
    """The state of an active row."""

    next_token: int
    """The token that the next step returns, and its latent."""
    latent: Tensor
    position: int
    """Position of that token in the KV cache."""
    max_tokens: int
    generated: int = 0
    """Number of tokens that were returned."""


class Gpt:
    """Generates audio tokens for up to `rows` rows. One thread calls it."""

    def __init__(
        self, weights: GptWeights, decoder: Decoder, tokens: SpecialTokens, *, rows: int, options: SamplingOptions
    ) -> None:
        device = decoder.device
        self.tokens, self._decoder = tokens, decoder
        self._text = weights.text_embedding.to(device)
        self._text_position = weights.text_position_embedding.to(device)
        self._audio = weights.audio_embedding.to(device)
        self._audio_position = weights.audio_position_embedding.to(device)
        self._head, self._head_bias = weights.audio_head.to(device), weights.audio_head_bias.to(device)
        self._sampler = Sampler(rows, weights.audio_tokens, device, options)
        self._free = list(range(rows))
        self._active: dict[int, _RowState] = {}

    @property
    def free(self) -> int:
        """Number of free rows."""
        return len(self._free)

    @torch.inference_mode()
    def prefix(self, latents: Tensor) -> VoicePrefix:
        """Compute a voice's prefix from its conditioning latents (positions, width).

        Uses a free row during the call; there must be one. Raises DecoderError for latents that are not the model's.
        """
        if latents.ndim != 2 or latents.shape[1] != self._text.shape[1] or not latents.isfinite().all():
            raise DecoderError(
                f"the conditioning latents of a voice have the shape {tuple(latents.shape)} or values that are not "
                f"finite, and the model takes finite ones of (positions, {self._text.shape[1]})"
            )
        row = self._free[0]
        self._decoder.prefill(row, latents, 0)
        return VoicePrefix(len(latents), self._decoder.save_prefix(row, len(latents)))

    @torch.inference_mode()
    def start(self, voice: VoicePrefix, text: Sequence[int], seed: int, max_tokens: int | None = None) -> int:
        """Put a text into a free row and return the row; the next step returns its first token.

        The row ends after `max_tokens` audio tokens at the latest; None: after as many as the model supports. Raises
        DecoderError if the decoder refuses the prefix or the prompt; the row stays free then.
        """
        row = self._free[0]
        self._decoder.restore_prefix(row, voice.positions, voice.saved)
        prompt = self._embed_prompt(text)
        latent = self._decoder.prefill(row, prompt, voice.positions)
        # Upstream passes a row of ones to its generator in place of the prompt, so its penalty applies to token 1.
        self._sampler.start(row, seed, (1, self.tokens.audio_start))
        (token,) = self._sampler.sample([row], self.logits(latent[None]))
        max_tokens = min(max_tokens or self.tokens.max_audio_tokens, self.tokens.max_audio_tokens)
        self._active[row] = _RowState(token, latent, voice.positions + len(prompt), max_tokens)
        self._free.remove(row)
        return row

    def release(self, row: int) -> None:
        """Free an active row, whether it has ended or not."""
        del self._active[row]
        self._free.append(row)
        self._free.sort()  # low rows first: a decoder of fixed shapes computes all rows up to the highest in use

    @torch.inference_mode()
    def step(self) -> list[GeneratedToken]:
        """Return the next token of each active row. A row that has ended returns no token, until it is released."""
        tokens = [self._emit(row, state) for row, state in self._active.items() if state.generated < state.max_tokens]
        going_on = [token.row for token in tokens if not token.last]
        if going_on:
            self._generate_next(going_on)
        return tokens

    @torch.inference_mode()
    def forced_latents(self, voice: VoicePrefix, text: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Return the latents (n, width) of n given audio tokens (teacher forcing). Uses a free row during the call."""
        row = self._free[0]
        self._decoder.restore_prefix(row, voice.positions, voice.saved)
        prompt = self._embed_prompt(text)
        latents = [self._decoder.prefill(row, prompt, voice.positions)]
        first = voice.positions + len(prompt)
        for index, token in enumerate(tokens[:-1]):
            embedding = self._audio[token] + self._audio_position[index + 1]
            latents.append(self._decoder.step([row], embedding[None], [first + index])[0])
        return torch.stack(latents)

    def logits(self, latents: Tensor) -> Tensor:
        """Return the logits of the next audio token: latents (n, width) to (n, audio tokens), fp32."""
        return F.linear(latents, self._head, self._head_bias)

    def close(self) -> None:
        """Free the decoder's memory."""
        self._decoder.close()

    def _emit(self, row: int, state: _RowState) -> GeneratedToken:
        """Return the token that was sampled for a row, and end the row if it is the last one."""
        state.generated += 1
        last = state.next_token == self.tokens.audio_stop or state.generated == state.max_tokens
        if last:
            state.max_tokens = state.generated
        return GeneratedToken(row, state.next_token, state.latent, last)

    def _generate_next(self, rows: list[int]) -> None:
        """Run the decoder on the latest token of these rows, and sample the next one."""
        states = [self._active[row] for row in rows]
        device = self._audio.device
        tokens = torch.as_tensor([state.next_token for state in states], device=device)
        positions = torch.as_tensor([state.generated for state in states], device=device)  # the start token has 0
        embeddings = self._audio[tokens] + self._audio_position[positions]
        latents = self._decoder.step(rows, embeddings, [state.position for state in states])
        sampled = self._sampler.sample(rows, self.logits(latents))
        for state, latent, token in zip(states, latents, sampled, strict=True):
            state.latent, state.next_token = latent, token
            state.position += 1

    def _embed_prompt(self, text: Sequence[int]) -> Tensor:
        """Return the embeddings (n, width) of the text between its start and stop tokens, and of the audio start."""
        device = self._text.device
        ids = torch.as_tensor([self.tokens.text_start, *text, self.tokens.text_stop], device=device)
        words = self._text[ids] + self._text_position[: len(ids)]
        audio = self._audio[self.tokens.audio_start] + self._audio_position[0]
        return torch.cat((words, audio[None]))
