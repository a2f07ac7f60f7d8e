"""What the codecs make of a speech."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf

from tests.support.entries import (
    begin,
    end,
    heard,
    mark,
    noise,
    pcm,
    record,
    speech,
    tone,
)
from voxspool.audio.encoding import LEAST_SILENCE_S, resampler
from voxspool.audio.files import SUFFIXES, Writer
from voxspool.errors import OutputError
from voxspool.protocol.stream import Audio, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOSSLESS = (".wav", ".flac")
LOSSY = (".mp3", ".ogg", ".opus")
RATES_HZ = (22_050, 24_000)  # Piper's and XTTS's


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_wav_and_flac_hold_the_exact_samples(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    spoken = np.concatenate([noise(2.3, rate_hz), np.array([-32_768, 32_767, 0, 1, -1], np.int16)])
    path = tmp_path / f"a{suffix}"
    recorder = record(path, speech(spoken, rate_hz))
    samples, file_rate_hz = heard(path)
    assert file_rate_hz == rate_hz == recorder.sample_rate
    assert recorder.samples == len(spoken)
    np.testing.assert_array_equal(samples, spoken)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("suffix", LOSSY)
def test_a_lossy_file_lasts_as_long_and_sounds_alike(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"a{suffix}"
    record(path, speech(tone(3.3, rate_hz), rate_hz))
    samples, file_rate_hz = heard(path)
    assert file_rate_hz == (24_000 if suffix == ".opus" else rate_hz)
    expected = tone(3.3, file_rate_hz)
    assert abs(len(samples) - len(expected)) <= 2  # a rounded resampling; the codecs' own padding is cut by libsndfile
    both = min(len(samples), len(expected))
    assert np.corrcoef(samples[:both], expected[:both])[0, 1] > 0.99
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.05)


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "file_rate_hz"),
    [(".opus", 16_000, 16_000), (".opus", 44_100, 48_000), (".opus", 96_000, 48_000), (".mp3", 13_000, 16_000)],
)
def test_a_rate_the_codec_does_not_take_goes_to_the_next_higher(
    tmp_path: Path, suffix: str, rate_hz: int, file_rate_hz: int
) -> None:
    path = tmp_path / f"a{suffix}"
    record(path, speech(tone(1, rate_hz), rate_hz))
    samples, got_hz = heard(path)
    assert got_hz == file_rate_hz
    assert len(samples) / got_hz == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("suffix", LOSSY)
def test_a_segment_of_two_minutes_does_not_break_the_encoder(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"  # libsndfile 1.2.2 dies of it, where it is given as one block of Vorbis
    record(path, speech(np.zeros(120 * 24_000, np.int16), segment=120 * 24_000))
    assert sf.info(path).frames == 120 * 24_000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_empty_speech_is_a_file_that_opens(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"a{suffix}"
    recorder = record(path, [begin(rate_hz=rate_hz), end(0)])
    samples, file_rate_hz = heard(path)
    assert recorder.samples == 0
    assert not samples.any()
    assert len(samples) == (0 if suffix in (".wav", ".ogg") else int(LEAST_SILENCE_S * file_rate_hz))


def test_a_speech_of_one_sample_is_kept(tmp_path: Path) -> None:
    for suffix in LOSSLESS:
        record(tmp_path / f"a{suffix}", speech(np.array([7], np.int16)))
        assert heard(tmp_path / f"a{suffix}")[0].tolist() == [7]


def test_a_sample_rate_that_libsndfile_refuses_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="libsndfile"):
        record(tmp_path / "a.flac", [begin(rate_hz=10**9)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", LOSSY)
def test_an_interrupt_amid_encoding_is_raised_and_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted_stream() -> Iterator[Entry]:
        spoken = noise(20)
        yield begin()
        yield Audio(0, pcm(spoken))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        yield mark(0, len(spoken))

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            record(tmp_path / f"a{suffix}", interrupted_stream())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not list(tmp_path.iterdir())


MOST_HZ = {".wav": 2**31 - 1, ".flac": 655_350}
"""The highest sample rate of the formats that take any."""


@pytest.mark.parametrize(
    ("suffix", "rate_hz"),
    [
        (suffix, rate_hz)
        for suffix in SUFFIXES
        for rate_hz in (0, 1, 999, 192_001, 655_351, 2**31, 2**40)
        if not 0 < rate_hz <= MOST_HZ.get(suffix, 0)
    ],
)
def test_a_sample_rate_that_a_format_cannot_have_is_refused_in_one_line(
    tmp_path: Path, suffix: str, rate_hz: int
) -> None:
    with pytest.raises(OutputError, match=rf"a sample rate of {rate_hz} Hz cannot be|libsndfile") as refused:
        Writer(tmp_path / f"a{suffix}", rate_hz)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 192_001, 2**40])
def test_a_sample_rate_that_no_speech_has_is_not_resampled(rate_hz: int) -> None:
    with pytest.raises(OutputError, match=rf"a sample rate of {rate_hz} Hz cannot be .*, only 1000 to 192000 Hz"):
        resampler(rate_hz, 48_000)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate_hz", [1_000, 192_000])
def test_the_lowest_and_the_highest_sample_rate_are_encoded(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    with Writer(tmp_path / f"a{suffix}", rate_hz) as writer:
        writer.write(np.zeros(rate_hz, np.int16))
        writer.finish()
    assert sf.info(str(tmp_path / f"a{suffix}")).duration == pytest.approx(1, abs=0.1)
