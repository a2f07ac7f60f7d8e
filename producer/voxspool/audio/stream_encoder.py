"""A speech becomes encoded bytes while its stream is read: for a web page or a program that wants no file.

A live stream has no length yet, and nothing that was sent can be changed. So WAV and FLAC say the length only if
it is known before (the speech has ended), MP3 has a constant bit rate, and Opus comes in short pages.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from voxspool.audio.encoding import FORMATS, Encoder, Encoding, check_rate
from voxspool.audio.playback import Playhead
from voxspool.audio.recorder import NO_BEGIN
from voxspool.errors import OutputError, StreamGapError
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Begin, End
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from voxspool.protocol.stream import Entry

    Pcm = NDArray[np.int16]

MP3_KBIT_S: Final = ((32_000, 96), (16_000, 64), (0, 32))
"""From a sample rate in Hz on: the constant bit rate of an MP3, for one voice. With a variable one and without a final
header, players show a wrong length."""
OPUS_PAGE_MS: Final = 50.0
"""The longest audio in one page of Opus: that of a chunk. libsndfile's own second would delay every listener by it."""
UNKNOWN_BYTES: Final = 2**32 - 1
"""The sizes in the header of a WAV of unknown length, as FFmpeg writes them into a pipe: players read to the end."""
_WAV_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FLAC_COUNT_AT: Final = 18
"""Where 8 bytes of a FLAC's STREAMINFO begin whose low 36 bits are the number of samples; 0: unknown (RFC 9639)."""


class StreamEncoder:
    """Encodes a speech entry by entry. Each sample is encoded once, also if a new attempt repeats it.

    Use it as a context manager, and `add` every entry in order. Raises OutputError if libsndfile fails, StreamGapError
    if samples are missing.
    """

    def __init__(self, format: str, samples: int | None = None) -> None:  # noqa: A002 - the natural name
        """Prepare. `samples` is the length of the speech, if it has ended. Raises OutputError for an unknown format."""
        check_format(format)
        self._format = format
        self._samples = samples
        self._playhead = Playhead()
        self._encoder: _Bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._encoder is not None:
            self._encoder.discard()

    def add(self, entry: Entry) -> bytes:
        """Encode the next entry; return the bytes that are complete, often none. `end` completes them all."""
        with self._errors():
            if isinstance(entry, Begin) and self._encoder is None:
                self._encoder = self._open(entry.sample_rate)
            if self._encoder is None:
                if isinstance(entry, (Audio, End)):
                    raise StreamGapError(NO_BEGIN)
                return b""
            if pcm := self._playhead.feed(entry):
                self._encoder.write(pcm)
            if isinstance(entry, End):
                self._encoder.finish()
            return self._encoder.take()

    def _open(self, rate_hz: int) -> _Bytes:
        if self._format == "wav":
            return _Wav(rate_hz, self._samples)
        return _Encoded(self._format, rate_hz, self._samples)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot encode as {self._format}: {error}") from error


def check_format(name: str) -> None:
    """Refuse the name of a format that cannot be encoded. Raises OutputError, with the names."""
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise OutputError(
            f"{name!r} is not a format that can be encoded{did_you_mean(name, FORMATS)}; choose one of {known}",
            wrong_value=True,
        )


class _Bytes(Protocol):
    """Encodes samples, and holds the bytes until they are taken."""

    def write(self, pcm: bytes) -> None: ...
    def finish(self) -> None: ...
    def discard(self) -> None: ...
    def take(self) -> bytes: ...


class _Wav:
    """A WAV header and the samples as they are. libsndfile would write a length that is correct only at the end."""

    def __init__(self, rate_hz: int, samples: int | None) -> None:
        check_rate(rate_hz, "WAV")
        self._sink = _Buffer()
        self._sink.write(wav_header(rate_hz, samples))

    def write(self, pcm: bytes) -> None:
        self._sink.write(pcm)

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def take(self) -> bytes:
        return self._sink.take()


class _Encoded:
    """Encodes with libsndfile: FLAC, MP3, Vorbis and Opus."""

    def __init__(self, name: str, rate_hz: int, samples: int | None) -> None:
        form = FORMATS[name]
        kbit_s = next(rate for from_hz, rate in MP3_KBIT_S if form.rate_for(rate_hz) >= from_hz)
        encoding = Encoding(
            constant_kbit_s=kbit_s if name == "mp3" else None, page_ms=OPUS_PAGE_MS if name == "opus" else None
        )
        self._sink = _Buffer()
        self._length = samples if name == "flac" else None
        self._encoder = Encoder(self._sink, form, rate_hz, encoding=encoding)

    def write(self, pcm: bytes) -> None:
        self._encoder.write(np.frombuffer(pcm, "<i2").astype(np.int16, copy=False))

    def finish(self) -> None:
        self._encoder.finish()

    def discard(self) -> None:
        self._encoder.discard()

    def take(self) -> bytes:
        taken = self._sink.take()
        if self._length and taken:
            taken, self._length = with_flac_length(taken, self._length), None
        return taken


class _Buffer:
    """A sink whose first bytes are gone already: what is written over them is dropped, such as a final header."""

    failure: OSError | None = None

    def __init__(self) -> None:
        self._fresh = bytearray()
        self._at = 0
        self._size = 0

    def write(self, data: bytes) -> int:
        self._at += len(data)
        new = max(0, self._at - self._size)
        self._fresh += data[len(data) - new :]
        self._size += new
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def finish(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def take(self) -> bytes:
        """Return the bytes that came since the last call."""
        taken = bytes(self._fresh)
        self._fresh.clear()
        return taken


def wav_header(rate_hz: int, samples: int | None) -> bytes:
    """Return the 44 bytes before the samples of a WAV, 16-bit mono; of unknown length if `samples` is None."""
    data_bytes = UNKNOWN_BYTES if samples is None else min(samples * SAMPLE_BYTES, UNKNOWN_BYTES)
    riff_bytes = min(data_bytes + _WAV_HEADER.size - 8, UNKNOWN_BYTES)
    return _WAV_HEADER.pack(
        b"RIFF", riff_bytes, b"WAVE", b"fmt ", 16, 1, 1, rate_hz, rate_hz * SAMPLE_BYTES, SAMPLE_BYTES,
        8 * SAMPLE_BYTES, b"data", data_bytes,
    )  # fmt: skip


def with_flac_length(head: bytes, samples: int) -> bytes:
    """Return the first bytes of a FLAC with the number of its samples, which libsndfile writes at the end."""
    before, after = head[:_FLAC_COUNT_AT], head[_FLAC_COUNT_AT + 8 :]
    (packed,) = struct.unpack(">Q", head[_FLAC_COUNT_AT : _FLAC_COUNT_AT + 8])
    return before + struct.pack(">Q", packed | min(samples, 2**36 - 1)) + after
