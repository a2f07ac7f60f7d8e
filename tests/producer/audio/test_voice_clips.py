"""Recordings become clips, or are refused with what is wrong, the value, and what to do."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf

from tests.support.bombs import silent_recording
from voxspool.audio import voice_clips
from voxspool.errors import ClipError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RATE = 24_000


def speech(seconds: float = 6.0, *, level: float = 0.2, rate: int = RATE) -> NDArray[np.float64]:
    """Return noise that swells and fades four times a second, as syllables do."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(1).uniform(-1, 1, len(time))
    return level * noise * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time))


def encoded(samples: NDArray[Any], rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def refusal(*sources: Path | bytes) -> str:
    with pytest.raises(ClipError) as caught:
        voice_clips.read(sources)
    return str(caught.value)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")],
)
def test_a_recording_becomes_flac_at_its_own_rate(form: str, subtype: str) -> None:
    (clip,) = voice_clips.read([encoded(speech(), 44_100, form, subtype)])
    samples, rate = sf.read(io.BytesIO(clip.flac))
    assert (rate, samples.ndim) == (44_100, 1)
    assert clip.about.sample_rate == 44_100
    assert clip.about.duration_s == pytest.approx(len(samples) / rate)
    assert clip.about.sha256 == hashlib.sha256(clip.flac).hexdigest()
    assert sf.info(io.BytesIO(clip.flac)).format == "FLAC"


def test_samples_of_16_bits_come_back_as_they_were() -> None:
    pcm = np.rint(speech() * 32767).astype(np.int16)
    pcm[:2] = 32767, -32768
    (clip,) = voice_clips.read([encoded(pcm)])
    assert np.array_equal(sf.read(io.BytesIO(clip.flac), dtype="int16")[0], pcm)


def test_channels_are_mixed_to_one() -> None:
    one, other = speech(), speech()[::-1]
    (clip,) = voice_clips.read([encoded(np.stack([one, other], axis=1))])
    assert sf.read(io.BytesIO(clip.flac))[0] == pytest.approx((one + other) / 2, abs=1e-4)


def test_several_clips_keep_their_order_and_files_and_bytes_may_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "first.wav"
    path.write_bytes(encoded(speech(2)))
    first, second = voice_clips.read([path, encoded(speech(3))])
    assert (first.about.duration_s, second.about.duration_s) == (2, 3)


def test_of_a_long_recording_the_first_half_minute_is_kept_and_its_length_is_known() -> None:
    (clip,) = voice_clips.read([encoded(speech(31.5, rate=8_000), 8_000)])
    assert (clip.about.duration_s, clip.about.recording_s) == (30, 31.5)


def test_an_empty_list_of_recordings_is_refused() -> None:
    assert "at least one recording" in refusal()


def test_clips_that_are_short_are_refused_alone_and_together() -> None:
    assert "is 0.30 s long, and a clip has at least 0.5 s" in refusal(encoded(speech(0.3)), encoded(speech(6)))
    assert "is 0.00 s long" in refusal(encoded(speech(0)))
    assert "there is 2.6 s of sound in all, and a voice needs at least 3 s" in refusal(
        encoded(speech(1.2)), encoded(speech(1.4))
    )


def test_silence_does_not_count_as_sound() -> None:
    paused = np.concatenate([speech(2), np.zeros(2 * RATE)])
    assert "there is 2.0 s of sound in all" in refusal(encoded(paused))


def test_more_than_a_minute_in_all_is_refused() -> None:
    long = encoded(speech(21, rate=8_000), 8_000)
    assert "63.0 s in all, and 60 s is the most" in refusal(long, long, long)


def test_a_quiet_clip_is_refused_with_its_level() -> None:
    said = refusal(encoded(speech(level=0.01)))
    assert "is too quiet: -4" in said
    assert "dB below full scale" in said
    assert "amplify it" in said


def test_a_silent_clip_is_refused() -> None:
    assert "clip 1 is silent" in refusal(encoded(np.zeros(6 * RATE)))


def test_a_clip_that_is_mostly_silence_is_refused_with_the_share() -> None:
    assert "is mostly silence: 88% of it" in refusal(encoded(np.concatenate([speech(3), np.zeros(22 * RATE)])))


def test_the_noise_of_a_room_counts_as_silence() -> None:
    noise = np.random.default_rng(2).normal(0, 1e-4, 22 * RATE)
    assert "is mostly silence" in refusal(encoded(np.concatenate([speech(3), noise])))


def test_a_clipped_clip_is_refused_with_the_share() -> None:
    assert "% of its samples are at full scale; record it again" in refusal(encoded(np.clip(speech(level=1.3), -1, 1)))


def test_peaks_at_full_scale_are_not_clipping() -> None:
    samples = speech()
    samples[::4_000] = 1.0
    assert voice_clips.read([encoded(samples)])


def test_a_dc_offset_is_refused_with_its_value() -> None:
    assert "has a DC offset of -0.20 of full scale" in refusal(encoded(speech() - 0.2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_a_number_is_refused_with_its_time(value: float) -> None:
    samples = speech()
    samples[RATE] = value
    assert "has a sample that is no number, at 1.00 s" in refusal(encoded(samples, subtype="FLOAT"))


def test_a_sample_rate_beyond_reason_is_refused() -> None:
    assert "sample rate of 4000 Hz, outside 8000 to 192000" in refusal(encoded(speech(rate=4_000), 4_000))


def test_many_channels_are_refused() -> None:
    assert "has 9 channels, and 8 is the most" in refusal(encoded(np.stack([speech()] * 9, axis=1)))


@pytest.mark.parametrize("data", [b"", b"not a recording", encoded(speech())[:20]], ids=["empty", "text", "cut short"])
@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".raw", ""])
def test_a_file_that_is_not_audio_is_refused_by_name(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(data)
    said = refusal(encoded(speech()), path)
    assert said.startswith(f"{path} is")
    assert "convert it to WAV, FLAC or MP3" in said or "0.00 s long" in said


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path / 'none.wav'}: No such file" in refusal(tmp_path / "none.wav")
    assert f"cannot read {tmp_path}: Is a directory" in refusal(tmp_path)


def test_an_hour_of_silence_in_eight_channels_takes_little_memory() -> None:
    data = silent_recording(seconds=3600)
    tracemalloc.start()
    try:
        assert "clip 1 is silent" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
