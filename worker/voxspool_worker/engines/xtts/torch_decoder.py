"""The decoder in PyTorch: for CUDA, Apple MPS, a CPU without a compiler, and to hold cpu_decoder.c against.

Shapes never depend on how far a row is: a step runs over the first n rows and the first c positions, both from short
lists (`BATCHES`, `CONTEXTS`), and a mask says what each row may see. So CUDA captures each pair once as a graph, and
MPS compiles each once. Rows beyond the ones that were asked for compute what nobody reads.

The residual stream is fp32 in every precision. int8 quantises activations row by row, as cpu_decoder.c does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

from voxspool_worker.engines.xtts.weights import HEAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights, Linear, Norm

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS: Final = (256, 512, 1072)
PROMPTS: Final = (32, 64, 128, 256, 448)
"""The lengths that a prompt is padded to."""
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""What is computed in, beside the linear layers of int8; keys and values too."""
EPSILON: Final = 1e-5


class _Product(Protocol):
    """A linear layer: fp32 (n, inputs) to fp32 (n, outputs)."""

    def __call__(self, x: Tensor) -> Tensor: ...


class _Plain:
    """In fp32 or bf16."""

    def __init__(self, linear: Linear, device: torch.device, dtype: torch.dtype) -> None:
        self._weight = linear.weight.t().contiguous().to(device, dtype)
        self._bias = linear.bias.to(device, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias).float()


class _Int8:
    """int8 x int8 with exact sums: a scale for each column, and for each row of activations."""

    def __init__(self, linear: Linear) -> None:
        weight = linear.weight.float()
        peak = weight.abs().amax(0)
        inverse = torch.where(peak > 0, 127.0 / peak, 0.0)
        self._weight = (weight * inverse).round().to(torch.int8).contiguous()
        self._scale = peak / 127.0
        self._bias = linear.bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        peak = x.abs().amax(1, keepdim=True)
        scaled = x * torch.where(peak > 0, 127.0 / peak, 0.0)
        quantised = (scaled + torch.where(scaled < 0, -0.5, 0.5)).trunc().to(torch.int8)
        return torch._int_mm(quantised, self._weight).float() * (peak / 127.0) * self._scale + self._bias  # noqa: SLF001


class _Normed:
    """A layer norm in fp32."""

    def __init__(self, norm: Norm, device: torch.device) -> None:
        self._gain, self._bias = norm.gain.float().to(device), norm.bias.float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._gain.shape, self._gain, self._bias, EPSILON)


