"""Conditioning from clips: decoding, parameters, errors, and mixes of voices."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.support.bombs import silent_recording
from voxspool.errors import InvalidJobError
from voxspool.recordings import RATES_HZ
from voxspool_worker.engines.xtts.latents import (
    CLIP_HZ,
    Conditioning,
    ConditioningParameters,
    _near_rate,
    compute,
    mix,
)
from voxspool_worker.voices.conditioning_format import UnfitConditioningError

pytestmark = pytest.mark.filterwarnings("default")  # torchaudio emits warnings when it is imported


class FakeXtts:
    """Records what upstream's Xtts is called with; its results identify the clip."""

    def __init__(self) -> None:
        self.clips: list[torch.Tensor] = []
        self.joined: list[torch.Tensor] = []
        self.arguments: dict[str, int] = {}

    def get_speaker_embedding(self, sound: torch.Tensor, rate: int) -> torch.Tensor:
        assert rate == CLIP_HZ
        self.clips.append(sound)
        return torch.full((1, 512, 1), float(len(self.clips)))

    def get_gpt_cond_latents(self, sound: torch.Tensor, rate: int, **arguments: int) -> torch.Tensor:
        assert rate == CLIP_HZ
        self.joined.append(sound)
        self.arguments = arguments
        return torch.ones(1, 32, 8)


def clip(seconds: float, rate: int = CLIP_HZ, *, channels: int = 1, peak: float = 0.5) -> bytes:
    """Return a WAV file with a sine of 200 Hz in the first channel and silence in the others."""
    samples = np.zeros((round(seconds * rate), channels), np.float32)
    samples[:, 0] = peak * np.sin(2 * np.pi * 200 * np.arange(len(samples)) / rate)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def test_the_speaker_embedding_is_the_mean_over_clips_and_the_latents_are_those_of_all_clips_joined() -> None:
    model = FakeXtts()
    found = compute(model, [clip(1.0), clip(2.0)], ConditioningParameters(gpt_cond_len=12, gpt_cond_chunk_len=3))
    assert found.speaker.shape == (1, 512, 1)
    assert float(found.speaker[0, 0, 0]) == 1.5
    assert found.latents.shape == (32, 8)
    assert model.joined[0].shape == (1, 3 * CLIP_HZ)
    assert model.arguments == {"length": 12, "chunk_length": 3}


@pytest.mark.parametrize(("rate", "channels", "level"), [(44_100, 1, 0.5), (22_050, 2, 0.25)])
def test_clips_become_mono_at_upstreams_sample_rate(rate: int, channels: int, level: float) -> None:
    model = FakeXtts()
    compute(model, [clip(1.0, rate, channels=channels)], ConditioningParameters())
    assert model.clips[0].shape == (1, CLIP_HZ)
    assert float(model.clips[0].abs().max()) == pytest.approx(level, abs=0.01), "the mean of the channels"


def test_clips_are_truncated_and_normalised_if_the_parameters_say_so() -> None:
    model = FakeXtts()
    compute(model, [clip(3.0, peak=0.2)], ConditioningParameters(max_ref_len=2, sound_norm_refs=True))
    assert model.clips[0].shape == (1, 2 * CLIP_HZ)
    assert float(model.clips[0].abs().max()) == pytest.approx(0.75)


def test_a_clip_that_cannot_be_decoded_raises_an_invalid_job_error() -> None:
    with pytest.raises(InvalidJobError, match=r"a clip of the voice cannot be read .*; add the voice again"):
        compute(FakeXtts(), [clip(1.0), b"no audio"], ConditioningParameters())


def test_an_error_of_upstream_raises_an_invalid_job_error() -> None:
    class TooShort(FakeXtts):
        def get_speaker_embedding(self, *_: object) -> torch.Tensor:
            raise RuntimeError("Kernel size can't be greater than actual input size")

    with pytest.raises(InvalidJobError, match=r"cannot be computed from the voice's clips \(Kernel size"):
        compute(TooShort(), [clip(0.1)], ConditioningParameters())


def test_arrays_are_read_back_and_missing_ones_raise_a_key_error() -> None:
    voice = Conditioning(torch.randn(32, 8), torch.randn(1, 512, 1))
    arrays: dict[str, Any] = voice.to_arrays()
    again = Conditioning.from_arrays(arrays)
    assert torch.equal(again.latents, voice.latents)
    assert torch.equal(again.speaker, voice.speaker)
    del arrays["speaker"]
    with pytest.raises(KeyError):
        Conditioning.from_arrays(arrays)


