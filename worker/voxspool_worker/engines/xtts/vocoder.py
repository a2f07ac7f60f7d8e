"""Streaming vocoder: latents to audio with XTTS's HiFi-GAN, window by window, at a constant cost per chunk.

    latents ─(speed)─► x4 ─► x1.088 ─► frames of 256 samples (hop length) ─► HiFi-GAN ─► samples

The receptive field of HiFi-GAN is 14 frames on each side. So a window consists of the new frames and 14 frames on each
side, and the samples equal those of decoding the whole segment at once. (Upstream decodes the whole segment again for
every chunk.) Most of that context is needed by the first layers, whose rate is low; before each later layer, the
samples that it does not need are cut off.

Two choices are for speed with oneDNN. Signals are images with a height of one pixel, (rows, channels, 1, samples), in
channels-last layout, which needs no reordering. A transposed convolution is computed as a convolution with two taps per
phase: oneDNN's own is five times slower.

Positions are computed on the CPU in float64 from the start of the stream, so rounding errors do not accumulate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own custom

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from torch import Tensor

    _Level = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
    """An interpolation: positions of the lower and the upper neighbour of each value, and the weight of the upper."""

LEAKY_SLOPE: Final = 0.1
"""Slope of HiFi-GAN's leaky ReLUs."""
LAST_LEAKY_SLOPE: Final = 0.01
"""Slope of its last leaky ReLU: PyTorch's default."""
WINDOW_MULTIPLE: Final = 16
"""On an accelerator, windows have a multiple of this number of new frames, so that few shapes are compiled."""


