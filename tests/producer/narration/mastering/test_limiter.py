"""The limiter: the ceiling, the gain around peaks, and streams of any block size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.spoken import sine, speech
from voxspool.narration.mastering.limiter import Limiter
from voxspool.narration.mastering.loudness import Meter

RATE_HZ = 22_050


def limited(
    pcm: np.ndarray, *, gain_db: float = 0.0, ceiling_dbfs: float = -6.0, sizes: list[int] | None = None
) -> np.ndarray:
    limiter = Limiter(RATE_HZ, gain_db=gain_db, ceiling_dbfs=ceiling_dbfs)
    bounds = [bound for bound in np.cumsum(sizes or []).tolist() if bound < len(pcm)]
    return np.concatenate([*(limiter.feed(block) for block in np.split(pcm, bounds)), limiter.finish()])


@st.composite
def peaky(draw: st.DrawFn) -> np.ndarray:
    """Noise with spikes anywhere, the ends and full scale included."""
    samples = draw(st.integers(0, 40_000))
    pcm = np.random.default_rng(draw(st.integers(0, 9))).normal(0, draw(st.sampled_from([0, 500, 9_000])), samples)
    pcm = pcm.clip(-32_768, 32_767).astype(np.int16)
    for _ in range(draw(st.integers(0, 6)) if samples else 0):
        pcm[draw(st.integers(0, samples - 1))] = draw(st.sampled_from([-32_768, 32_767, 20_000, -17_000]))
    return pcm


@settings(max_examples=60)
@given(pcm=peaky(), gain_db=st.floats(-20, 40), ceiling_dbfs=st.floats(-20, 0), sizes=st.lists(st.integers(0, 20_000)))
def test_no_sample_exceeds_the_ceiling_or_is_lost_at_any_block_size(
    pcm: np.ndarray, gain_db: float, ceiling_dbfs: float, sizes: list[int]
) -> None:
    once = limited(pcm, gain_db=gain_db, ceiling_dbfs=ceiling_dbfs)
    assert len(once) == len(pcm)
    assert once.dtype == np.int16
    assert np.abs(once.astype(int)).max(initial=0) <= 32_768 * 10 ** (ceiling_dbfs / 20)
    assert np.array_equal(limited(pcm, gain_db=gain_db, ceiling_dbfs=ceiling_dbfs, sizes=sizes), once)


def test_below_the_ceiling_every_sample_is_unchanged() -> None:
    pcm = speech(3, RATE_HZ).clip(-8_000, 8_000)  # between the samples it is higher
    assert np.array_equal(limited(pcm), pcm)


def test_below_the_ceiling_the_gain_is_exactly_the_one_asked_for() -> None:
    pcm = speech(3, RATE_HZ, rms=0.005)
    assert np.array_equal(limited(pcm, gain_db=6.0), np.rint(pcm * 10 ** (6 / 20)))


def spike_in_a_plateau() -> tuple[np.ndarray, np.ndarray, int]:
    """A spike of 12 dB over the ceiling in a long constant below it: the output divided by the input shows the gain."""
    pcm = np.full(3 * RATE_HZ, 4_000, np.int16)
    at = RATE_HZ
    pcm[at] = 32_000
    return pcm, limited(pcm, ceiling_dbfs=-12.0) / pcm, at


def test_the_gain_falls_before_a_peak_and_returns_to_exactly_one_after_it() -> None:
    _, gain, at = spike_in_a_plateau()
    ahead, behind = int(0.01 * RATE_HZ), int(0.3 * RATE_HZ)
    assert gain[at] <= 32_768 * 10 ** (-12 / 20) / 32_000
    assert (gain[: at - ahead] == 1).all()
    assert gain[at + int(0.03 * RATE_HZ)] < 0.5  # slowly: faster would be heard as distortion
    assert (gain[at + behind :] == 1).all()


def test_the_gain_moves_without_a_jump() -> None:
    pcm, gain, at = spike_in_a_plateau()
    away = np.delete(gain, at)  # there the input jumps, and rounding with it
    assert np.abs(np.diff(away)).max() < 0.02
    assert np.abs(np.diff(np.delete(pcm * gain, at))).max() < 0.02 * 4_000
    assert (np.diff(gain[: at - 1]) <= 1 / 2_000).all()  # falls before, but for rounding
    assert (np.diff(gain[at + 1 :]) >= -1 / 2_000).all()  # and rises behind


def test_peaks_between_samples_stay_below_the_ceiling_too() -> None:
    pcm = speech(5, RATE_HZ, rms=0.1)
    meter = Meter(RATE_HZ)
    meter.feed(limited(pcm, gain_db=12, ceiling_dbfs=-2.0))
    assert meter.levels.peak_dbfs == pytest.approx(-2.0, abs=0.5)
    assert meter.measured().true_peak_dbfs <= -2.0 + 0.05


def test_a_loud_tone_stays_a_tone() -> None:
    tone = limited(sine(2, RATE_HZ, amplitude=1.0), ceiling_dbfs=-6.0)[RATE_HZ // 2 : -RATE_HZ // 2]
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
    harmonics = [spectrum[round(440 * n * len(tone) / RATE_HZ) - 3 :][:7].max() for n in (1, 2, 3, 5)]
    assert max(harmonics[1:]) < 0.01 * harmonics[0]  # clipping it would give 0.2


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_it_works_at_any_rate(rate_hz: int) -> None:
    limiter = Limiter(rate_hz, gain_db=20, ceiling_dbfs=-3)
    out = np.concatenate([limiter.feed(speech(2, rate_hz)), limiter.finish()])
    assert len(out) == 2 * rate_hz
    assert np.abs(out.astype(int)).max() <= 32_768 * 10 ** (-3 / 20)
