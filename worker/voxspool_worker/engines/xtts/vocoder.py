"""Latents -> audio, as they come: XTTS's HiFi-GAN in windows that join without a seam, at a cost that never grows.

    latents ─(speed)─► x4 ─► x1.088 ─► frames, 256 samples each ─► HiFi-GAN ─► samples

Each output frame depends on 14 frames to each side. So a window is what is new with 14 frames around it, and the result
equals that of decoding all at once; upstream decodes all at once again for every chunk. Most of the reach is used
up at the lowest rate, where convolutions are cheap: what a later layer does not need is cut before it.

Signals are images one pixel high, (rows, channels, 1, samples), channels innermost in memory: oneDNN then reorders
nothing. A transposed convolution is one of two taps for each of its phases: oneDNN's own is five times slower.

Knows upstream's modules and takes their weights. Does not know tokens, rows or segments. Positions are computed on the
host, in float64, from the beginning of the stream: rounding never adds up.
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

SLOPE: Final = 0.1
"""Of the leaky units; HiFi-GAN's. The last one has PyTorch's default, 0.01."""
LAST_SLOPE: Final = 0.01
GRAIN: Final = 16
"""Frames by which a window grows on an accelerator, so that few shapes occur."""


@dataclass(frozen=True, slots=True)
class VoiceCondition:
    """What a voice adds before each upsampling: (1, channels, 1, 1) each."""

    first: Tensor
    stages: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution, its weight normalisation folded in."""

    weight: Tensor
    """(out, in, 1, taps)."""
    bias: Tensor | None
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """Samples that it looks to each side."""
        return self.padding

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=(0, self.padding), dilation=(1, self.dilation))


