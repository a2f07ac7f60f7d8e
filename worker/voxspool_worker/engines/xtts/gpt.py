"""Text and a voice -> audio tokens and their latents, for many rows at once: the loop around a decoder.

A row is a prefix (the voice, 32 positions), a text between its start and stop tokens, and audio tokens that follow one
another. Rows join with `start` and leave with `leave`, at any step; `step` moves all that are running by one token.

Knows embeddings, positions and when a speech ends. Does not know where it is computed (the decoder), how a token is
chosen (sampling) nor what becomes of latents (vocoder).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

from voxspool_worker.engines.xtts.sampling import Choice, Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights


class Decoder(Protocol):
    """The layers of the GPT, with a cache of keys and values for a number of rows. See native and torch_decoder."""

    @property
    def device(self) -> torch.device:
        """Where it computes and gives latents."""

    def prompt(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Take embeddings (n, width) from position `first` on; give the last one's latent (width,)."""

    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Take one embedding for each of these rows (b, width), each at its position; give latents (b, width)."""

    def keep_prefix(self, row: int, positions: int) -> Tensor:
        """Return a row's first positions, for `take_prefix`."""

    def take_prefix(self, row: int, positions: int, kept: Tensor) -> None:
        """Put them into a row: what `prompt` would have computed."""

    def close(self) -> None:
        """Free the memory."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The special tokens and the limits of a model."""

    text_start: int
    text_stop: int
    audio_start: int
    audio_stop: int
    audio_most: int
    """Audio tokens in a speech; 602 for XTTS v2, 28 s."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A voice as the decoder wants it: its keys and values, and for how many positions."""

    positions: int
    kept: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """What one row said in a step."""

    row: int
    token: int
    latent: Tensor
    """(width,), fp32. The stop token has one too, and it is heard."""
    last: bool
    """Whether the row ended: it said stop, or as much as it may."""


@dataclass(slots=True)
class _Row:
    """A row that runs."""

    next_token: int
    latent: Tensor
    position: int
    """Of the next audio token in the decoder's cache."""
    most: int
    said: int = 0


class Gpt:
    """Speaks up to `rows` rows. One thread calls it."""

    def __init__(self, weights: GptWeights, decoder: Decoder, tokens: Tokens, *, rows: int, choice: Choice) -> None:
        device = decoder.device
        self.tokens, self._decoder = tokens, decoder
        self._text, self._text_position = weights.text.to(device), weights.text_position.to(device)
        self._audio, self._audio_position = weights.audio.to(device), weights.audio_position.to(device)
        self._head, self._head_bias = weights.head.to(device), weights.head_bias.to(device)
        self._sampler = Sampler(rows, weights.tokens, device, choice)
        self._free = list(range(rows))
        self._running: dict[int, _Row] = {}

    @property
    def free(self) -> int:
        """How many rows are open."""
        return len(self._free)

    @torch.inference_mode()
    def prefix(self, latents: Tensor) -> Prefix:
        """Make a voice's prefix from its latents (positions, width). Needs a free row for as long as the call takes."""
        row = self._free[0]
        self._decoder.prompt(row, latents, 0)
        return Prefix(len(latents), self._decoder.keep_prefix(row, len(latents)))

    @torch.inference_mode()
    def start(self, voice: Prefix, text: Sequence[int], seed: int, most: int | None = None) -> int:
        """Put a text into a row, and return the row. The first token is chosen here and returned by the next step.

        At most `most` audio tokens are said; None: as many as the model may.
        """
        row = self._free.pop(0)
        self._decoder.take_prefix(row, voice.positions, voice.kept)
        prompt = self._prompt(text)
        latent = self._decoder.prompt(row, prompt, voice.positions)
        # Upstream hands its generator a row of ones in the place of the prompt, so token 1 counts as said.
        self._sampler.start(row, seed, (1, self.tokens.audio_start))
        (token,) = self._sampler.choose([row], self.scores(latent[None]))
        most = min(most or self.tokens.audio_most, self.tokens.audio_most)
        self._running[row] = _Row(token, latent, voice.positions + len(prompt), most)
        return row

    def leave(self, row: int) -> None:
        """Free a row, at any time."""
        del self._running[row]
        self._free.append(row)
        self._free.sort()  # low rows first: a decoder of fixed shapes runs over all below the highest

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """Return the next token of each running row. Rows that ended stay until they leave, without a token."""
        said = [self._say(row, state) for row, state in self._running.items() if state.said < state.most]
        ahead = [step.row for step in said if not step.last]
        if ahead:
            self._look_ahead(ahead)
        return said

    @torch.inference_mode()
    def read(self, voice: Prefix, text: Sequence[int], said: Sequence[int]) -> Tensor:
        """Return the latent behind each token of a speech that is given: (n, width), as if it had been chosen here."""
        row = self._free[0]
        self._decoder.take_prefix(row, voice.positions, voice.kept)
        prompt = self._prompt(text)
        latents = [self._decoder.prompt(row, prompt, voice.positions)]
        first = voice.positions + len(prompt)
        for place, token in enumerate(said[:-1]):
            embedding = self._audio[token] + self._audio_position[place + 1]
            latents.append(self._decoder.step([row], embedding[None], [first + place])[0])
        return torch.stack(latents)

    def scores(self, latents: Tensor) -> Tensor:
        """Score the audio tokens: (b, tokens), fp32."""
        return F.linear(latents, self._head, self._head_bias)

    def close(self) -> None:
        """Free the decoder's memory."""
        self._decoder.close()

    def _say(self, row: int, state: _Row) -> Step:
        """Return what was chosen for a row."""
        state.said += 1
        last = state.next_token == self.tokens.audio_stop or state.said == state.most
        if last:
            state.most = state.said
        return Step(row, state.next_token, state.latent, last)

    def _look_ahead(self, rows: list[int]) -> None:
        """Run the decoder on what was said, and choose what comes next."""
        states = [self._running[row] for row in rows]
        device = self._audio.device
        said = torch.as_tensor([state.next_token for state in states], device=device)
        places = torch.as_tensor([state.said for state in states], device=device)  # the start token has place 0
        embeddings = self._audio[said] + self._audio_position[places]
        latents = self._decoder.step(rows, embeddings, [state.position for state in states])
        chosen = self._sampler.choose(rows, self.scores(latents))
        for state, latent, token in zip(states, latents, chosen, strict=True):
            state.latent, state.next_token = latent, token
            state.position += 1

    def _prompt(self, text: Sequence[int]) -> Tensor:
        """Embed a text between its start and stop, and the start of the audio: (n, width)."""
        device = self._text.device
        ids = torch.as_tensor([self.tokens.text_start, *text, self.tokens.text_stop], device=device)
        words = self._text[ids] + self._text_position[: len(ids)]
        audio = self._audio[self.tokens.audio_start] + self._audio_position[0]
        return torch.cat((words, audio[None]))
