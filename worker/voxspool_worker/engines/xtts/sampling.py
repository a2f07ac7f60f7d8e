"""Sampling of audio tokens: logits to one token per row, with upstream's method and a random generator per row.

The order of operations is upstream's: repetition penalty, temperature, top-k, top-p, one draw. The draw is that of
torch.multinomial: probabilities are divided by exponential noise, and the largest quotient wins.

Each row has its own generator, on the CPU. So the noise of a row depends only on its seed, not on the other rows and
not on the device, and its tokens are those that upstream samples after torch.manual_seed(seed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Parameters of sampling; the defaults are those of upstream's `inference_stream`."""

    temperature: float = 0.75
    top_k: int = 50
    top_p: float = 0.85
    repetition_penalty: float = 10.0


class Sampler:
    """Samples tokens for up to `rows` rows; `tokens` is the size of the vocabulary."""

    def __init__(self, rows: int, tokens: int, device: torch.device, options: SamplingOptions) -> None:
        self._options = options
        self._tokens = tokens
        self._seen = torch.zeros(rows, tokens, dtype=torch.bool, device=device)
        self._generators: dict[int, torch.Generator] = {}

    def start(self, row: int, seed: int, seen: Iterable[int]) -> None:
        """Reset a row. The repetition penalty applies to the tokens in `seen` from the start."""
        self._seen[row] = False
        self._seen[row, list(seen)] = True
        self._generators[row] = torch.Generator().manual_seed(seed)

    def sample(self, rows: Sequence[int], logits: Tensor) -> list[int]:
        """Return one token per row, and mark it as seen; logits (rows, tokens), fp32."""
        tokens = self.draw(rows, logits)
        self.mark_seen(rows, tokens)
        return tokens

    def draw(self, rows: Sequence[int], logits: Tensor) -> list[int]:
        """Return one token per row without marking it as seen; logits (rows, tokens), fp32."""
        options, row_index = self._options, torch.as_tensor(rows, device=logits.device)
        penalised = torch.where(logits < 0, logits * options.repetition_penalty, logits / options.repetition_penalty)
        logits = torch.where(self._seen[row_index], penalised, logits) / options.temperature
        best, tokens = logits.topk(min(options.top_k, self._tokens), dim=1)
        noise = self._noise(rows).to(logits.device).gather(1, tokens)
        chosen = (_apply_top_p(best, options.top_p).softmax(1) / noise).argmax(1, keepdim=True)
        drawn: list[int] = tokens.gather(1, chosen)[:, 0].tolist()
        return drawn

    def mark_seen(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Apply the repetition penalty to a token from now on: tokens[i] in rows[i]."""
        self._seen[list(rows), list(tokens)] = True

    def _noise(self, rows: Sequence[int]) -> Tensor:
        """Return exponential noise from each row's generator: (rows, tokens), on the CPU."""
        noise = torch.empty(len(rows), self._tokens)
        for index, row in enumerate(rows):
            noise[index].exponential_(generator=self._generators[row])
        return noise


def _apply_top_p(best: Tensor, top_p: float) -> Tensor:
    """Set the logits outside the top-p set to -inf; `best` (rows, k) is sorted in descending order.

    The least probable tokens are dropped as long as their total probability is at most 1 - top_p.
    """
    ascending = best.flip(1)
    dropped = ascending.softmax(1).cumsum(1) <= 1.0 - top_p
    dropped[:, -1] = False
    return ascending.masked_fill(dropped, -torch.inf).flip(1)