class TorchDecoder:
    """The GPT with room for a number of rows. One thread calls it.

    Every method that takes a position counts from the row's first.
    """

    def __init__(self, weights: GptWeights, *, rows: int, positions: int, precision: str, device: torch.device) -> None:
        self.device = device
        self._heads, self._width = weights.heads, weights.width
        self._batches = [size for size in BATCHES if size < rows] + [rows]
        self._contexts = [size for size in CONTEXTS if size < positions] + [positions]
        self._dtype = DTYPES[precision]
        self._products = [[self._product(linear, precision) for linear in block.linears] for block in weights.blocks]
        self._norms = [[_Normed(norm, device) for norm in block.norms] for block in weights.blocks]
        self._finals = [_Normed(norm, device) for norm in (weights.norm_gpt, weights.norm_final)]
        shape = (len(weights.blocks), rows, self._heads, positions, HEAD)
        self._keys = torch.zeros(shape, device=device, dtype=self._dtype)
        self._values = torch.zeros(shape, device=device, dtype=self._dtype)
        self._steps: dict[tuple[int, int], _Graph] = {}

    def _product(self, linear: Linear, precision: str) -> _Product:
        return _Int8(linear) if precision == "int8" else _Plain(linear, self.device, self._dtype)

    @torch.inference_mode()
    def prompt(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Take embeddings (n, width) from position `first` on; give the last one's latent (width,)."""
        count = len(embeddings)
        padded = min(_at_least(count, PROMPTS), self._keys.shape[3] - first)
        x = F.pad(embeddings.to(self.device, torch.float32), (0, 0, 0, padded - count))
        seen = first + torch.arange(padded, device=self.device)
        context = _at_least(first + padded, self._contexts)
        mask = (torch.arange(context, device=self.device) <= seen[:, None])[None, None]
        for layer in range(len(self._products)):
            x = self._block(layer, x, _Prompt(self, row, first, context, mask))
        return self._latents(x[count - 1])

    @torch.inference_mode()
    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Take one embedding for each of these rows (b, width), each at its position; give latents (b, width)."""
        batch = _at_least(max(rows) + 1, self._batches)
        context = _at_least(max(positions) + 1, self._contexts)
        row_index = torch.as_tensor(rows, device=self.device)
        x = torch.zeros(batch, self._width, device=self.device)
        x[row_index] = embeddings.to(self.device, torch.float32)
        # A row that was not asked for writes where its next prompt will: behind what a row in use has.
        places = torch.full((batch,), self._keys.shape[3] - 1, device=self.device)
        places[row_index] = torch.as_tensor(positions, device=self.device)
        return self._run(batch, context, x, places)[row_index]

    def _run(self, batch: int, context: int, x: Tensor, places: Tensor) -> Tensor:
        """Run a step of one shape: on CUDA as a graph, captured the first time."""
        if self.device.type != "cuda":
            return self._advance(x, places, context)
        if (batch, context) not in self._steps:
            self._steps[batch, context] = _Graph(self, x, places, context)
        return self._steps[batch, context](x, places)

    def _advance(self, x: Tensor, places: Tensor, context: int) -> Tensor:
        """Move the first rows by a position: (n, width) in and out. The hot path: every operator of it runs on MPS."""
        mask = (torch.arange(context, device=self.device) <= places[:, None])[:, None, None, :]
        for layer in range(len(self._products)):
            x = self._block(layer, x, _Step(self, places, context, mask))
        return self._latents(x)

    def _block(self, layer: int, x: Tensor, attend: _Prompt | _Step) -> Tensor:
        """One layer of the GPT on tokens (n, width)."""
        qkv, project, expand, contract = self._products[layer]
        norm_1, norm_2 = self._norms[layer]
        q, k, v = qkv(norm_1(x)).to(self._dtype).view(len(x), 3, self._heads, HEAD).unbind(1)
        x = x + project(attend(layer, q, k, v).float())
        return x + contract(F.gelu(expand(norm_2(x)), approximate="tanh"))

    def _latents(self, x: Tensor) -> Tensor:
        for norm in self._finals:
            x = norm(x)
        return x

    def keep_prefix(self, row: int, positions: int) -> Tensor:
        """Return a row's first positions (2, layers, heads, positions, HEAD), for `take_prefix`."""
        return torch.stack([cache[:, row, :, :positions] for cache in (self._keys, self._values)])

    def take_prefix(self, row: int, positions: int, kept: Tensor) -> None:
        """Put them into a row: what `prompt` would have computed."""
        for cache, part in zip((self._keys, self._values), kept, strict=True):
            cache[:, row, :, :positions] = part

    def close(self) -> None:
        """Free the memory."""
        self._steps.clear()


class _Prompt:
    """Attention of many tokens of one row."""

    def __init__(self, decoder: TorchDecoder, row: int, first: int, context: int, mask: Tensor) -> None:
        self._decoder, self._row, self._first, self._context, self._mask = decoder, row, first, context, mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        decoder, part = self._decoder, slice(self._first, self._first + len(q))
        keys, values = decoder._keys[layer, self._row], decoder._values[layer, self._row]  # noqa: SLF001
        keys[:, part], values[:, part] = k.transpose(0, 1), v.transpose(0, 1)
        seen = keys[None, :, : self._context], values[None, :, : self._context]
        mixed = F.scaled_dot_product_attention(q.transpose(0, 1)[None], *seen, attn_mask=self._mask)
        return mixed[0].transpose(0, 1).reshape(len(q), -1)


class _Step:
    """Attention of one token on each of the first rows."""

    def __init__(self, decoder: TorchDecoder, places: Tensor, context: int, mask: Tensor) -> None:
        self._decoder, self._places, self._context, self._mask = decoder, places, context, mask
        self._rows = torch.arange(len(places), device=places.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._decoder._keys[layer], self._decoder._values[layer]  # noqa: SLF001
        keys[self._rows, :, self._places], values[self._rows, :, self._places] = k, v
        count = len(q)
        seen = keys[:count, :, : self._context], values[:count, :, : self._context]
        return F.scaled_dot_product_attention(q[:, :, None], *seen, attn_mask=self._mask).reshape(count, -1)


class _Graph:
    """A step of one shape, recorded by CUDA and played back: one launch instead of a thousand."""

    def __init__(self, decoder: TorchDecoder, x: Tensor, places: Tensor, context: int) -> None:
        self._x, self._places = x.clone(), places.clone()
        warm = torch.cuda.Stream()  # type: ignore[no-untyped-call] # PyTorch's own
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):  # cuBLAS and its like make their workspaces outside a recording
            decoder._advance(self._x, self._places, context)  # noqa: SLF001
        torch.cuda.current_stream().wait_stream(warm)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = decoder._advance(self._x, self._places, context)  # noqa: SLF001

    def __call__(self, x: Tensor, places: Tensor) -> Tensor:
        self._x.copy_(x)
        self._places.copy_(places)
        self._graph.replay()
        return self._out.clone()


def _at_least(count: int, sizes: Sequence[int]) -> int:
    """Choose the first size that has room; the count itself where none has."""
    return next((size for size in sizes if size >= count), count)
