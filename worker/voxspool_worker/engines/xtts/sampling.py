"""Scores -> the next audio token of each row, as upstream chooses it, with chance of each row's own.

Upstream's order: repetition penalty, temperature, top-k, top-p, one draw. The draw is torch.multinomial's: chances
divided by exponential noise, the largest wins. Each row has its own generator on the CPU, so a row's tokens follow from
its seed and its text, whatever else is in the batch and whatever the device; alone, they are what upstream says after
torch.manual_seed(seed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """How to choose; the defaults are those of upstream's `inference_stream`."""

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 10.0


GREEDY: Final = Choice(top_k=1)
"""The likeliest token, always."""


class Sampler:
    """Chooses for up to `rows` rows."""

    def __init__(self, rows: int, tokens: int, device: torch.device, choice: Choice) -> None:
        self._choice = choice
        self._tokens = tokens
        self._seen = torch.zeros(rows, tokens, dtype=torch.bool, device=device)
        self._generators: dict[int, torch.Generator] = {}

    def start(self, row: int, seed: int, seen: Iterable[int]) -> None:
        """Begin a row anew. `seen` are the tokens that count as said before."""
        self._seen[row] = False
        self._seen[row, list(seen)] = True
        self._generators[row] = torch.Generator().manual_seed(seed)

    def choose(self, rows: Sequence[int], scores: Tensor) -> list[int]:
        """Choose a token for each of these rows; scores (b, tokens), fp32."""
        tokens = self.draw(rows, scores)
        self.remember(rows, tokens)
        return tokens

    def draw(self, rows: Sequence[int], scores: Tensor) -> list[int]:
        """Draw a token for each of these rows, which does not count as said by that."""
        choice, row_index = self._choice, torch.as_tensor(rows, device=scores.device)
        penalised = torch.where(scores < 0, scores * choice.repetition_penalty, scores / choice.repetition_penalty)
        scores = torch.where(self._seen[row_index], penalised, scores) / choice.temperature
        best, tokens = scores.topk(min(choice.top_k, self._tokens), dim=1)
        noise = self._noise(rows).to(scores.device).gather(1, tokens)
        chosen = (_within(best, choice.top_p).softmax(1) / noise).argmax(1, keepdim=True)
        drawn: list[int] = tokens.gather(1, chosen)[:, 0].tolist()
        return drawn

    def remember(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Count a token as said in each of these rows."""
        self._seen[list(rows), list(tokens)] = True

    def _noise(self, rows: Sequence[int]) -> Tensor:
        """Draw each row's noise: (b, tokens), on the CPU."""
        drawn = torch.empty(len(rows), self._tokens)
        for place, row in enumerate(rows):
            drawn[place].exponential_(generator=self._generators[row])
        return drawn


def _within(best: Tensor, top_p: float) -> Tensor:
    """Drop the least likely while what is dropped is at most 1 - top_p; `best` (b, k) falls from left to right."""
    rising = best.flip(1)
    dropped = rising.softmax(1).cumsum(1) <= 1.0 - top_p
    dropped[:, -1] = False
    return rising.masked_fill(dropped, -torch.inf).flip(1)