@dataclass(frozen=True, slots=True)
class _Stage:
    """One upsampling with the residual blocks behind it."""

    weight: Tensor
    """(factor * out, in, 1, 2): phase by phase, what an input and the one before it add to the output."""
    bias: Tensor
    factor: int
    blocks: tuple[tuple[tuple[_Convolution, _Convolution], ...], ...]

    @property
    def reach(self) -> int:
        """Samples of the output that its blocks look to each side."""
        return max(sum(one.reach + other.reach for one, other in block) for block in self.blocks)

    def before(self, margin: int) -> int:
        """How much around its input is needed for `margin` around its output."""
        return -(-(margin + self.reach) // self.factor) + 1

    def __call__(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self._raise(F.leaky_relu(x, SLOPE)) + condition
        total = self._block(self.blocks[0], x)
        for block in self.blocks[1:]:
            total += self._block(block, x)
        return total.div_(len(self.blocks))

    def _raise(self, x: Tensor) -> Tensor:
        """Raise the rate by `factor`: (rows, in, 1, n) to (rows, out, 1, factor * n)."""
        x = F.conv2d(x, self.weight, self.bias, padding=(0, 1))
        rows, phases, _, count = x.shape
        # Channels lie innermost, so the phases of an input lie as its samples should: nothing is moved.
        x = x.permute(0, 2, 3, 1).reshape(rows, 1, count * self.factor, phases // self.factor).permute(0, 3, 1, 2)
        return x[..., self.factor // 2 : -(self.factor // 2)]

    @staticmethod
    def _block(block: Sequence[tuple[_Convolution, _Convolution]], x: Tensor) -> Tensor:
        for first, second in block:
            inner = F.leaky_relu_(first(F.leaky_relu(x, SLOPE)), SLOPE)
            x = second(inner).add_(x)
        return x


class Vocoder:
    """The vocoder of one model. One thread calls it."""

    def __init__(self, upstream: Any, device: torch.device, dtype: torch.dtype) -> None:  # noqa: ANN401 - upstream is untyped
        """Take the weights of upstream's HifiDecoder; it stays as it is."""
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
        self._margins = [self._last.reach]
        for stage in reversed(self._stages):
            self._margins.insert(0, stage.before(self._margins[0]))
        self.reach_frames: int = self._margins[0] + self._first.reach

    def _convolution(self, module: Any) -> _Convolution:  # noqa: ANN401
        bias = None if module.bias is None else self._taken(module.bias)
        return _Convolution(self._taken(module.weight[:, :, None]), bias, module.padding[0], module.dilation[0])

    def _stage(self, up: Any, blocks: Any) -> _Stage:  # noqa: ANN401
        pairs = [
            tuple((self._convolution(a), self._convolution(b)) for a, b in zip(block.convs1, block.convs2, strict=True))
            for block in blocks
        ]
        factor, taps = up.stride[0], up.weight  # (in, out, 2 * factor)
        assert taps.shape[2] == 2 * factor == 4 * up.padding[0]  # every HiFi-GAN's; else two taps a phase would not do
        phases = torch.stack((taps[:, :, factor:], taps[:, :, :factor]), dim=-1)  # (in, out, factor, 2)
        phases = phases.permute(2, 1, 0, 3).flatten(0, 1)[:, :, None]
        return _Stage(self._taken(phases), self._taken(up.bias.repeat(factor)), factor, tuple(pairs))

    def _taken(self, weight: Tensor) -> Tensor:
        """Copy a weight, channels innermost where there are some."""
        order = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
        return weight.detach().to(self.device, self.dtype).clone(memory_format=order)

    @torch.inference_mode()
    def voice(self, speaker: Tensor) -> VoiceCondition:
        """Make a voice's constants from its speaker embedding (1, 512, 1)."""
        made = [layer(speaker.float().cpu())[:, :, None].to(self.device, self.dtype) for layer in self._conditions]
        return VoiceCondition(made[0], tuple(made[1:]))

    def stream(self, condition: VoiceCondition, speed: float = 1.0) -> VocoderStream:
        """Begin a stream of latents."""
        return VocoderStream(self, condition, _Places(speed, self._repeat, self._ratio))

    @torch.inference_mode()
    def push_many(self, parts: Sequence[tuple[VocoderStream, Tensor]]) -> list[npt.NDArray[np.float32]]:
        """Push latents (n, width) into each of several streams; give each one's samples (m,).

        On a CPU one by one: it is bound by arithmetic, and a stream's samples stay the same whoever is beside it. On an
        accelerator, windows of one shape go together.
        """
        windows = [stream.window(latents, whole=False) for stream, latents in parts]
        if self.device.type == "cpu":
            return [self.decode([window])[0] for window in windows]
        heard: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(windows)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place, window in enumerate(windows):
            shapes.setdefault(window.shape, []).append(place)
        for places in shapes.values():
            for place, samples in zip(places, self.decode([windows[place] for place in places]), strict=True):
                heard[place] = samples
        return heard

    def decode(self, windows: Sequence[Window]) -> list[npt.NDArray[np.float32]]:
        """Decode windows of one shape: (m,) samples each."""
        one = windows[0]
        if one.last == one.first:
            return [np.zeros(0, np.float32)] * len(windows)
        frames = torch.stack([window.frames for window in windows]).to(self.dtype)
        x = self._first(frames.permute(0, 2, 1)[:, :, None].contiguous(memory_format=torch.channels_last))
        x = _cut(x + _joined(windows, lambda condition: condition.first), one, 1, one.start, self._margins[0])
        rate, start = 1, max(0, one.first - self._margins[0])
        for number, stage in enumerate(self._stages):
            x = stage(x, _joined(windows, lambda condition, number=number: condition.stages[number]))  # type: ignore[misc] # mypy cannot infer a lambda with a default
            rate *= stage.factor
            margin = self._margins[number + 1]
            x = _cut(x, one, rate, start * stage.factor, margin)
            start = max(0, one.first * rate - margin)
        x = torch.tanh(self._last(F.leaky_relu_(x, LAST_SLOPE)))[:, 0, 0]
        skip = one.first * rate - start
        samples = x[:, skip : skip + (one.last - one.first) * rate].float().cpu().numpy()
        return list(samples)


@dataclass(frozen=True, slots=True)
class Window:
    """Frames that are new, with what is needed around them."""

    frames: Tensor
    """(frames, width)."""
    condition: VoiceCondition
    start: int
    """Where `frames` begins in the stream, in frames."""
    first: int
    last: int
    """The new ones, from first to before last."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Equal for windows that can be decoded together."""
        return len(self.frames), self.first - self.start, self.last - self.first, int(self.start == 0)


def _joined(windows: Sequence[Window], part: Callable[[VoiceCondition], Tensor]) -> Tensor:
    return torch.cat([part(window.condition) for window in windows])


def _cut(x: Tensor, window: Window, rate: int, start: int, margin: int) -> Tensor:
    """Keep `margin` samples around what is new; `x` begins at sample `start` of the stream, at `rate` a frame."""
    low, high = max(0, window.first * rate - margin) - start, window.last * rate + margin - start
    return x[..., low:high]


class _Places:
    """Where frames lie between latents: three linear interpolations, one behind the other, as PyTorch does them."""

    def __init__(self, speed: float, repeat: int, ratio: float) -> None:
        self._scales = ([] if speed == 1.0 else [1.0 / max(speed, 0.05)]) + [float(repeat), ratio]

    def whole(self, latents: int) -> int:
        """How many frames there are in all, of so many latents."""
        for scale in self._scales:
            latents = math.floor(latents * scale)
        return latents

    def settled(self, latents: int) -> int:
        """How many frames no further latent can change."""
        for scale in self._scales:
            latents = max(0, math.ceil((latents - 0.5) * scale - 0.5 - 1e-6))
        return latents

    def needed_from(self, frame: int) -> int:
        """Which latent is the first that a frame needs."""
        for scale in reversed(self._scales):
            frame = max(0, math.floor((frame + 0.5) / scale - 0.5))
        return frame

    def frames(self, latents: Tensor, start: int, first: int, last: int, count: int, *, alone: bool) -> Tensor:
        """Return frames first to before last from the latents that begin at `start`; `count` there are so far.

        `alone`: they are all there will ever be. PyTorch copies where an interpolation changes no length; of a stream
        that goes on nobody knows that yet.
        """
        counts = [count]
        for scale in self._scales[:-1]:
            counts.append(math.floor(counts[-1] * scale))
        # From the frames down: which values of each level are needed, and how they are mixed.
        wanted, mixes = np.arange(first, last), []
        for scale, available in zip(reversed(self._scales), reversed(counts), strict=True):
            copied = alone and math.floor(available * scale) == available
            source = wanted.astype(np.float64) if copied else np.maximum((wanted + 0.5) / scale - 0.5, 0.0)
            low = np.minimum(np.floor(source).astype(np.int64), available - 1)
            high = np.minimum(low + 1, available - 1)
            begin = int(low[0])
            mixes.append((low - begin, high - begin, (source - low).astype(np.float32)))
            wanted = np.arange(begin, int(high[-1]) + 1)
        values = latents[int(wanted[0]) - start : int(wanted[-1]) - start + 1].float()
        for low, high, share in reversed(mixes):
            values = _mixed(values, low, high, share)
        return values


def _mixed(values: Tensor, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64],
           share: npt.NDArray[np.float32]) -> Tensor:  # fmt: skip
    """Mix neighbours."""
    device = values.device
    weight = torch.from_numpy(share).to(device)[:, None]
    return values[torch.from_numpy(low).to(device)] * (1 - weight) + values[torch.from_numpy(high).to(device)] * weight


class VocoderStream:
    """One stream of latents. Keeps the few that later windows need, and no audio."""

    def __init__(self, vocoder: Vocoder, condition: VoiceCondition, places: _Places) -> None:
        self._vocoder, self._condition, self._places = vocoder, condition, places
        self._kept: Tensor | None = None
        self._kept_from = 0
        self._latents = 0
        self._given = 0

    @property
    def kept(self) -> int:
        """How many latents are kept."""
        return 0 if self._kept is None else len(self._kept)

    @torch.inference_mode()
    def push(self, latents: Tensor) -> npt.NDArray[np.float32]:
        """Take latents (n, width); give the samples (m,) that are final now."""
        return self._vocoder.decode([self.window(latents, whole=False)])[0]

    @torch.inference_mode()
    def finish(self) -> npt.NDArray[np.float32]:
        """Return the rest, (m,)."""
        if self._kept is None:
            return np.zeros(0, np.float32)
        return self._vocoder.decode([self.window(self._kept[:0], whole=True)])[0]

    def window(self, latents: Tensor, *, whole: bool) -> Window:
        """Take latents in, and give the window of what is final now. It counts as given."""
        latents = latents.to(self._vocoder.device)
        self._kept = latents if self._kept is None else torch.cat((self._kept, latents))
        self._latents += len(latents)
        reach, first = self._vocoder.reach_frames, self._given
        last = end = self._places.whole(self._latents) if whole else self._places.settled(self._latents)
        if not whole:
            last = max(first, self._grained(first, end - reach))
        start = max(0, first - reach)
        end = min(end, last + reach)
        frames = self._kept[:0]
        if last > first:
            alone = whole and first == 0
            frames = self._places.frames(self._kept, self._kept_from, start, end, self._latents, alone=alone)
        self._given = last
        self._forget(max(0, last - reach))
        return Window(frames, self._condition, start, first, last)

    def _grained(self, first: int, last: int) -> int:
        """Round a window down to one of few sizes, where each size is compiled."""
        return last if self._vocoder.device.type == "cpu" else first + (last - first) // GRAIN * GRAIN

    def _forget(self, frame: int) -> None:
        """Drop the latents that no later frame needs."""
        needed = min(self._places.needed_from(frame), self._latents)
        if self._kept is not None and needed > self._kept_from:
            self._kept = self._kept[needed - self._kept_from :].clone()
            self._kept_from = needed