def test_a_mix_is_the_weighted_sum_of_latents_and_embeddings() -> None:
    one, other = (Conditioning(torch.full((32, 8), value), torch.full((1, 512, 1), -value)) for value in (1.0, 5.0))
    mixed = mix([(one, 0.75), (other, 0.25)])
    assert torch.equal(mixed.latents, torch.full((32, 8), 2.0))
    assert torch.equal(mixed.speaker, torch.full((1, 512, 1), -2.0))


F32 = np.float32
GOOD = {"latents": np.zeros((32, 8), F32), "speaker": np.zeros((1, 512, 1), F32)}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"latents": np.zeros((32, 7), F32)}, r"latents is float32 \(32, 7\), not float32 \(32, 8\)"),
        ({"latents": np.zeros((32, 8192), F32)}, "not float32"),
        ({"latents": np.zeros((31, 8), F32)}, "not float32"),
        ({"latents": np.zeros((3200, 8), F32)}, "not float32"),
        ({"latents": np.zeros((0, 8), F32)}, "not float32"),
        ({"latents": np.zeros((1, 32, 8), F32)}, "not float32"),
        ({"latents": np.zeros(32, F32)}, "not float32"),
        ({"latents": np.zeros((), F32)}, "not float32"),
        ({"latents": np.zeros((32, 8), np.float64)}, "latents is float64"),
        ({"latents": np.zeros((32, 8), np.int32)}, "latents is int32"),
        ({"latents": np.zeros((32, 8), np.bool_)}, "latents is bool"),
        ({"latents": np.full((32, 8), np.nan, F32)}, "latents has values that are not finite"),
        ({"speaker": np.full((1, 512, 1), np.inf, F32)}, "speaker has values that are not finite"),
        ({"speaker": np.zeros((1, 511, 1), F32)}, "speaker is float32"),
        ({"speaker": np.zeros((512,), F32)}, "speaker is float32"),
        ({"more": np.zeros(1, F32)}, "it has the arrays"),
    ],
)
@pytest.mark.parametrize("width", [8, None])
def test_arrays_that_are_no_conditioning_are_refused_by_name(
    change: dict[str, Any], fault: str, width: int | None
) -> None:
    if width is None and change.get("latents", F32(0)).shape in {(32, 7), (32, 8192)}:
        width = 8  # without a width, these would fit some model
    with pytest.raises(UnfitConditioningError, match=fault):
        Conditioning.from_arrays(GOOD | change, width)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_conditioning_that_is_not_finite_is_not_returned(bad: float) -> None:
    class Diverging(FakeXtts):
        def get_gpt_cond_latents(self, sound: torch.Tensor, rate: int, **arguments: int) -> torch.Tensor:
            return super().get_gpt_cond_latents(sound, rate, **arguments) * bad

    with pytest.raises(InvalidJobError, match="values that are not finite; add the voice again"):
        compute(Diverging(), [clip(1.0)], ConditioningParameters())


def test_a_clip_that_states_an_hour_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(
        InvalidJobError, match=r"cannot be read \(it is 3600.0 s long, and 30 s is the most\); add the v"
    ):
        compute(FakeXtts(), [silent_recording(seconds=3600)], ConditioningParameters())


@pytest.mark.parametrize("count", [3, 120])
def test_clips_that_are_too_long_together_are_refused_before_all_are_decoded(count: int) -> None:
    with pytest.raises(InvalidJobError, match=r"the clips of the voice have 75.0 s, and 60 s is the most"):
        compute(FakeXtts(), [clip(25.0, 8_000)] * count, ConditioningParameters())


def test_every_allowed_sample_rate_is_resampled_with_a_small_filter() -> None:
    for rate in range(RATES_HZ[0], RATES_HZ[1] + 1):
        near = _near_rate(rate)
        divisor = math.gcd(near, CLIP_HZ)
        assert (CLIP_HZ // divisor) * (near // divisor) < 2_000_000, rate
        assert abs(near - rate) <= rate * 0.0032
    usual = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
    assert all(_near_rate(rate) == rate for rate in usual)


def test_a_clip_of_an_unusual_sample_rate_is_read() -> None:
    model = FakeXtts()
    compute(model, [clip(1.0, 44_101)], ConditioningParameters())
    assert model.clips[0].shape[1] == pytest.approx(CLIP_HZ, abs=10)
