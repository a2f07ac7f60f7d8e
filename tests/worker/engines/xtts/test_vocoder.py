"""The streaming vocoder against upstream's decoding of a whole segment: the same samples, at a constant cost."""

from __future__ import annotations

from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from voxspool_worker.engines.xtts.vocoder import SpeakerCondition, Vocoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from torch import Tensor

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

CPU = torch.device("cpu")
SAMPLES_A_LATENT = 4 * 256 * 24_000 / 22_050


@pytest.fixture(scope="module")
def speaker(upstream: Any) -> Tensor:
    found: Tensor = upstream.speaker_manager.speakers["Grace Random"]["speaker_embedding"]
    return found


@pytest.fixture(scope="module")
def vocoder(upstream: Any) -> Vocoder:
    return Vocoder(upstream.hifigan_decoder, CPU, torch.float32)


@pytest.fixture(scope="module")
def condition(vocoder: Vocoder, speaker: Tensor) -> SpeakerCondition:
    return vocoder.condition(speaker)


def random_latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 128, generator=torch.Generator().manual_seed(seed))


def decode_whole(upstream: Any, latents: Tensor, speaker: Tensor, speed: float = 1.0) -> npt.NDArray[np.float32]:
    """Return the samples of all latents as `inference_stream` decodes them."""
    with torch.inference_mode():
        whole = latents[None]
        if speed != 1.0:
            whole = F.interpolate(whole.transpose(1, 2), scale_factor=1 / speed, mode="linear").transpose(1, 2)
        found: npt.NDArray[np.float32] = upstream.hifigan_decoder(whole, g=speaker).flatten().numpy()
    return found


def decode_in_chunks(
    vocoder: Vocoder, condition: SpeakerCondition, latents: Tensor, sizes: Iterable[int], speed: float = 1.0
) -> npt.NDArray[np.float32]:
    stream = vocoder.stream(condition, speed)
    borders = [0, *(end for end in accumulate(sizes) if end < len(latents)), len(latents)]
    samples = [stream.push(latents[start:end]) for start, end in zip(borders, borders[1:], strict=False)]
    return np.concatenate([*samples, stream.finish()])


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 14), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_samples_do_not_depend_on_the_chunks_and_equal_upstreams(
    upstream: Any, vocoder: Vocoder, condition: SpeakerCondition, speaker: Tensor, sizes: list[int], seed: int
) -> None:
    latents = random_latents(sum(sizes), seed)
    wanted = decode_whole(upstream, latents, speaker)
    samples = decode_in_chunks(vocoder, condition, latents, sizes)
    assert len(samples) == len(wanted)
    assert np.abs(samples - wanted).max() < 1e-4
    assert wanted.std() > 0.03, "silence would prove nothing"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_latents_pushed_one_by_one_give_upstreams_samples(
    upstream: Any, vocoder: Vocoder, condition: SpeakerCondition, speaker: Tensor, count: int
) -> None:
    latents = random_latents(count)
    wanted = decode_whole(upstream, latents, speaker)
    samples = decode_in_chunks(vocoder, condition, latents, repeat(1, count))
    assert len(samples) == len(wanted)
    assert np.abs(samples - wanted).max() < 1e-4


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 1.7, 2.0])
def test_samples_at_other_speeds_equal_upstreams(
    upstream: Any, vocoder: Vocoder, condition: SpeakerCondition, speaker: Tensor, speed: float
) -> None:
    latents = random_latents(24)
    wanted = decode_whole(upstream, latents, speaker, speed)
    for sizes in ([24], [5, 8, 11], [1] * 24):
        samples = decode_in_chunks(vocoder, condition, latents, sizes, speed)
        assert len(samples) == len(wanted)
        assert np.abs(samples - wanted).max() < 1e-4


def test_a_stream_without_latents_has_no_samples(vocoder: Vocoder, condition: SpeakerCondition) -> None:
    assert len(vocoder.stream(condition).finish()) == 0


def test_the_first_eight_tokens_give_audio_at_once(vocoder: Vocoder, condition: SpeakerCondition) -> None:
    assert len(vocoder.stream(condition).push(random_latents(8))) >= 0.16 * 24_000


def test_kept_latents_and_window_sizes_do_not_grow(vocoder: Vocoder, condition: SpeakerCondition) -> None:
    stream, widths, kept = vocoder.stream(condition), set(), set()
    for number in range(30):
        window = stream.window(random_latents(20, number), complete=False)
        if number:
            widths.add(len(window.frames))
        kept.add(stream.kept)
    assert max(widths) - min(widths) <= 1
    assert max(widths) < 20 * 4 * 24_000 / 22_050 + 2 * vocoder.context_frames + 2
    assert max(kept) < 20 + 3 * vocoder.context_frames / 4


def test_the_samples_of_a_stream_do_not_depend_on_the_streams_beside_it(
    vocoder: Vocoder, condition: SpeakerCondition
) -> None:
    alone = vocoder.push_many([(vocoder.stream(condition), random_latents(12))])[0]
    others = [
        (vocoder.stream(condition, 1.3), random_latents(9, 1)),
        (vocoder.stream(condition), random_latents(12, 2)),
    ]
    beside = vocoder.push_many([others[0], (vocoder.stream(condition), random_latents(12)), others[1]])[1]
    assert np.array_equal(alone, beside)


def test_windows_of_one_shape_can_be_decoded_together(vocoder: Vocoder, condition: SpeakerCondition) -> None:
    # Only an accelerator decodes several windows together, but it works on a CPU, too.
    streams = [vocoder.stream(condition) for _ in range(3)]
    windows = [stream.window(random_latents(20, seed), complete=False) for seed, stream in enumerate(streams)]
    assert len({window.shape for window in windows}) == 1
    with torch.inference_mode():
        together = vocoder.decode(windows)
        for window, samples in zip(windows, together, strict=True):
            assert np.abs(vocoder.decode([window])[0] - samples).max() < 1e-5


def test_bf16_is_close_to_fp32(upstream: Any, condition: SpeakerCondition, vocoder: Vocoder, speaker: Tensor) -> None:
    bf16 = Vocoder(upstream.hifigan_decoder, CPU, torch.bfloat16)
    latents = random_latents(30)
    exact = decode_in_chunks(vocoder, condition, latents, [10, 20])
    found = decode_in_chunks(bf16, bf16.condition(speaker), latents, [10, 20])
    assert 10 * np.log10(np.mean(exact**2) / np.mean((found - exact) ** 2)) > 35


def test_upstreams_module_is_not_changed(upstream: Any, vocoder: Vocoder, speaker: Tensor) -> None:
    del vocoder
    again = decode_whole(upstream, random_latents(5), speaker)
    assert len(again) == 5 * 4 * 24_000 * 256 // 22_050 // 256 * 256