@dataclass(frozen=True, slots=True)
class SpeakerCondition:
    """What a speaker embedding adds to the signal: after the first convolution, and after each upsampling.

    Each tensor is (1, channels, 1, 1).
    """

    first: Tensor
    stages: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution with the weight normalisation applied to its weight."""

    weight: Tensor
    """(out, in, 1, taps)."""
    bias: Tensor | None
    padding: int
    dilation: int

    @property
    def context(self) -> int:
        """Number of input samples on each side that an output sample depends on."""
        return self.padding

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=(0, self.padding), dilation=(1, self.dilation))


@dataclass(frozen=True, slots=True)
class _Stage:
    """One upsampling and the residual blocks after it."""

    weight: Tensor
    """(factor * out, in, 1, 2): for each phase, the taps of an input sample and the one before it."""
    bias: Tensor
    factor: int
    blocks: tuple[tuple[tuple[_Convolution, _Convolution], ...], ...]

    @property
    def context(self) -> int:
        """Number of samples on each side that the residual blocks depend on, at the output's rate."""
        return max(sum(one.context + other.context for one, other in block) for block in self.blocks)

    def input_margin(self, margin: int) -> int:
        """Return how many input samples on each side are needed for `margin` output samples on each side."""
        return -(-(margin + self.context) // self.factor) + 1

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self._upsample(F.leaky_relu(x, LEAKY_SLOPE)) + condition
        total = self._block(self.blocks[0], x)
        for block in self.blocks[1:]:
            total += self._block(block, x)
        return total.div_(len(self.blocks))

    def _upsample(self, x: Tensor) -> Tensor:
        """Multiply the rate by `factor`: (rows, in, 1, n) to (rows, out, 1, factor * n)."""
        x = F.conv2d(x, self.weight, self.bias, padding=(0, 1))
        rows, phases, _, count = x.shape
        # In channels-last layout, the phases of an input are already in the order of the output samples: no copy.
        x = x.permute(0, 2, 3, 1).reshape(rows, 1, count * self.factor, phases // self.factor).permute(0, 3, 1, 2)
        return x[..., self.factor // 2 : -(self.factor // 2)]

    @staticmethod
    def _block(block: Sequence[tuple[_Convolution, _Convolution]], x: Tensor) -> Tensor:
        for first, second in block:
            inner = F.leaky_relu_(first(F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE)
            x = second(inner).add_(x)
        return x


class Vocoder:
    """The vocoder of a model: makes streams, and decodes their windows. One thread calls it."""

    def __init__(self, upstream: Any, device: torch.device, dtype: torch.dtype) -> None:  # noqa: ANN401 - upstream is untyped
        """Copy the weights of `upstream`, a HifiDecoder, to a device and dtype."""
        generator = upstream.waveform_decoder
        self.device, self.dtype = device, dtype
        self._ratio = upstream.output_sample_rate / upstream.input_sample_rate
        self._repeat = upstream.ar_mel_length_compression // upstream.output_hop_length
        self._conditions = [generator.cond_layer, *generator.conds]
        self._first, self._last = (self._convolution(one) for one in (generator.conv_pre, generator.conv_post))
        blocks, count = generator.resblocks, generator.num_kernels
        self._stages = [
            self._stage(up, blocks[number * count : (number + 1) * count]) for number, up in enumerate(generator.ups)
        ]
        self.hop_samples = math.prod(stage.factor for stage in self._stages)
        self._margins = [self._last.context]
        """Samples needed on each side, before each stage and before the last convolution."""
        for stage in reversed(self._stages):
            self._margins.insert(0, stage.input_margin(self._margins[0]))
        self.context_frames: int = self._margins[0] + self._first.context
        """Frames on each side that a sample depends on."""

    def _convolution(self, module: Any) -> _Convolution:  # noqa: ANN401
        bias = None if module.bias is None else self._copied(module.bias)
        return _Convolution(self._copied(module.weight[:, :, None]), bias, module.padding[0], module.dilation[0])

    def _stage(self, up: Any, blocks: Any) -> _Stage:  # noqa: ANN401
        pairs = [
            tuple((self._convolution(a), self._convolution(b)) for a, b in zip(block.convs1, block.convs2, strict=True))
            for block in blocks
        ]
        factor, taps = up.stride[0], up.weight  # (in, out, 2 * factor)
        assert (
            taps.shape[2] == 2 * factor == 4 * up.padding[0]
        )  # as in every HiFi-GAN; otherwise two taps per phase would not suffice
        phases = torch.stack((taps[:, :, factor:], taps[:, :, :factor]), dim=-1)  # (in, out, factor, 2)
        phases = phases.permute(2, 1, 0, 3).flatten(0, 1)[:, :, None]
        return _Stage(self._copied(phases), self._copied(up.bias.repeat(factor)), factor, tuple(pairs))

    def _copied(self, weight: Tensor) -> Tensor:
        """Return a copy of a weight on the device; in channels-last layout if it has four dimensions."""
        order = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        return weight.detach().to(self.device, self.dtype).clone(memory_format=order)

    @torch.inference_mode()
    def condition(self, speaker: Tensor) -> SpeakerCondition:
        """Return the constants of a voice, computed from its speaker embedding (1, 512, 1)."""
        added = [layer(speaker.float().cpu())[:, :, None].to(self.device, self.dtype) for layer in self._conditions]
        return SpeakerCondition(added[0], tuple(added[1:]))

    def stream(self, condition: SpeakerCondition, speed: float = 1.0) -> VocoderStream:
        """Return a stream for the latents of one segment. Frames are interpolated to change the speed."""
        return VocoderStream(self, condition, _FrameResampler(speed, self._repeat, self._ratio))

    @torch.inference_mode()
    def push_many(self, parts: Sequence[tuple[VocoderStream, Tensor]]) -> list[npt.NDArray[np.float32]]:
        """Push latents (n, width) into each of several streams; return the new samples (m,) of each.

        On an accelerator, windows of the same shape are decoded together. On a CPU they are decoded one by one: batches
        would not be faster, and a stream's samples must not depend on the other streams.
        """
        windows = [stream.window(latents, complete=False) for stream, latents in parts]
        if self.device.type == "cpu":
            return [self.decode([window])[0] for window in windows]
        decoded: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(windows)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, window in enumerate(windows):
            by_shape.setdefault(window.shape, []).append(index)
        for indices in by_shape.values():
            for index, samples in zip(indices, self.decode([windows[index] for index in indices]), strict=True):
                decoded[index] = samples
        return decoded

    def decode(self, windows: Sequence[Window]) -> list[npt.NDArray[np.float32]]:
        """Return the samples (m,) of the new frames of each window; all windows must have the same shape."""
        one = windows[0]
        if one.last == one.first:
            return [np.zeros(0, np.float32)] * len(windows)
        frames = torch.stack([window.frames for window in windows]).to(self.dtype)
        x = self._first(frames.permute(0, 2, 1)[:, :, None].contiguous(memory_format=torch.channels_last))
        x = _cut(x + _batched(windows, lambda condition: condition.first), one, 1, one.start, self._margins[0])
        rate, start = 1, max(0, one.first - self._margins[0])
        for number, stage in enumerate(self._stages):
            x = stage(x, _batched(windows, lambda condition, number=number: condition.stages[number]))  # type: ignore[misc] # mypy cannot infer a lambda with a default
            rate *= stage.factor
            margin = self._margins[number + 1]
            x = _cut(x, one, rate, start * stage.factor, margin)
            start = max(0, one.first * rate - margin)
        x = torch.tanh(self._last(F.leaky_relu_(x, LAST_LEAKY_SLOPE)))[:, 0, 0]
        skip = one.first * rate - start
        samples = x[:, skip : skip + (one.last - one.first) * rate].float().cpu().numpy()
        return list(samples)


@dataclass(frozen=True, slots=True)
class Window:
    """The new frames of a stream with the context that they need on each side."""

    frames: Tensor
    """(frames, width)."""
    condition: SpeakerCondition
    start: int
    """Position of the window's first frame in the stream."""
    first: int
    last: int
    """Positions of the new frames in the stream: from `first` up to, but not including, `last`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """A key that is equal for windows that can be decoded together."""
        return len(self.frames), self.first - self.start, self.last - self.first, int(self.start == 0)


def _batched(windows: Sequence[Window], part: Callable[[SpeakerCondition], Tensor]) -> Tensor:
    """Return one part of the condition of each window, as a batch."""
    return torch.cat([part(window.condition) for window in windows])


def _cut(x: Tensor, window: Window, rate: int, start: int, margin: int) -> Tensor:
    """Cut `x` to the new samples and `margin` samples on each side.

    `x` begins at sample `start` of the stream; there are `rate` samples per frame.
    """
    low, high = max(0, window.first * rate - margin) - start, window.last * rate + margin - start
    return x[..., low:high]


class _FrameResampler:
    """Resamples latents to frames by up to three linear interpolations in sequence, as PyTorch computes them.

    The first changes the speed, the others multiply the rate by `repeat` and by `ratio`.
    """

    def __init__(self, speed: float, repeat: int, ratio: float) -> None:
        self._scales = ([] if speed == 1.0 else [1.0 / max(speed, 0.05)]) + [float(repeat), ratio]

    def total(self, latents: int) -> int:
        """Return the number of frames of a complete stream with this number of latents."""
        for scale in self._scales:
            latents = math.floor(latents * scale)
        return latents

    def final(self, latents: int) -> int:
        """Return the number of frames that further latents cannot change."""
        for scale in self._scales:
            latents = max(0, math.ceil((latents - 0.5) * scale - 0.5 - 1e-6))
        return latents

    def first_latent(self, frame: int) -> int:
        """Return the position of the first latent that a frame depends on."""
        for scale in reversed(self._scales):
            frame = max(0, math.floor((frame + 0.5) / scale - 0.5))
        return frame

    def frames(self, latents: Tensor, start: int, first: int, last: int, count: int, *, only: bool) -> Tensor:
        """Return the frames (last - first, width) from `first` up to, but not including, `last`.

        `latents` (n, width) begin at position `start` of the stream, which has `count` latents so far. `only`: this is
        the only window of a complete stream. PyTorch copies a signal whose length an interpolation does not change, and
        before a stream is complete that is not known.
        """
        wanted, levels = self._levels(first, last, count, only=only)
        values = latents[int(wanted[0]) - start : int(wanted[-1]) - start + 1].float()
        for low, high, weight in reversed(levels):
            values = _interpolate(values, low, high, weight)
        return values

    def _levels(self, first: int, last: int, count: int, *, only: bool) -> tuple[npt.NDArray[np.int64], list[_Level]]:
        """Return the positions of the latents that some frames depend on, and the interpolations from last to first.

        The arguments are those of `frames`.
        """
        counts = [count]
        for scale in self._scales[:-1]:
            counts.append(math.floor(counts[-1] * scale))
        wanted, levels = np.arange(first, last), []
        for scale, available in zip(reversed(self._scales), reversed(counts), strict=True):
            copied = only and math.floor(available * scale) == available
            source = wanted.astype(np.float64) if copied else np.maximum((wanted + 0.5) / scale - 0.5, 0.0)
            low = np.minimum(np.floor(source).astype(np.int64), available - 1)
            high = np.minimum(low + 1, available - 1)
            begin = int(low[0])
            levels.append((low - begin, high - begin, (source - low).astype(np.float32)))
            wanted = np.arange(begin, int(high[-1]) + 1)
        return wanted, levels


def _interpolate(values: Tensor, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64],
                 weight: npt.NDArray[np.float32]) -> Tensor:  # fmt: skip
    """Return values[low] * (1 - weight) + values[high] * weight, row by row."""
    device = values.device
    share = torch.from_numpy(weight).to(device)[:, None]
    return values[torch.from_numpy(low).to(device)] * (1 - share) + values[torch.from_numpy(high).to(device)] * share


class VocoderStream:
    """The latents of one segment. It keeps only those that later windows need, and no audio."""

    def __init__(self, vocoder: Vocoder, condition: SpeakerCondition, resampler: _FrameResampler) -> None:
        self._vocoder, self._condition, self._resampler = vocoder, condition, resampler
        self._kept: Tensor | None = None
        self._kept_from = 0
        """Position of the first kept latent in the stream."""
        self._latents = 0
        """Number of latents so far."""
        self._decoded = 0
        """Number of frames in the windows so far."""

    @property
    def kept(self) -> int:
        """Number of latents in memory."""
        return 0 if self._kept is None else len(self._kept)

    @torch.inference_mode()
    def push(self, latents: Tensor) -> npt.NDArray[np.float32]:
        """Add latents (n, width), and return the samples (m,) that are final now."""
        return self._vocoder.decode([self.window(latents, complete=False)])[0]

    @torch.inference_mode()
    def finish(self) -> npt.NDArray[np.float32]:
        """End the stream, and return the remaining samples (m,)."""
        if self._kept is None:
            return np.zeros(0, np.float32)
        return self._vocoder.decode([self.window(self._kept[:0], complete=True)])[0]

    def window(self, latents: Tensor, *, complete: bool) -> Window:
        """Add latents (n, width), and return the window of the frames that are final now.

        The next window begins after it. `complete`: no further latents follow.
        """
        latents = latents.to(self._vocoder.device)
        self._kept = latents if self._kept is None else torch.cat((self._kept, latents))
        self._latents += len(latents)
        context, first = self._vocoder.context_frames, self._decoded
        if complete:
            last = available = self._resampler.total(self._latents)
        else:
            available = self._resampler.final(self._latents)
            last = max(first, self._round_down(first, available - context))
        start, end = max(0, first - context), min(available, last + context)
        frames = self._kept[:0]
        if last > first:
            only = complete and first == 0
            frames = self._resampler.frames(self._kept, self._kept_from, start, end, self._latents, only=only)
        self._decoded = last
        self._forget(max(0, last - context))
        return Window(frames, self._condition, start, first, last)

    def _round_down(self, first: int, last: int) -> int:
        """Reduce the end of a window so that its size is a multiple of WINDOW_MULTIPLE, except on a CPU."""
        if self._vocoder.device.type == "cpu":
            return last
        return first + (last - first) // WINDOW_MULTIPLE * WINDOW_MULTIPLE

    def _forget(self, frame: int) -> None:
        """Drop the latents that only frames before `frame` depend on."""
        needed = min(self._resampler.first_latent(frame), self._latents)
        if self._kept is not None and needed > self._kept_from:
            self._kept = self._kept[needed - self._kept_from :].clone()
            self._kept_from = needed
