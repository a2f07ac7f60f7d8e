"""Recordings of strangers are refused by their header, and read in parts, so that no small file fills the memory."""

from __future__ import annotations

import contextlib
import errno
import io
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf

from tests.support.bombs import silent_recording
from voxspool.recordings import MOST_CLIP_S, RecordingError, read_mono

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_BYTES = 40 * 2**20
"""The memory that a clip of 30 s at 48 kHz may take: 6 MB, twice while its parts are joined, and a block."""


@pytest.fixture
def peak_bytes() -> Iterator[Callable[[], int]]:
    """Return a function that returns the largest memory in use since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_an_hour_of_silence_in_eight_channels_is_refused_by_its_header(peak_bytes: Callable[[], int]) -> None:
    data = silent_recording(seconds=3600)
    assert len(data) < 250_000
    tracemalloc.reset_peak()
    with pytest.raises(RecordingError, match=r"is 3600\.0 s long, and 30 s is the most") as refused:
        read_mono(io.BytesIO(data), MOST_CLIP_S, cut=False)
    assert refused.value.remedy == "cut it to 30 s"
    assert peak_bytes() < MOST_BYTES


@pytest.mark.parametrize("rate", [8_000, 192_000])
def test_a_longer_recording_is_cut_without_being_decoded_whole(peak_bytes: Callable[[], int], rate: int) -> None:
    data = silent_recording(seconds=40, rate=rate)
    tracemalloc.reset_peak()
    samples, found, frames = read_mono(io.BytesIO(data), MOST_CLIP_S, cut=True)
    assert (len(samples), found, frames) == (MOST_CLIP_S * rate, rate, 40 * rate)
    assert peak_bytes() < 2 * samples.nbytes + MOST_BYTES / 4, "all channels together would be 8 times as large"


def test_blocks_give_the_samples_of_the_whole() -> None:
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (25 * 24_000, 3))
    buffer = io.BytesIO()
    sf.write(buffer, sound, 24_000, format="FLAC", subtype="PCM_24")
    buffer.seek(0)
    whole, _ = sf.read(buffer, dtype="float32")
    buffer.seek(0)
    assert np.array_equal(read_mono(buffer, MOST_CLIP_S, cut=False).samples, whole.mean(axis=1))


@pytest.mark.parametrize("stated", [0, 100, 2**31, 2**32 - 1])
def test_a_wav_with_a_wrong_length_in_its_header_has_what_the_file_has(stated: int) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, np.full(8_000, 0.1), 8_000, format="WAV", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    at = data.index(b"data") + 4
    data[at : at + 4] = stated.to_bytes(4, "little")
    samples, _, frames = read_mono(io.BytesIO(bytes(data)), MOST_CLIP_S, cut=False)
    assert len(samples) == frames == (stated // 2 if stated <= 100 else 8_000)


@pytest.mark.parametrize("stated", [0, 1, 2_000, 10**10])
def test_a_flac_with_a_wrong_length_in_its_header_is_refused_or_short(stated: int) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, np.full(8_000, 0.1), 8_000, format="FLAC", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    data[21] = data[21] & 0xF0 | stated >> 32  # 36 bits of the STREAMINFO block
    data[22:26] = (stated & 0xFFFFFFFF).to_bytes(4, "big")
    try:
        samples, _, _ = read_mono(io.BytesIO(bytes(data)), MOST_CLIP_S, cut=False)
    except RecordingError as error:
        assert "is no recording" in error.fault or "s long" in error.fault  # noqa: PT017 - it need not be refused
    else:
        assert len(samples) <= 8_000


@pytest.mark.parametrize(
    ("rate", "channels", "fault"),
    [
        (8_000, 9, "has 9 channels, and 8 is the most"),
        (8_000, 1_000, "has 1000 channels"),
        (7_999, 1, "sample rate of 7999 Hz, outside 8000 to 192000"),
        (192_001, 1, "sample rate of 192001 Hz"),
        (2**30, 1, "sample rate of 1073741824 Hz"),
    ],
)
def test_another_form_than_that_of_a_voice_is_refused_before_a_sample_is_read(
    rate: int, channels: int, fault: str
) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, np.zeros((10, channels)), rate, format="WAV", subtype="PCM_16")
    with pytest.raises(RecordingError, match=fault):
        read_mono(io.BytesIO(buffer.getvalue()), MOST_CLIP_S, cut=True)


def test_a_header_that_points_before_the_file_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, np.full(1_600, 0.1), 8_000, format="AIFF", subtype="PCM_16")
    whole = buffer.getvalue()
    for at in range(len(whole) - 3_200):
        for word in (b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"):
            with contextlib.suppress(RecordingError):
                read_mono(io.BytesIO(whole[:at] + word + whole[at + 4 :]), MOST_CLIP_S, cut=True)
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_disk_is_raised_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 20_000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    buffer = io.BytesIO()
    sf.write(buffer, np.full(24_000, 0.1), 8_000, format="WAV", subtype="PCM_16")
    with pytest.raises(OSError, match="Input/output error"):
        read_mono(Failing(buffer.getvalue()), MOST_CLIP_S, cut=True)
    assert capfd.readouterr() == ("", "")
