"""Loudness compared with pyloudnorm, levels of known signals, and presets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.spoken import sine, speech, track
from voxspool.errors import MissingExtraError
from voxspool.narration.mastering import loudness
from voxspool.narration.mastering.levels import Levels
from voxspool.narration.mastering.loudness import PRESETS, LoudnessMeasurement, Meter, fit, gain_for, measure
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from pathlib import Path

    from voxspool.narration.mastering.master import PresetName

RATE_HZ = 22_050


def metered(pcm: np.ndarray, rate_hz: int = RATE_HZ, sizes: list[int] | None = None) -> LoudnessMeasurement:
    meter = Meter(rate_hz)
    bounds = np.cumsum(sizes or []).tolist()
    for block in np.split(pcm, [bound for bound in bounds if bound < len(pcm)]):
        meter.feed(block)
    return meter.measured()


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 44_100, 11_025])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_loudness_equals_that_of_pyloudnorm(rate_hz: int, seed: int) -> None:
    pcm = speech(20, rate_hz, seed=seed)
    theirs = pyloudnorm.Meter(rate_hz).integrated_loudness(pcm / 32_768)
    assert metered(pcm, rate_hz).loudness_lufs == pytest.approx(theirs, abs=0.05)


def test_audio_far_below_the_rest_does_not_count() -> None:
    loud, faint = speech(10, RATE_HZ), speech(30, RATE_HZ, rms=0.002)
    both = np.concatenate([faint, loud])
    theirs = pyloudnorm.Meter(RATE_HZ).integrated_loudness(both / 32_768)
    assert metered(both).loudness_lufs == pytest.approx(theirs, abs=0.05)
    assert metered(both).loudness_lufs == pytest.approx(metered(loud).loudness_lufs, abs=0.3)


def test_a_full_scale_sine_of_997_hz_is_3_lufs_below_full_scale() -> None:
    # The check in ITU-R BS.1770-4: 0 dBFS on one channel reads -3.01 LUFS.
    assert metered(sine(10, 48_000, amplitude=1.0, hz=997), 48_000).loudness_lufs == pytest.approx(-3.01, abs=0.05)


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 9_000), max_size=40))
def test_the_result_does_not_depend_on_the_block_size(sizes: list[int]) -> None:
    pcm = speech(5, RATE_HZ)
    once, pieces = metered(pcm), metered(pcm, sizes=sizes)
    for name in ("loudness_lufs", "rms_dbfs", "peak_dbfs", "true_peak_dbfs", "floor_dbfs"):
        assert getattr(pieces, name) == pytest.approx(getattr(once, name), abs=1e-6), name


def test_rms_peak_and_floor_of_a_known_sine_over_a_hum() -> None:
    hum, tone = sine(3, RATE_HZ, amplitude=0.001, hz=100), sine(2, RATE_HZ, amplitude=0.5)
    row = metered(np.concatenate([tone, hum]))
    assert row.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert row.floor_dbfs == pytest.approx(-63.01, abs=0.05)
    assert row.rms_dbfs == pytest.approx(-9.03 + 10 * np.log10(0.4), abs=0.01)


def test_the_peak_between_the_samples_is_seen() -> None:
    # A quarter of the rate, 45 degrees off: every sample is 3 dB below the crest.
    row = metered(sine(1, 24_000, amplitude=0.5, hz=6_000, phase=np.pi / 4), 24_000)
    assert row.peak_dbfs == pytest.approx(-9.03, abs=0.01)
    assert row.true_peak_dbfs == pytest.approx(-6.02, abs=0.2)  # it begins with a jump


@pytest.mark.parametrize("samples", [0, 1, 500, RATE_HZ * 2])
def test_silence_measures_minus_120_everywhere_and_gets_no_gain(samples: int) -> None:
    row = metered(np.zeros(samples, np.int16))
    assert row == LoudnessMeasurement(-120, -120, -120, -120, -120)
    assert {gain_for(name, row).db for name in PRESETS} == {0.0}


def test_channels_are_measured_together() -> None:
    left = sine(2, RATE_HZ, amplitude=0.5) / 32_768
    levels = Levels(RATE_HZ)
    levels.feed(np.stack([left, np.zeros_like(left)], axis=1))
    assert levels.rms_dbfs == pytest.approx(-9.03 - 3.01, abs=0.01)
    assert levels.peak_dbfs == pytest.approx(-6.02, abs=0.01)


def test_the_loudness_of_a_book_is_that_of_its_chapters_in_sequence(tmp_path: Path) -> None:
    store = Store(tmp_path)
    parts = [speech(8, RATE_HZ, seed=1), speech(8, RATE_HZ, rms=0.02, seed=2)]
    tracks = [track(store, number, [pcm]) for number, pcm in enumerate(parts, 1)]
    joined = np.concatenate([pcm for each in tracks for pcm in each.audio(store)])
    book, whole = measure(tracks, store), metered(joined)
    assert book.loudness_lufs == pytest.approx(whole.loudness_lufs, abs=0.1)
    assert book.rms_dbfs == pytest.approx(whole.rms_dbfs, abs=1e-6)
    assert (book.peak_dbfs, book.floor_dbfs) == (whole.peak_dbfs, whole.floor_dbfs)


@pytest.mark.parametrize(
    ("name", "field", "aim"),
    [("podcast", "loudness_lufs", -16), ("ebu", "loudness_lufs", -23), ("acx", "rms_dbfs", -20)],
)
def test_a_preset_reaches_its_loudness_although_the_limiter_lowers_it(
    tmp_path: Path, name: PresetName, field: str, aim: float
) -> None:
    store = Store(tmp_path)
    tracks = [track(store, n, [speech(7, RATE_HZ, rms=0.03 / n, seed=n), speech(7, RATE_HZ, seed=9)]) for n in (1, 2)]
    before, gain = fit(name, tracks, store)
    assert before == measure(tracks, store)
    after = measure(tracks, store, gain)
    assert getattr(after, field) == pytest.approx(aim, abs=0.2)
    assert after.peak_dbfs <= PRESETS[name].peak_dbfs


def test_the_limiter_is_tried_on_a_sample_of_a_long_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    tracks = [track(store, n, [speech(2, RATE_HZ, seed=seed) for seed in range(10)]) for n in (1, 2)]
    _, of_all = fit("podcast", tracks, store)
    monkeypatch.setattr(loudness, "_SAMPLE_S", 23.0)
    assert [len(each.cues) for each in loudness._sample(tracks)] == [5, 5]
    _, of_a_sample = fit("podcast", tracks, store)
    assert of_a_sample.db == pytest.approx(of_all.db, abs=0.8)


def test_a_silent_book_is_unchanged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, gain = fit("podcast", [track(store, 1, [np.zeros(RATE_HZ, np.int16)])], store)
    assert gain.db == 0
    assert fit("acx", [], store)[1].db == 0


def test_without_pyloudnorm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[books\]'$"):
        Meter(RATE_HZ)
