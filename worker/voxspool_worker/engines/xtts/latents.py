"""Conditioning of a voice: conditioning latents and speaker embedding, computed from clips with upstream's modules.

A clip of 30 s takes 1 to 2 s on two cores, so callers cache the result; upstream's high-level interface computes it
again for each sentence.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from voxspool.errors import InvalidJobError
from voxspool.recordings import MOST_CLIP_S, MOST_TOTAL_S, RecordingError, read_mono
from voxspool_worker.voices.conditioning_format import UnfitConditioningError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

LATENTS: Final = 32
"""Number of conditioning latents of a voice: the output of the perceiver resampler in every XTTS v2 checkpoint."""
SPEAKER_WIDTH: Final = 512
"""Number of features of a speaker embedding."""
CLIP_HZ: Final = 22050
"""Sample rate to which upstream resamples every clip first, in Hz."""
RATE_STEP_HZ: Final = 50
"""Sample rates that have no common divisor of this size with CLIP_HZ are rounded to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A voice as input of the model. Tensors on the CPU, fp32."""

    latents: Tensor
    """Conditioning latents (32, width): the GPT's input before the text."""
    speaker: Tensor
    """Speaker embedding (1, 512, 1): an input of the vocoder."""

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the tensors as named arrays, for a cache."""
        return {"latents": self.latents.numpy(), "speaker": self.speaker.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]], width: int | None = None) -> Conditioning:
        """Return the conditioning from the arrays of `to_arrays`, for a model of a width; None: of any width.

        Raises KeyError if an array is missing, UnfitConditioningError if the arrays are not those of a conditioning.
        """
        latents, speaker = arrays["latents"], arrays["speaker"]
        if len(arrays) > 2:
            raise UnfitConditioningError(f"it has the arrays {sorted(arrays)!r:.80}, not only latents and speaker")
        _check("latents", latents, (LATENTS, latents.shape[-1] if width is None and latents.ndim else width))
        _check("speaker", speaker, (1, SPEAKER_WIDTH, 1))
        return cls(torch.from_numpy(latents), torch.from_numpy(speaker))


@dataclass(frozen=True, slots=True)
class ConditioningParameters:
    """Parameters of `compute`, with upstream's names and defaults; the values come from the checkpoint's config.json.

    The cache key of a voice contains the names and values.
    """

    max_ref_len: int = 30
    """Seconds of each clip that are used."""
    gpt_cond_len: int = 30
    """Seconds of all clips together that the conditioning latents are computed from."""
    gpt_cond_chunk_len: int = 4
    """Seconds of audio per chunk; the latents are the mean over chunks."""
    sound_norm_refs: bool = False
    """True if clips are scaled to a peak of 0.75."""


def mix(parts: Sequence[tuple[Conditioning, float]]) -> Conditioning:
    """Return the weighted sum of several voices; the weights must add up to 1."""
    return Conditioning(
        torch.stack([one.latents * weight for one, weight in parts]).sum(0),
        torch.stack([one.speaker * weight for one, weight in parts]).sum(0),
    )


@torch.inference_mode()
def compute(model: Any, clips: Sequence[bytes], parameters: ConditioningParameters) -> Conditioning:  # noqa: ANN401 - upstream is untyped
    """Return the conditioning of a voice from its clips (encoded audio files), as upstream's Xtts computes it.

    It follows upstream's `get_conditioning_latents`; `model` is upstream's Xtts. Raises InvalidJobError if a clip
    cannot be decoded or is too short for upstream (0.33 s).
    """
    sounds: list[Tensor] = []
    for clip in clips:
        sounds.append(_decode_clip(clip, parameters))
        _check_total(sounds)
    try:
        speakers = [model.get_speaker_embedding(sound, CLIP_HZ) for sound in sounds]
        latents = model.get_gpt_cond_latents(
            torch.cat(sounds, dim=-1),
            CLIP_HZ,
            length=parameters.gpt_cond_len,
            chunk_length=parameters.gpt_cond_chunk_len,
        )
    except RuntimeError as error:
        raise InvalidJobError(
            f"conditioning cannot be computed from the voice's clips ({error}); add the voice again"
        ) from error
    speaker = torch.stack(speakers).mean(dim=0)
    found = Conditioning(latents[0].float().cpu().clone(), speaker.float().cpu().clone())
    if not (found.latents.isfinite().all() and found.speaker.isfinite().all()):
        raise InvalidJobError(
            "conditioning computed from the voice's clips has values that are not finite; add the voice again"
        )
    return found


def _near_rate(rate: int) -> int:
    """Return a sample rate that can be resampled to CLIP_HZ: an unusual one is rounded, by 0.3 % at most.

    The resampler computes a filter for each step of a period. For 44101 Hz these would have 8 GB, because 44101 and
    CLIP_HZ have no common divisor. All usual rates have one of at least RATE_STEP_HZ.
    """
    return rate if math.gcd(rate, CLIP_HZ) >= RATE_STEP_HZ else round(rate / RATE_STEP_HZ) * RATE_STEP_HZ


def _check_total(sounds: Sequence[Tensor]) -> None:
    """Raise InvalidJobError if clips, shape (1, n) each at CLIP_HZ, are longer than all clips of a voice may be."""
    total_s = sum(sound.shape[-1] for sound in sounds) / CLIP_HZ
    if total_s > MOST_TOTAL_S + 1:  # resampling and other producers round
        raise InvalidJobError(
            f"the clips of the voice have {total_s:.1f} s, and {MOST_TOTAL_S:g} s is the most; add the voice again"
        )


def _check(name: str, array: npt.NDArray[np.generic], shape: tuple[int | None, ...]) -> None:
    """Raise UnfitConditioningError if an array is not fp32, of this shape and finite."""
    if array.dtype != np.float32 or array.shape != shape:
        raise UnfitConditioningError(f"{name} is {array.dtype} {array.shape}, not float32 {shape}")
    if not np.isfinite(array).all():
        raise UnfitConditioningError(f"{name} has values that are not finite")


def _decode_clip(clip: bytes, parameters: ConditioningParameters) -> Tensor:
    """Return the samples of a clip: mono (1, n) at CLIP_HZ, -1 to 1."""
    import torchaudio

    try:
        samples, rate, _ = read_mono(io.BytesIO(clip), MOST_CLIP_S, cut=False)
    except RecordingError as error:
        raise InvalidJobError(f"a clip of the voice cannot be read (it {error}); add the voice again") from error
    sound = torch.from_numpy(samples)[None]
    if rate != CLIP_HZ:
        sound = torchaudio.functional.resample(sound, _near_rate(rate), CLIP_HZ)
    sound = sound.clip(-1, 1)[:, : CLIP_HZ * parameters.max_ref_len]
    return sound / sound.abs().max() * 0.75 if parameters.sound_norm_refs else sound
