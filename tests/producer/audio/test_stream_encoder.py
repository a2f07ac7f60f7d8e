"""Speeches that are encoded while they come: the bytes decode to the samples, and are there in time."""

from __future__ import annotations

import io
import struct
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf

from tests.support.spoken import speech as speechlike
from voxspool.audio.encoding import FORMATS, LEAST_SILENCE_S
from voxspool.audio.stream_encoder import StreamEncoder, with_flac_length
from voxspool.errors import OutputError, StreamGapError
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Entry, Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RATES_HZ = (16_000, 22_050, 24_000, 48_000)  # Piper's two, XTTS's, and MPEG 1's
CHUNK_S = 0.05
LOSSLESS = ("wav", "flac")


def entries(samples: np.ndarray, rate_hz: int) -> Iterator[Entry]:
    """A stream without a break, in chunks of 50 ms and segments of a second."""
    yield Begin(0, rate_hz, "tone", "tone", "a", "en", 0)
    for number, start in enumerate(range(0, len(samples), size := int(CHUNK_S * rate_hz)), 1):
        part = samples[start : start + size]
        yield Audio(start, part.astype("<i2").tobytes())
        if number % 20 == 0:
            yield Mark(start - 19 * size, start + len(part), number // 20 - 1, 0, 1, 0)
    yield End(len(samples), len(samples) / rate_hz, 1, None, None)


def encoded(name: str, stream: Iterable[Entry], samples: int | None = None) -> list[bytes]:
    """Return the bytes that each entry brings."""
    with StreamEncoder(name, samples) as encoder:
        return [encoder.add(entry) for entry in stream]


def decoded(data: bytes, name: str, length: int | None = None) -> tuple[np.ndarray, int]:
    """Decode with libsndfile. It reads no FLAC of unknown length, so the length is put in."""
    if name == "flac" and length is not None:
        data = with_flac_length(data, length)
    return sf.read(io.BytesIO(data), dtype="int16")


def alignment(found: np.ndarray, wanted: np.ndarray) -> tuple[int, float]:
    """Return by how many samples one signal is later than another, and how alike they are then."""
    size = 1 << (len(found) + len(wanted)).bit_length()
    spectrum = np.fft.rfft(found.astype(float), size) * np.conj(np.fft.rfft(wanted.astype(float), size))
    delay = int(np.argmax(np.fft.irfft(spectrum, size)))
    delay -= size if delay > size // 2 else 0
    found, wanted = found[max(0, delay) :], wanted[max(0, -delay) :]
    both = min(len(found), len(wanted))
    return delay, float(np.corrcoef(found[:both], wanted[:both])[0, 1])


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_encoded_live_decodes_to_the_samples(name: str, rate_hz: int) -> None:
    samples = speechlike(5.3, rate_hz)
    found, file_rate_hz = decoded(b"".join(encoded(name, entries(samples, rate_hz))), name, len(samples))
    assert file_rate_hz == FORMATS[name].rate_for(rate_hz)
    if name in LOSSLESS:
        np.testing.assert_array_equal(found, samples)
        return
    if file_rate_hz != rate_hz:
        samples = resampled(samples, rate_hz, file_rate_hz)
    delay, alike = alignment(found, samples)
    frames = 2 * 1_152 if name == "mp3" else 2  # encoder and decoder delay of MP3; a rounded resampling
    assert -2 <= delay <= frames
    assert abs(len(found) - len(samples)) <= 2 * frames
    assert alike > 0.97


def resampled(samples: np.ndarray, rate_hz: int, wanted_hz: int) -> np.ndarray:
    import soxr

    return soxr.resample(samples, rate_hz, wanted_hz)


@pytest.mark.parametrize("name", LOSSLESS)
def test_of_a_speech_that_has_ended_the_header_states_the_length(name: str) -> None:
    samples = speechlike(2.3, 24_000)
    data = b"".join(encoded(name, entries(samples, 24_000), len(samples)))
    assert sf.info(io.BytesIO(data)).frames == len(samples)
    np.testing.assert_array_equal(decoded(data, name)[0], samples)


def test_a_wav_of_a_speech_that_has_ended_is_read_by_the_standard_library() -> None:
    samples = speechlike(1.3, 22_050)
    with wave.open(io.BytesIO(b"".join(encoded("wav", entries(samples, 22_050), len(samples))))) as read:
        assert (read.getframerate(), read.getnchannels(), read.getsampwidth()) == (22_050, 1, 2)
        assert read.readframes(read.getnframes()) == samples.tobytes()


def test_a_live_wav_and_flac_state_that_the_length_is_unknown() -> None:
    samples = speechlike(1, 24_000)
    wav = b"".join(encoded("wav", entries(samples, 24_000)))
    assert struct.unpack("<I", wav[4:8]) == struct.unpack("<I", wav[40:44]) == (2**32 - 1,)
    assert wav[44:] == samples.tobytes()
    flac = b"".join(encoded("flac", entries(samples, 24_000)))
    (packed,) = struct.unpack(">Q", flac[18:26])
    assert packed & (2**36 - 1) == 0
    assert packed >> 44 == 24_000


def test_an_mp3_has_a_constant_bit_rate_so_that_players_show_its_length() -> None:
    from mutagen.mp3 import MP3

    data = b"".join(encoded("mp3", entries(speechlike(10, 24_000), 24_000)))
    info: Any = MP3(io.BytesIO(data)).info
    assert info.bitrate == 64_000
    assert info.length == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(("name", "wait_s"), [("wav", 0.05), ("mp3", 0.05), ("opus", 0.1), ("flac", 0.2), ("ogg", 3.0)])
def test_bytes_come_while_the_speech_is_made(name: str, wait_s: float) -> None:
    brought = encoded(name, (one for one in entries(speechlike(10, 24_000), 24_000) if not isinstance(one, Mark)))
    assert brought[0] or brought[1], "a head comes with the first audio"
    silent = longest = 0
    for data in brought[1:-1]:
        silent = 0 if data else silent + 1
        longest = max(longest, silent)
    assert (longest + 1) * CHUNK_S <= wait_s + 1e-9


def test_a_new_attempt_repeats_samples_and_they_are_encoded_once() -> None:
    samples = speechlike(3, 24_000)
    first = list(entries(samples, 24_000))[:30]
    begin = Begin(24_000, 24_000, "tone", "tone", "a", "en", 0)
    again = [Audio(at, samples[at : at + 1_200].astype("<i2").tobytes()) for at in range(24_000, len(samples), 1_200)]
    data = b"".join(encoded("wav", [*first, begin, *again, End(len(samples), 3.0, 1, None, None)]))
    np.testing.assert_array_equal(decoded(data, "wav")[0], samples)


@pytest.mark.parametrize("samples", [None, 0])
@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_speech_is_a_file_that_opens(name: str, samples: int | None) -> None:
    data = b"".join(encoded(name, entries(np.zeros(0, np.int16), 24_000), samples))
    silence = 0 if FORMATS[name].may_be_empty else int(LEAST_SILENCE_S * 24_000)
    found, _ = decoded(data, name, silence)
    assert not found.any()
    assert len(found) == silence or name == "mp3"


@pytest.mark.parametrize("name", ["aac", "MP3", ".mp3", "", "mp33"])
def test_an_unknown_format_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(OutputError, match=r"choose one of wav, flac, mp3, ogg, opus$") as caught:
        StreamEncoder(name)
    assert caught.value.wrong_value
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_samples_and_a_missing_begin_are_errors() -> None:
    begin, *rest = entries(speechlike(1, 24_000), 24_000)
    with pytest.raises(StreamGapError, match="before any begin"):
        encoded("mp3", rest)
    with pytest.raises(StreamGapError, match="audio is missing"):
        encoded("mp3", [begin, *rest[1:]])


def test_a_sample_rate_that_libsndfile_refuses_is_an_error() -> None:
    with pytest.raises(OutputError, match="cannot encode as flac: libsndfile"):
        encoded("flac", entries(np.zeros(9, np.int16), 10**9))


def test_a_speech_that_was_cancelled_before_it_began_brings_nothing() -> None:
    assert encoded("opus", [Cancelled(0, "me")]) == [b""]


@pytest.mark.parametrize("name", FORMATS)
def test_a_listener_who_leaves_leaves_no_thread(name: str) -> None:
    import threading

    with StreamEncoder(name) as encoder:
        for entry in list(entries(speechlike(1, 24_000), 24_000))[:5]:
            encoder.add(entry)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("voxspool-encoder")]
