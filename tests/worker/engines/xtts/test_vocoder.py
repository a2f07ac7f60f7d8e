"""The vocoder in windows against upstream's decoding at once: the same samples, at a cost that does not grow."""

from __future__ import annotations

from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from voxspool_worker.engines.xtts.vocoder import Vocoder, VoiceCondition

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    from torch import Tensor

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries warn of one another

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
def condition(vocoder: Vocoder, speaker: Tensor) -> VoiceCondition:
    return vocoder.voice(speaker)


def some(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 128, generator=torch.Generator().manual_seed(seed))


def at_once(upstream: Any, latents: Tensor, speaker: Tensor, speed: float = 1.0) -> npt.NDArray[np.float32]:
    """What `inference_stream` does of all latents."""
    with torch.inference_mode():
        whole = latents[None]
        if speed != 1.0:
            whole = F.interpolate(whole.transpose(1, 2), scale_factor=1 / speed, mode="linear").transpose(1, 2)
        found: npt.NDArray[np.float32] = upstream.hifigan_decoder(whole, g=speaker).flatten().numpy()
    return found


def in_chunks(
    vocoder: Vocoder, condition: VoiceCondition, latents: Tensor, sizes: Iterable[int], speed: float = 1.0
) -> npt.NDArray[np.float32]:
    stream = vocoder.stream(condition, speed)
    borders = [0, *(end for end in accumulate(sizes) if end < len(latents)), len(latents)]
    heard = [stream.push(latents[start:end]) for start, end in zip(borders, borders[1:], strict=False)]
    return np.concatenate([*heard, stream.finish()])


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 14), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_whatever_the_chunks_the_samples_are_those_of_decoding_at_once(
    upstream: Any, vocoder: Vocoder, condition: VoiceCondition, speaker: Tensor, sizes: list[int], seed: int
) -> None:
    latents = some(sum(sizes), seed)
    wanted = at_once(upstream, latents, speaker)
    heard = in_chunks(vocoder, condition, latents, sizes)
    assert len(heard) == len(wanted)
    assert np.abs(heard - wanted).max() < 1e-4
    assert wanted.std() > 0.03, "silence would equal anything"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30])
def test_one_latent_at_a_time(
    upstream: Any, vocoder: Vocoder, condition: VoiceCondition, speaker: Tensor, count: int
) -> None:
    latents = some(count)
    wanted = at_once(upstream, latents, speaker)
    heard = in_chunks(vocoder, condition, latents, repeat(1, count))
    assert len(heard) == len(wanted)
    assert np.abs(heard - wanted).max() < 1e-4


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 1.7, 2.0])
def test_speed_is_upstreams(
    upstream: Any, vocoder: Vocoder, condition: VoiceCondition, speaker: Tensor, speed: float
) -> None:
    latents = some(24)
    wanted = at_once(upstream, latents, speaker, speed)
    for sizes in ([24], [5, 8, 11], [1] * 24):
        heard = in_chunks(vocoder, condition, latents, sizes, speed)
        assert len(heard) == len(wanted)
        assert np.abs(heard - wanted).max() < 1e-4


def test_nothing_in_nothing_out(vocoder: Vocoder, condition: VoiceCondition) -> None:
    assert len(vocoder.stream(condition).finish()) == 0


def test_the_first_chunk_can_be_heard_at_once(vocoder: Vocoder, condition: VoiceCondition) -> None:
    assert len(vocoder.stream(condition).push(some(8))) >= 0.16 * 24_000


def test_what_is_kept_and_what_is_decoded_does_not_grow(vocoder: Vocoder, condition: VoiceCondition) -> None:
    stream, widths, kept = vocoder.stream(condition), set(), set()
    for number in range(30):
        window = stream.window(some(20, number), whole=False)
        if number:
            widths.add(len(window.frames))
        kept.add(stream.kept)
    assert max(widths) - min(widths) <= 1
    assert max(widths) < 20 * 4 * 24_000 / 22_050 + 2 * vocoder.reach_frames + 2
    assert max(kept) < 20 + 3 * vocoder.reach_frames / 4


def test_a_stream_says_the_same_whoever_is_beside_it(vocoder: Vocoder, condition: VoiceCondition) -> None:
    alone = vocoder.push_many([(vocoder.stream(condition), some(12))])[0]
    others = [(vocoder.stream(condition, 1.3), some(9, 1)), (vocoder.stream(condition), some(12, 2))]
    beside = vocoder.push_many([others[0], (vocoder.stream(condition), some(12)), others[1]])[1]
    assert np.array_equal(alone, beside)


def test_windows_of_one_shape_can_be_decoded_together(vocoder: Vocoder, condition: VoiceCondition) -> None:
    # What an accelerator does; on a CPU it is not done, but it is right there too.
    streams = [vocoder.stream(condition) for _ in range(3)]
    windows = [stream.window(some(20, seed), whole=False) for seed, stream in enumerate(streams)]
    assert len({window.shape for window in windows}) == 1
    with torch.inference_mode():
        together = vocoder.decode(windows)
        for window, samples in zip(windows, together, strict=True):
            assert np.abs(vocoder.decode([window])[0] - samples).max() < 1e-5


def test_in_bf16_it_is_near(upstream: Any, condition: VoiceCondition, vocoder: Vocoder, speaker: Tensor) -> None:
    half = Vocoder(upstream.hifigan_decoder, CPU, torch.bfloat16)
    latents = some(30)
    exact = in_chunks(vocoder, condition, latents, [10, 20])
    found = in_chunks(half, half.voice(speaker), latents, [10, 20])
    assert 10 * np.log10(np.mean(exact**2) / np.mean((found - exact) ** 2)) > 35


def test_upstreams_module_stays_as_it_was(upstream: Any, vocoder: Vocoder, speaker: Tensor) -> None:
    del vocoder
    again = at_once(upstream, some(5), speaker)
    assert len(again) == 5 * 4 * 24_000 * 256 // 22_050 // 256 * 256
