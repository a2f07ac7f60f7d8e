"""The decoder in PyTorch: for CUDA, for Apple MPS, for a CPU without a C compiler, and as the reference in tests.

Tensor shapes do not depend on how many positions a row has. A step computes the first n rows and the first c positions
of the KV cache, both from short lists of sizes (`BATCH_SIZES`, `CONTEXT_SIZES`), and a mask hides the positions that a
row does not have. So CUDA captures one graph per pair of sizes, and MPS compiles each pair once. The results of rows
that were not asked for are discarded.

The residual stream is fp32 in every precision. int8 quantises activations per token, as cpu_decoder.c does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

from voxspool_worker.engines.xtts.weights import HEAD_WIDTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.weights import GptWeights, LayerNormWeights, LinearWeights

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of rows that a step may compute."""
CONTEXT_SIZES: Final = (256, 512, 1072)
"""Numbers of positions that attention may read."""
PROMPT_SIZES: Final = (32, 64, 128, 256, 448)
"""Numbers of tokens to which a prompt is padded."""
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}
"""Precision -> dtype of the KV cache and of attention, and of the linear layers unless these are int8."""
LAYER_NORM_EPSILON: Final = 1e-5


class _LinearLayer(Protocol):
    """A linear layer: fp32 (n, inputs) to fp32 (n, outputs)."""

    def __call__(self, x: Tensor) -> Tensor: ...


class _FloatLinear:
    """A linear layer in fp32 or bf16."""

    def __init__(self, linear: LinearWeights, device: torch.device, dtype: torch.dtype) -> None:
        self._weight = linear.weight.t().contiguous().to(device, dtype)
        self._bias = linear.bias.to(device, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias).float()


class _Int8Linear:
    """A linear layer in int8 with exact sums: weights have a scale per column, activations a scale per token."""

    def __init__(self, linear: LinearWeights) -> None:
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


class _LayerNorm:
    """A layer norm in fp32."""

    def __init__(self, norm: LayerNormWeights, device: torch.device) -> None:
        self._gain, self._bias = norm.gain.float().to(device), norm.bias.float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._gain.shape, self._gain, self._bias, LAYER_NORM_EPSILON)


class TorchDecoder:
    """The GPT's blocks in PyTorch. Implements the protocol `gpt.Decoder`, which describes the methods."""

    def __init__(self, weights: GptWeights, *, rows: int, positions: int, precision: str, device: torch.device) -> None:
        self.device = device
        self._heads, self._width = weights.heads, weights.width
        self._batch_sizes = [size for size in BATCH_SIZES if size < rows] + [rows]
        self._context_sizes = [size for size in CONTEXT_SIZES if size < positions] + [positions]
        self._dtype = DTYPES[precision]
        self._linears = [[self._linear(linear, precision) for linear in block.linears] for block in weights.blocks]
        self._norms = [[_LayerNorm(norm, device) for norm in block.norms] for block in weights.blocks]
        self._final_norms = [_LayerNorm(norm, device) for norm in (weights.norm_gpt, weights.norm_final)]
        shape = (len(weights.blocks), rows, self._heads, positions, HEAD_WIDTH)
        self._keys = torch.zeros(shape, device=device, dtype=self._dtype)
        self._values = torch.zeros(shape, device=device, dtype=self._dtype)
        self._graphs: dict[tuple[int, int], _CudaGraph] = {}

    def _linear(self, linear: LinearWeights, precision: str) -> _LinearLayer:
        return _Int8Linear(linear) if precision == "int8" else _FloatLinear(linear, self.device, self._dtype)

    @torch.inference_mode()
    def prefill(self, row: int, embeddings: Tensor, first: int) -> Tensor:
        """Run embeddings (n, width) of one row from position `first` on; return the latent (width,) of the last one."""
        count = len(embeddings)
        padded = min(_round_up(count, PROMPT_SIZES), self._keys.shape[3] - first)
        x = F.pad(embeddings.to(self.device, torch.float32), (0, 0, 0, padded - count))
        positions = first + torch.arange(padded, device=self.device)
        context = _round_up(first + padded, self._context_sizes)
        mask = (torch.arange(context, device=self.device) <= positions[:, None])[None, None]
        for layer in range(len(self._linears)):
            x = self._block(layer, x, _PrefillAttention(self, row, first, context, mask))
        return self._latents(x[count - 1])

    @torch.inference_mode()
    def step(self, rows: Sequence[int], embeddings: Tensor, positions: Sequence[int]) -> Tensor:
        """Run one embedding per row (rows, width), each at its position; return the latents (rows, width)."""
        batch = _round_up(max(rows) + 1, self._batch_sizes)
        context = _round_up(max(positions) + 1, self._context_sizes)
        row_index = torch.as_tensor(rows, device=self.device)
        x = torch.zeros(batch, self._width, device=self.device)
        x[row_index] = embeddings.to(self.device, torch.float32)
        # Rows that were not asked for write to the last position of the cache, beyond the tokens of every row.
        places = torch.full((batch,), self._keys.shape[3] - 1, device=self.device)
        places[row_index] = torch.as_tensor(positions, device=self.device)
        return self._run_step(batch, context, x, places)[row_index]

    def _run_step(self, batch: int, context: int, x: Tensor, positions: Tensor) -> Tensor:
        """Run a step; on CUDA as a graph, which is captured at the first step of these sizes."""
        if self.device.type != "cuda":
            return self._compute_step(x, positions, context)
        if (batch, context) not in self._graphs:
            self._graphs[batch, context] = _CudaGraph(self, x, positions, context)
        return self._graphs[batch, context](x, positions)

    def _compute_step(self, x: Tensor, positions: Tensor, context: int) -> Tensor:
        """Run one embedding (n, width) in each of the first n rows; return their latents (n, width).

        This is the hot path: every operator in it has a kernel on MPS.
        """
        mask = (torch.arange(context, device=self.device) <= positions[:, None])[:, None, None, :]
        for layer in range(len(self._linears)):
            x = self._block(layer, x, _StepAttention(self, positions, context, mask))
        return self._latents(x)

    def _block(self, layer: int, x: Tensor, attention: _PrefillAttention | _StepAttention) -> Tensor:
        """Run one block of the GPT: (n, width) to (n, width)."""
        qkv, attention_output, mlp_expand, mlp_contract = self._linears[layer]
        attention_norm, mlp_norm = self._norms[layer]
        q, k, v = qkv(attention_norm(x)).to(self._dtype).view(len(x), 3, self._heads, HEAD_WIDTH).unbind(1)
        x = x + attention_output(attention(layer, q, k, v).float())
        return x + mlp_contract(F.gelu(mlp_expand(mlp_norm(x)), approximate="tanh"))

    def _latents(self, x: Tensor) -> Tensor:
        for norm in self._final_norms:
            x = norm(x)
        return x

    def save_prefix(self, row: int, positions: int) -> Tensor:
        """Return the KV cache of a row's first positions: (2, layers, heads, positions, HEAD_WIDTH)."""
        return torch.stack([cache[:, row, :, :positions] for cache in (self._keys, self._values)])

    def restore_prefix(self, row: int, positions: int, saved: Tensor) -> None:
        """Copy a saved prefix into the KV cache of a row."""
        for cache, part in zip((self._keys, self._values), saved, strict=True):
            cache[:, row, :, :positions] = part

    def close(self) -> None:
        """Free the CUDA graphs."""
        self._graphs.clear()


