"""What XTTS needs to know of a voice, computed from clips as upstream does: conditioning latents, a speaker embedding.

It uses upstream's modules and parameters. Callers look in the caches first. A clip of 30 s takes 1 to 2 s on two
cores; upstream's high-level interface computes it again for each sentence.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soundfile
import torch

from voxspool.errors import InvalidJobError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

LOAD_HZ: Final = 22050
"""Upstream brings every clip to this rate first."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A voice, as the model wants it; on the CPU, fp32."""

    latents: Tensor
    """(32, width): what the GPT reads before the text."""
    speaker: Tensor
    """(1, 512, 1): what the vocoder is conditioned on."""

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return it as a cache stores it."""
        return {"latents": self.latents.numpy(), "speaker": self.speaker.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Conditioning:
        """Read what `to_arrays` gave. Raises KeyError for anything else."""
        return cls(torch.from_numpy(arrays["latents"]), torch.from_numpy(arrays["speaker"]))


@dataclass(frozen=True, slots=True)
class Listening:
    """How clips are listened to; the names and the meaning are upstream's, and the values come from its config.json."""

    max_ref_len: int = 30
    gpt_cond_len: int = 30
    gpt_cond_chunk_len: int = 4
    sound_norm_refs: bool = False


def mixed(parts: Sequence[tuple[Conditioning, float]]) -> Conditioning:
    """Mix voices by weights that add up to 1."""
    return Conditioning(
        torch.stack([one.latents * weight for one, weight in parts]).sum(0),
        torch.stack([one.speaker * weight for one, weight in parts]).sum(0),
    )


@torch.inference_mode()
def compute(model: Any, clips: Sequence[bytes], listening: Listening) -> Conditioning:  # noqa: ANN401 - upstream is untyped
    """Listen to a voice's clips (encoded files), as upstream's `get_conditioning_latents` does.

    Raises InvalidJobError for a clip that cannot be read, and for one that is too short for upstream (0.33 s).
    """
    sounds = [_sound(clip, listening) for clip in clips]
    try:
        speakers = [model.get_speaker_embedding(sound, LOAD_HZ) for sound in sounds]
        latents = model.get_gpt_cond_latents(
            torch.cat(sounds, dim=-1), LOAD_HZ, length=listening.gpt_cond_len, chunk_length=listening.gpt_cond_chunk_len
        )
    except RuntimeError as error:
        raise InvalidJobError(f"the voice's clips cannot be listened to ({error}); add the voice again") from error
    speaker = torch.stack(speakers).mean(dim=0)
    return Conditioning(latents[0].float().cpu().clone(), speaker.float().cpu().clone())


def _sound(clip: bytes, listening: Listening) -> Tensor:
    """Decode a clip: mono (1, n) at LOAD_HZ, -1 to 1."""
    import torchaudio

    try:
        samples, rate = soundfile.read(io.BytesIO(clip), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InvalidJobError(f"a clip of the voice cannot be read ({error}); add the voice again") from error
    sound = torch.from_numpy(np.ascontiguousarray(samples.mean(axis=1)))[None]
    if rate != LOAD_HZ:
        sound = torchaudio.functional.resample(sound, rate, LOAD_HZ)
    sound = sound.clip(-1, 1)[:, : LOAD_HZ * listening.max_ref_len]
    return sound / sound.abs().max() * 0.75 if listening.sound_norm_refs else sound
