"""Samples become encoded bytes: WAV, FLAC, MP3, Ogg Vorbis or Opus, block by block, into a sink.

libsndfile has the codecs. `files` gives it a file as the sink, `stream_encoder` a buffer that is emptied meanwhile.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar

import numpy as np
import soundfile as sf

from voxspool.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from voxspool.audio.tags import Tags

    Pcm = NDArray[np.int16]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Format:
    """A format of audio files: libsndfile's names for it, and its limits."""

    container: str
    subtype: str
    rates_hz: tuple[int, ...] = ()
    """The sample rates that the codec takes, ascending; empty: any."""
    may_be_empty: bool = False
    """True if players can open a file of this format that has no sample."""

    def rate_for(self, rate_hz: int) -> int:
        """Return the rate itself if the codec takes it, else the next higher one, else the codec's highest."""
        if not self.rates_hz:
            return rate_hz
        return next((rate for rate in self.rates_hz if rate >= rate_hz), self.rates_hz[-1])


# Rates as libsndfile 1.2.2 states them when it refuses another. Emptiness was tried with the same version: FLAC leaves
# 0 bytes, and a FLAC header of our own with 0 samples reads as "length unknown" and fails; MP3 and Opus lack a frame.
FORMATS: Final = {
    "wav": Format("WAV", "PCM_16", may_be_empty=True),
    "flac": Format("FLAC", "PCM_16"),
    "mp3": Format("MP3", "MPEG_LAYER_III", (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
    "ogg": Format("OGG", "VORBIS", may_be_empty=True),
    "opus": Format("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
}
"""The name of each format, which is also the suffix of its files."""

LEAST_SILENCE_S: Final = 0.02
"""The length of a speech without a sample in a format that cannot be empty (FLAC, MP3, Opus): one frame of Opus."""

_RATES_HZ: Final = (1_000, 192_000)
"""Sample rates of speech. A stream may state any: 1 Hz would become hours at 48 kHz, and Vorbis crashes at 655 kHz."""
_ANY_RATE: Final = ("WAV", "RF64", "FLAC")
_MOST_HZ: Final = 2**31 - 1
"""The largest sample rate that libsndfile can represent."""
_BLOCK_SAMPLES: Final = 16_384
"""The most samples given to libsndfile at once: 1.2.2 put two minutes of Vorbis on the stack and the process died."""

_MP3_KBIT_S: Final = ((32_000, 32, 320), (16_000, 8, 160), (0, 8, 64))
"""From a sample rate in Hz on (MPEG 1, 2, 2.5): the bit rates between which libsndfile 1.2.2 divides its compression
level, 1 to 0."""

_OGG_PAGE_LATENCY: Final = 0x1302
"""libsndfile's command SFC_SET_OGG_PAGE_LATENCY_MS, for Opus."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Options of an encoded file."""

    rate_hz: int | None = None
    """Its sample rate; None: the speech's, or the next higher one that the codec takes."""
    constant_kbit_s: int | None = None
    """For MP3: the bit rate of every frame. None: the codec chooses, frame by frame."""
    page_ms: float | None = None
    """For Opus: the longest audio in one Ogg page, so the longest wait of a live listener. None: libsndfile's 1 s."""


DEFAULT_ENCODING: Final = Encoding()


class Sink(Protocol):
    """Receives encoded bytes. libsndfile calls `write`, `seek` and `tell` from C, where an error would be lost."""

    failure: OSError | None
    """Why bytes were not written; None if all were."""

    def write(self, data: bytes) -> int:
        """Write at the current position; return the number of bytes."""
        ...

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the position, as io.IOBase.seek does; return it."""
        ...

    def tell(self) -> int:
        """Return the position."""
        ...

    def finish(self) -> None:
        """Complete the output. Raises OSError."""
        ...

    def discard(self) -> None:
        """Release what is held, without regard to the output."""
        ...


class Encoder:
    """Encodes samples into a sink. Every method may raise OSError.

    libsndfile calls back into Python to write bytes. Ctrl-C raises in the main thread alone; raised inside such a
    callback it would be printed and lost, and the bytes with it. So a thread of the encoder's own does the work.
    """

    def __init__(
        self,
        sink: Sink,
        form: Format,
        rate_hz: int,
        *,
        container: str = "",
        encoding: Encoding = DEFAULT_ENCODING,
        tags: Tags | None = None,
    ) -> None:
        """Begin the output. `rate_hz` is that of the samples to come; `container` replaces the format's own.

        Raises OutputError for a sample rate that the format cannot have.
        """
        self._thread = ThreadPoolExecutor(1, "voxspool-encoder")
        try:
            check_rate(rate_hz, container or form.container)
            self._codec = self._run(_Codec, sink, form, container or form.container, rate_hz, encoding, tags)
        except BaseException:
            self._thread.shutdown()
            sink.discard()
            raise

    def write(self, pcm: Pcm) -> None:
        """Encode the next samples, shape (n,)."""
        self._run(self._codec.write, pcm)

    def finish(self) -> None:
        """Encode what the resampler and the codec still hold, and complete the output."""
        self._run(self._codec.finish)

    def discard(self) -> None:
        """Stop without regard to the output. Harmless after `finish`, and a second time."""
        with suppress(RuntimeError):  # the thread has ended already
            self._run(self._codec.discard)
        self._thread.shutdown()

    def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something in the thread, and wait for it."""
        return self._thread.submit(work, *args, **kwargs).result()


class _Codec:
    """The part of an Encoder that runs in its thread."""

    def __init__(
        self, sink: Sink, form: Format, container: str, rate_hz: int, encoding: Encoding, tags: Tags | None
    ) -> None:
        file_rate_hz = encoding.rate_hz or form.rate_for(rate_hz)
        self._form = form
        self._resample = resampler(rate_hz, file_rate_hz)
        self._silence: Pcm = np.zeros(int(LEAST_SILENCE_S * file_rate_hz), np.int16)
        self._frames = 0
        self._sink = sink
        with self._checked():
            options = _bit_rate(encoding, file_rate_hz)
            self._file = sf.SoundFile(sink, "w", file_rate_hz, 1, format=container, subtype=form.subtype, **options)
            if encoding.page_ms is not None:
                _limit_pages(self._file, encoding.page_ms)
            if tags and container != "MP3":  # libsndfile writes an MP3's tags as Latin-1, whatever they are
                for name, value in tags.named().items():
                    setattr(self._file, name, value)

    def write(self, pcm: Pcm) -> None:
        self._put(self._resample(pcm, last=False))

    def finish(self) -> None:
        self._put(self._resample(np.zeros(0, np.int16), last=True))
        if not (self._frames or self._form.may_be_empty):
            self._put(self._silence)
        with self._checked():
            self._file.close()
        self._sink.finish()

    def discard(self) -> None:
        with suppress(sf.LibsndfileError, AssertionError):
            self._file.close()
        self._sink.discard()

    def _put(self, pcm: Pcm) -> None:
        for start in range(0, len(pcm), _BLOCK_SAMPLES):
            with self._checked():
                self._file.write(pcm[start : start + _BLOCK_SAMPLES])
        self._frames += len(pcm)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Raise the reason why bytes were not written, whether libsndfile noticed (WAV, FLAC) or not (MP3, Ogg)."""
        try:
            yield
        except (sf.LibsndfileError, AssertionError) as error:  # soundfile asserts that all frames were taken
            raise self._sink.failure or OSError(f"libsndfile: {error}") from error
        if self._sink.failure is not None:
            raise self._sink.failure


def check_rate(rate_hz: int, container: str = "") -> None:
    """Refuse a sample rate that cannot be played, resampled, or written to a container. Raises OutputError.

    WAV and FLAC take any rate that libsndfile can represent; it refuses others by itself.
    """
    least_hz, most_hz = (1, _MOST_HZ) if container in _ANY_RATE else _RATES_HZ
    if not least_hz <= rate_hz <= most_hz:
        raise OutputError(
            f"a sample rate of {rate_hz} Hz cannot be played or encoded, only {least_hz} to {most_hz} Hz; "
            "see which worker spoke: voxspool status"
        )


def resampler(rate_hz: int, file_rate_hz: int) -> Callable[..., Pcm]:
    """Return a function that resamples blocks of samples, called in order, with `last=True` once at the end."""
    if rate_hz == file_rate_hz:
        return lambda pcm, *, last: pcm  # noqa: ARG005 - nothing is held back
    check_rate(rate_hz)
    import soxr

    stream: Callable[..., Pcm] = soxr.ResampleStream(rate_hz, file_rate_hz, 1, dtype="int16").resample_chunk
    return stream


def _bit_rate(encoding: Encoding, rate_hz: int) -> Mapping[str, Any]:
    """Return libsndfile's options for a constant bit rate; no options if none is wanted."""
    if encoding.constant_kbit_s is None:
        return {}
    least, most = next((least, most) for from_hz, least, most in _MP3_KBIT_S if rate_hz >= from_hz)
    return {"bitrate_mode": "CONSTANT", "compression_level": (most - encoding.constant_kbit_s) / (most - least)}


def _limit_pages(file: sf.SoundFile, page_ms: float) -> None:
    """Limit the audio in an Ogg page. soundfile has no public function for it; a test holds the private ones."""
    value = sf._ffi.new("double*", page_ms)  # noqa: SLF001 - see above
    sf._snd.sf_command(file._file, _OGG_PAGE_LATENCY, value, sf._ffi.sizeof("double"))  # noqa: SLF001 - see above