class _PrefillAttention:
    """Attention of several tokens of one row, which are added to the KV cache first."""

    def __init__(self, decoder: TorchDecoder, row: int, first: int, context: int, mask: Tensor) -> None:
        self._decoder, self._row, self._first, self._context, self._mask = decoder, row, first, context, mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        decoder, part = self._decoder, slice(self._first, self._first + len(q))
        keys, values = decoder._keys[layer, self._row], decoder._values[layer, self._row]  # noqa: SLF001
        keys[:, part], values[:, part] = k.transpose(0, 1), v.transpose(0, 1)
        cached = keys[None, :, : self._context], values[None, :, : self._context]
        mixed = F.scaled_dot_product_attention(q.transpose(0, 1)[None], *cached, attn_mask=self._mask)
        return mixed[0].transpose(0, 1).reshape(len(q), -1)


class _StepAttention:
    """Attention of one token in each of the first rows, which are added to the KV cache first."""

    def __init__(self, decoder: TorchDecoder, positions: Tensor, context: int, mask: Tensor) -> None:
        self._decoder, self._positions, self._context, self._mask = decoder, positions, context, mask
        self._rows = torch.arange(len(positions), device=positions.device)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._decoder._keys[layer], self._decoder._values[layer]  # noqa: SLF001
        keys[self._rows, :, self._positions], values[self._rows, :, self._positions] = k, v
        count = len(q)
        cached = keys[:count, :, : self._context], values[:count, :, : self._context]
        return F.scaled_dot_product_attention(q[:, :, None], *cached, attn_mask=self._mask).reshape(count, -1)


class _CudaGraph:
    """A captured step of fixed sizes: replaying it takes one launch instead of a thousand."""

    def __init__(self, decoder: TorchDecoder, x: Tensor, positions: Tensor, context: int) -> None:
        self._x, self._positions = x.clone(), positions.clone()
        warm_up = torch.cuda.Stream()  # type: ignore[no-untyped-call] # PyTorch's own
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):  # libraries such as cuBLAS must allocate their workspaces before the capture
            decoder._compute_step(self._x, self._positions, context)  # noqa: SLF001
        torch.cuda.current_stream().wait_stream(warm_up)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = decoder._compute_step(self._x, self._positions, context)  # noqa: SLF001

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        self._x.copy_(x)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._out.clone()


def _round_up(count: int, sizes: Sequence[int]) -> int:
    """Return the first size that is at least `count`; `count` itself if all are smaller. `sizes` is ascending."""
    return next((size for size in sizes if size >= count), count)
