"""Measure what bf16 and int8 change against fp32, on the user's own weights: tokens, probabilities, audio.

fp32 on the CPU speaks a few sentences; each precision then reads the very same tokens, so that one different choice
does not hide all that follows. On an accelerator its own fp32 is compared with the CPU's as well.
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
    from voxspool_worker.engines.xtts.vocoder import Vocoder, VoiceCondition
    from voxspool_worker.settings import Settings

SENTENCES: Final = (
    "The lighthouse stood at the end of a long and narrow spit of sand.",
    "He had done so for thirty years, in calm and in storm, and he had never once been late.",
)
MOST_TOKENS: Final = 120
"""Of a sentence: 5.6 s, so that a checkpoint that never stops does not take minutes."""
MEL_BANDS: Final = 40
FRAME: Final = 1024
QUIET_DB: Final = -60.0
"""Below this, against the loudest band, nobody hears a difference."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """One precision against fp32."""

    precision: str
    greedy: float
    """Share of tokens of which fp32's likeliest is the likeliest here too."""
    sampled: float
    """Share of tokens that the same draw chooses here too."""
    gap: float
    """Mean difference of the log-probability of what was said, in nats; and the largest one."""
    largest_gap: float
    audio_db: float
    """Distance of the spectra that come out, in dB, averaged over time and bands; 1 dB is hardly heard."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model thinks at each token of a speech."""

    tokens: list[int]
    scores: Tensor
    """(n, tokens)."""
    audio: np.ndarray[tuple[int], np.dtype[np.float32]]


def measure(settings: Settings) -> Iterator[Fidelity]:
    """Measure the precisions that the settings' device has, one after the other: a minute on two cores.

    Raises what `load` of the package raises.
    """
    from voxspool_worker.engines.xtts import checkpoint, device, model
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer

    wanted = device.plan(settings.device).device
    loaded = model.load(checkpoint.find(settings))
    setting = _Setting(settings, loaded, XttsTokenizer(loaded.checkpoint.vocab))
    exact = setting.reader("cpu", "fp32")
    spoken = [(text, speak(exact.gpt, exact.voice, text, seed)) for seed, text in enumerate(setting.texts())]
    reference = [exact.read(text, tokens) for text, tokens in spoken]
    exact.gpt.close()
    for precision in OF_DEVICE[wanted]:
        other = setting.reader(wanted, precision)
        found = [other.read(text, tokens) for text, tokens in spoken]
        other.gpt.close()
        yield compare(f"{precision} on {wanted}", reference, found, SamplingOptions())


OF_DEVICE: Final = {"cpu": ("bf16", "int8"), "cuda": ("fp32", "bf16"), "mps": ("fp32", "bf16")}


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all precisions share."""

    settings: Settings
    loaded: LoadedModel
    tokenizer: XttsTokenizer

    def texts(self) -> list[list[int]]:
        """Return the sentences as tokens."""
        return [self.tokenizer.tokens(sentence, "en") for sentence in SENTENCES]

    def reader(self, wanted: str, precision: str) -> _Reader:
        """Load a precision."""
        from voxspool_worker.engines import xtts
        from voxspool_worker.engines.xtts import device
        from voxspool_worker.engines.xtts.vocoder import Vocoder

        if not self.loaded.speakers:
            raise CheckpointError(
                f"{self.loaded.checkpoint.folder} has no speakers_xtts.pth, which the check speaks with"
            )
        plan = replace(device.plan(wanted, precision), rows=1)
        gpt = xtts.make_gpt(self.loaded, self.tokenizer, plan, self.settings)
        speaker = next(iter(self.loaded.speakers.values()))
        vocoder = Vocoder(self.loaded.vocoder, plan.torch_device, plan.vocoder)
        return _Reader(gpt, vocoder, speaker.latents, vocoder.voice(speaker.speaker))


@dataclass(frozen=True, slots=True)
class _Reader:
    """One precision, loaded."""

    gpt: Gpt
    vocoder: Vocoder
    voice: Tensor
    condition: VoiceCondition

    def read(self, text: Sequence[int], tokens: list[int]) -> Reading:
        """Read tokens that were said, one after the other."""
        latents = self.gpt.forced_latents(self.gpt.prefix(self.voice), text, tokens)
        stream = self.vocoder.stream(self.condition)
        audio = np.concatenate((stream.push(latents), stream.finish()))
        return Reading(tokens, self.gpt.logits(latents).cpu(), audio)


def compare(precision: str, wanted: Sequence[Reading], found: Sequence[Reading], options: SamplingOptions) -> Fidelity:
    """Hold a precision's readings against fp32's."""
    same, drawn, gaps, distances = [], [], [], []
    for one, other in zip(wanted, found, strict=True):
        said = torch.as_tensor(one.tokens)[:, None]
        same.append((one.scores.argmax(1) == other.scores.argmax(1)).float())
        drawn.append(torch.as_tensor([a == b for a, b in zip(_draw(one, options), _draw(other, options), strict=True)]))
        gaps.append((one.scores.log_softmax(1).gather(1, said) - other.scores.log_softmax(1).gather(1, said))[:, 0])
        distances.append(spectral_distance_db(one.audio, other.audio))
    gap = torch.cat(gaps).abs()
    return Fidelity(
        precision, float(torch.cat(same).mean()), float(torch.cat(drawn).float().mean()), float(gap.mean()),
        float(gap.max()), float(np.mean(distances)),
    )  # fmt: skip


def _draw(reading: Reading, options: SamplingOptions) -> list[int]:
    """Choose at each token with the same chance, whatever was said before."""
    sampler = Sampler(1, reading.scores.shape[1], torch.device("cpu"), options)
    sampler.start(0, 0, ())
    drawn = []
    for said, scores in zip(reading.tokens, reading.scores, strict=True):
        drawn += sampler.draw([0], scores[None])
        sampler.mark_seen([0], [said])
    return drawn


def speak(gpt: Gpt, voice: Tensor, text: Sequence[int], seed: int) -> list[int]:
    """Let a model say a sentence: its tokens."""
    row = gpt.start(gpt.prefix(voice), text, seed, MOST_TOKENS)
    tokens: list[int] = []
    while True:
        for step in gpt.step():
            tokens.append(step.token)
            if step.last:
                gpt.release(row)
                return tokens


def spectral_distance_db(
    one: np.ndarray[tuple[int], np.dtype[np.float32]], other: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> float:
    """Return the mean distance of two sounds' spectra, in dB, over frames and bands that can be heard."""
    count = min(len(one), len(other)) // FRAME * FRAME
    if not count:
        return 0.0
    a, b = (_bands_db(sound[:count]) for sound in (one, other))
    floor = a.max() + QUIET_DB
    return float(np.abs(np.maximum(a, floor) - np.maximum(b, floor)).mean())


def _bands_db(sound: np.ndarray[tuple[int], np.dtype[np.float32]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the level of bands whose width grows with frequency: (frames, MEL_BANDS)."""
    frames = sound.reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    edges = np.unique(np.geomspace(2, power.shape[1], MEL_BANDS + 1).round().astype(int))
    bands = np.stack([power[:, low:high].mean(1) for low, high in pairwise(edges)], axis=1)
    levels: np.ndarray[tuple[int, int], np.dtype[np.float64]] = 10 * np.log10(bands + 1e-12)
    return levels
