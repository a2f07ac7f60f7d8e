"""Compares bf16 and int8 with fp32 on the user's own weights: chosen tokens, probabilities, audio.

fp32 on the CPU generates a few sentences. Each other precision then gets the same tokens (teacher forcing), so that one
different token does not change everything after it. On an accelerator, its fp32 is compared with the CPU's, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from voxspool.errors import CheckpointError
from voxspool_worker.engines.xtts.sampling import Sampler, SamplingOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from voxspool_worker.engines.xtts.gpt import Gpt
    from voxspool_worker.engines.xtts.model import LoadedModel
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.vocoder import SpeakerCondition, Vocoder
    from voxspool_worker.settings import Settings

SENTENCES: Final = (
    "The lighthouse stood at the end of a long and narrow spit of sand.",
    "He had done so for thirty years, in calm and in storm, and he had never once been late.",
)
MAX_TOKENS: Final = 120
"""Maximum number of tokens of a sentence, 5.6 s: some checkpoints never sample the stop token."""
BANDS: Final = 40
"""Number of frequency bands of a spectrum."""
FRAME_SAMPLES: Final = 1024
"""Samples in a frame of a spectrum."""
INAUDIBLE_DB: Final = -60.0
"""Level, relative to the loudest band, below which differences are ignored."""
COMPARED: Final = {"cpu": ("bf16", "int8"), "cuda": ("fp32", "bf16"), "mps": ("fp32", "bf16")}
"""Device -> the precisions that are compared with fp32 on the CPU."""


@dataclass(frozen=True, slots=True)
class PrecisionComparison:
    """The difference between one precision and fp32 on the CPU."""

    precision: str
    greedy: float
    """Share of the tokens at which both have the same most probable token."""
    sampled: float
    """Share of the tokens at which both sample the same token with the same noise."""
    gap: float
    """Mean absolute difference of the log-probability of the generated tokens, in nats."""
    largest_gap: float
    """Largest of these differences, in nats."""
    audio_db: float
    """Mean distance of the spectra of the audio, over frames and bands, in dB; 1 dB is barely audible."""


@dataclass(frozen=True, slots=True)
class ForcedOutput:
    """The output of a model for given tokens."""

    tokens: list[int]
    logits: Tensor
    """The logits from which each of the tokens is sampled: (n, audio tokens)."""
    audio: np.ndarray[tuple[int], np.dtype[np.float32]]
    """(samples,)."""


def measure(settings: Settings) -> Iterator[PrecisionComparison]:
    """Yield a comparison for each precision of the device in the settings; this takes a minute on two cores.

    Raises the errors of `load` of this package, and CheckpointError if the checkpoint has no speakers.
    """
    from voxspool_worker.engines.xtts import checkpoint, device, model
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer

    wanted = device.plan(settings.device).device
    loaded = model.load(checkpoint.find(settings))
    tokenizer = XttsTokenizer(loaded.checkpoint.vocab)
    texts = [tokenizer.tokens(sentence, "en") for sentence in SENTENCES]
    fp32 = _load(loaded, tokenizer, settings, "cpu", "fp32")
    generated = [(text, generate(fp32.gpt, fp32.latents, text, seed)) for seed, text in enumerate(texts)]
    reference = [fp32.force(text, tokens) for text, tokens in generated]
    fp32.gpt.close()
    for precision in COMPARED[wanted]:
        other = _load(loaded, tokenizer, settings, wanted, precision)
        outputs = [other.force(text, tokens) for text, tokens in generated]
        other.gpt.close()
        yield compare(f"{precision} on {wanted}", reference, outputs, SamplingOptions())


def _load(
    loaded: LoadedModel, tokenizer: XttsTokenizer, settings: Settings, wanted: str, precision: str
) -> _PrecisionModel:
    """Return the model on a device in a precision, with the first speaker of the checkpoint."""
    from voxspool_worker.engines import xtts
    from voxspool_worker.engines.xtts import device
    from voxspool_worker.engines.xtts.vocoder import Vocoder

    if not loaded.speakers:
        raise CheckpointError(f"{loaded.checkpoint.folder} has no speakers_xtts.pth, which the check speaks with")
    plan = replace(device.plan(wanted, precision), rows=1)
    gpt = xtts.make_gpt(loaded, tokenizer, plan, settings)
    speaker = next(iter(loaded.speakers.values()))
    vocoder = Vocoder(loaded.vocoder, plan.torch_device, plan.vocoder)
    return _PrecisionModel(gpt, vocoder, speaker.latents, vocoder.condition(speaker.speaker))


@dataclass(frozen=True, slots=True)
class _PrecisionModel:
    """The model in one precision, with a voice."""

    gpt: Gpt
    vocoder: Vocoder
    latents: Tensor
    """Conditioning latents of the voice."""
    condition: SpeakerCondition

    def force(self, text: Sequence[int], tokens: list[int]) -> ForcedOutput:
        """Return the output for given audio tokens of a text."""
        latents = self.gpt.forced_latents(self.gpt.prefix(self.latents), text, tokens)
        stream = self.vocoder.stream(self.condition)
        audio = np.concatenate((stream.push(latents), stream.finish()))
        return ForcedOutput(tokens, self.gpt.logits(latents).cpu(), audio)


def compare(
    precision: str, wanted: Sequence[ForcedOutput], found: Sequence[ForcedOutput], options: SamplingOptions
) -> PrecisionComparison:
    """Compare the outputs of a precision (`found`) with those of fp32 (`wanted`) for the same tokens."""
    greedy, sampled, gaps, distances = [], [], [], []
    for one, other in zip(wanted, found, strict=True):
        tokens = torch.as_tensor(one.tokens)[:, None]
        greedy.append((one.logits.argmax(1) == other.logits.argmax(1)).float())
        draws = zip(_draw(one, options), _draw(other, options), strict=True)
        sampled.append(torch.as_tensor([a == b for a, b in draws]))
        gaps.append((one.logits.log_softmax(1).gather(1, tokens) - other.logits.log_softmax(1).gather(1, tokens))[:, 0])
        distances.append(spectral_distance_db(one.audio, other.audio))
    gap = torch.cat(gaps).abs()
    return PrecisionComparison(
        precision, float(torch.cat(greedy).mean()), float(torch.cat(sampled).float().mean()), float(gap.mean()),
        float(gap.max()), float(np.mean(distances)),
    )  # fmt: skip


def _draw(output: ForcedOutput, options: SamplingOptions) -> list[int]:
    """Sample at each position with fixed noise; the repetition penalty applies to the given tokens before it."""
    sampler = Sampler(1, output.logits.shape[1], torch.device("cpu"), options)
    sampler.start(0, 0, ())
    drawn = []
    for token, logits in zip(output.tokens, output.logits, strict=True):
        drawn += sampler.draw([0], logits[None])
        sampler.mark_seen([0], [token])
    return drawn


def generate(gpt: Gpt, latents: Tensor, text: Sequence[int], seed: int) -> list[int]:
    """Return the audio tokens that a model generates for a text with the conditioning latents of a voice."""
    row = gpt.start(gpt.prefix(latents), text, seed, MAX_TOKENS)
    tokens: list[int] = []
    while True:
        for generated in gpt.step():
            tokens.append(generated.token)
            if generated.last:
                gpt.release(row)
                return tokens


def spectral_distance_db(
    one: np.ndarray[tuple[int], np.dtype[np.float32]], other: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> float:
    """Return the mean distance of the spectra of two signals (n,), over frames and bands, in dB.

    Levels below INAUDIBLE_DB count as equal.
    """
    count = min(len(one), len(other)) // FRAME_SAMPLES * FRAME_SAMPLES
    if not count:
        return 0.0
    a, b = (_band_levels_db(signal[:count]) for signal in (one, other))
    floor = a.max() + INAUDIBLE_DB
    return float(np.abs(np.maximum(a, floor) - np.maximum(b, floor)).mean())


def _band_levels_db(
    signal: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the level of each frame in logarithmically spaced bands: (frames, bands), in dB."""
    frames = signal.reshape(-1, FRAME_SAMPLES) * np.hanning(FRAME_SAMPLES)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.unique(np.geomspace(2, power.shape[1], BANDS + 1).round().astype(int))
    bands = np.stack([power[:, low:high].mean(1) for low, high in pairwise(edges)], axis=1)
    levels: np.ndarray[tuple[int, int], np.dtype[np.float64]] = 10 * np.log10(bands + 1e-12)
    return levels
