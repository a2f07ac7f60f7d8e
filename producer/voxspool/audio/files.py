"""Samples -> WAV, FLAC, MP3, Ogg Vorbis and Opus files. Only whole files appear under their name."""

from __future__ import annotations

import os
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import soundfile as sf

from voxspool.atomic_file import PartialFile
from voxspool.errors import OutputError
from voxspool.protocol.stream import SAMPLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from voxspool.audio.tags import Tags

    Pcm = NDArray[np.int16]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Format:
    """What libsndfile must be told, since a part's suffix is not the real one, and what it can take."""

    container: str
    subtype: str
    rates_hz: tuple[int, ...] = ()
    """The sample rates that the codec takes, ascending; empty: any."""
    may_be_empty: bool = False
    """Whether a file without a sample can be opened again."""


# Rates as libsndfile 1.2.2 states them when it refuses another. Emptiness was tried with the same version: FLAC leaves
# 0 bytes, and a FLAC header of our own with 0 samples reads as "length unknown" and fails; MP3 and Opus lack a frame.
_FORMATS: Final = {
    ".wav": _Format("WAV", "PCM_16", may_be_empty=True),
    ".flac": _Format("FLAC", "PCM_16"),
    ".mp3": _Format("MP3", "MPEG_LAYER_III", (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
    ".ogg": _Format("OGG", "VORBIS", may_be_empty=True),
    ".opus": _Format("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
}

SUFFIXES: Final = tuple(_FORMATS)
"""The suffixes of the files that can be written; upper case will do as well."""

_OTHER_SUFFIXES: Final = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".alac", ".amr", ".ape", ".caf", ".m4a", ".m4b", ".mka", ".mp4", ".oga", ".spx",
     ".w64", ".webm", ".wma"}
)  # fmt: skip
"""Suffixes of audio files that cannot be written here, and that ffmpeg can make of one that can."""

LEAST_SILENCE_S: Final = 0.02
"""What a speech without a sample becomes where the container cannot be empty (FLAC, MP3, Opus): one frame of Opus."""

_BLOCK_SAMPLES: Final = 16_384
"""Most samples given to libsndfile at once: 1.2.2 put two minutes of Vorbis on the stack and the process died."""

_WAV_BYTES: Final = 2**32 - 2**16
"""Most bytes of samples in a WAV file, whose sizes are 32 bits, with room for tags. What is longer becomes RF64."""

_MP3_KBIT_S: Final = (32, 320)
"""Between these libsndfile 1.2.2 divides its compression level, 1 to 0, at 32 kHz and above (MPEG 1)."""


def check_output(path: Path) -> None:
    """Refuse a path that no speech could be written to, before anything is spoken.

    Raises OutputError: unknown suffix, no such folder, a folder itself, no right to write. It creates nothing.
    """
    check_place(path)
    _format(path)


def check_place(path: Path) -> None:
    """Refuse a path that no file could be written to, whatever its suffix. Raises OutputError; it creates nothing."""
    place = _place(path)
    with as_output_error(path):
        mode = _mode(place)  # a name too long and a closed folder show here
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder; name a file in it", wrong_value=True)
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path} exists and is not a file; choose another name", wrong_value=True)
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {place.parent}; create it first", wrong_value=True)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {path}: no right to create files in {place.parent}; choose another folder",
            wrong_value=True,
        )


@dataclass(frozen=True, slots=True)
class Encoding:
    """What is asked of a file beyond that it plays."""

    rate_hz: int | None = None
    """Its sample rate; None: the speech's, or the next that the codec takes."""
    constant_kbit_s: int | None = None
    """Of an MP3 at 32 kHz and above: every frame has this bit rate. None: the codec's choice."""


class Writer:
    """Writes samples to a file, block by block, beside its place; the finished file is renamed into place.

    Use it as a context manager: `write` in order, then `finish`, and the file is there, synced to the disk. Left before
    that, in any way, it leaves nothing behind, and a file that had the name stays as it was. Memory does not grow.

    Raises OutputError where the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        rate_hz: int,
        *,
        tags: Tags | None = None,
        encoding: Encoding = Encoding(),
        samples: int = 0,
    ) -> None:
        """`rate_hz` is of the samples that come, `samples` how many: where they are known a WAV can pass 4 GB.

        It trusts the path: see check_output.
        """
        self._path = path
        self._part = Part(path)
        self._thread = ThreadPoolExecutor(1, "voxspool-encoder")
        self._encoder: _Encoder | None = None
        form = _format(path)
        container = "RF64" if form.container == "WAV" and samples * SAMPLE_BYTES > _WAV_BYTES else form.container
        try:
            self._encoder = self._run(_Encoder, self._part.path, form, container, rate_hz, encoding, tags)
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, pcm: Pcm) -> None:
        """Take the next samples, shape (n,)."""
        assert self._encoder is not None, "it was left"
        self._run(self._encoder.write, pcm)

    def finish(self) -> None:
        """Write what is still held, and put the file in its place."""
        assert self._encoder is not None, "it was left"
        self._run(self._encoder.finish)
        self._part.place()

    def discard(self) -> None:
        """Close what is open and remove the part, if there is one. Harmless after the end."""
        try:
            if self._encoder is not None:
                self._run(self._encoder.discard)
            self._thread.shutdown()
        finally:
            self._encoder = None
            self._part.remove()

    def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the encoder's thread do it, and wait.

        libsndfile calls back into Python to write bytes. Ctrl-C raises in the main thread alone; raised inside such a
        callback it would be printed and lost, and the bytes with it. On a thread of its own no callback is interrupted.
        """
        with as_output_error(self._path):
            return self._thread.submit(work, *args, **kwargs).result()


class Part:
    """A file on its way: written beside its place, renamed into it when it is whole.

    Raises OutputError. It opens nothing: who writes it opens `path`, and must have closed it before `place`.
    """

    def __init__(self, path: Path) -> None:
        self._name = path
        self._part = PartialFile(_place(path))
        self.path = self._part.path
        """Where to write it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def sync(self) -> None:
        """Bring its bytes to the disk, where the library that wrote them did not."""
        with as_output_error(self._name):
            self._part.sync()

    def place(self) -> None:
        """Rename the part to its final name, replacing a file of that name."""
        with as_output_error(self._name):
            self._part.place()

    def remove(self) -> None:
        """Leave nothing behind. Harmless once it is in its place."""
        self._part.remove()


class _Encoder:
    """Samples -> encoded bytes in a file, block by block. Raises OSError. One thread uses it, see Writer._run."""

    def __init__(
        self, part: Path, form: _Format, container: str, rate_hz: int, encoding: Encoding, tags: Tags | None
    ) -> None:
        file_rate_hz = encoding.rate_hz or _file_rate_hz(form, rate_hz)
        self._form = form
        self._resample = resampler(rate_hz, file_rate_hz)
        self._silence: Pcm = np.zeros(int(LEAST_SILENCE_S * file_rate_hz), np.int16)
        self._frames = 0
        # libsndfile writes an MP3's tags as Latin-1, whatever they are.
        self._sink = _Sink(part, tags.id3() if tags and container == "MP3" else b"")
        try:
            with self._checked():
                self._file = sf.SoundFile(
                    self._sink, "w", file_rate_hz, 1, format=container, subtype=form.subtype, **_bit_rate(encoding)
                )
                if tags and container != "MP3":
                    self._tag(tags)
        except BaseException:
            self._sink.discard()
            raise

    def write(self, pcm: Pcm) -> None:
        """Take the next samples."""
        self._put(self._resample(pcm, last=False))

    def finish(self) -> None:
        """Write what the resampler and the codec still hold, and sync the file to the disk."""
        self._put(self._resample(np.zeros(0, np.int16), last=True))
        if not (self._frames or self._form.may_be_empty):
            self._put(self._silence)
        with self._checked():
            self._file.close()
        self._sink.finish()

    def discard(self) -> None:
        """Close without regard to what was written."""
        with suppress(sf.LibsndfileError, AssertionError):
            self._file.close()
        self._sink.discard()

    def _tag(self, tags: Tags) -> None:
        for name, value in tags.named().items():
            setattr(self._file, name, value)

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


class _Sink:
    """The file under libsndfile. It keeps the first failure, for a raised one would be lost in the C code.

    Given a path instead, libsndfile loses what goes wrong while it closes the file, and the disk's own reason.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        """What libsndfile writes comes after `head`, and it knows nothing of that."""
        self.failure: OSError | None = None
        # Created as any program creates a file: the umask says who may read it. `x`: never somebody else's.
        self._file = path.open("x+b")
        self._head_bytes = len(head)
        self.write(head)

    def write(self, data: bytes) -> int:
        return self._try(self._file.write, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        shift = self._head_bytes if whence == os.SEEK_SET else 0
        return self._try(self._file.seek, offset + shift, whence) - self._head_bytes

    def tell(self) -> int:
        return self._try(self._file.tell) - self._head_bytes

    def finish(self) -> None:
        """Bring all bytes to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close; bytes that cannot be written any more are not missed."""
        with suppress(OSError):
            self._file.close()

    def _try(self, work: Callable[..., int], *args: object) -> int:
        if self.failure is None:
            try:
                return work(*args)
            except OSError as error:
                self.failure = error
        return 0


def _place(path: Path) -> Path:
    """Return where the bytes will lie: a link stays a link, and what it points to is replaced."""
    return type(path)(os.path.realpath(path))  # Path.resolve raises RuntimeError on a ring of links before Python 3.13


def _mode(place: Path) -> int | None:
    try:
        return place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _format(path: Path) -> _Format:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise OutputError(_not_written(path), wrong_value=True) from None


def _not_written(path: Path) -> str:
    """Describe why no audio file can have this name, and what to do."""
    why = f"{path} has no suffix of an audio file that can be written; end its name in one of {', '.join(SUFFIXES)}"
    if path.suffix.lower() not in _OTHER_SUFFIXES:
        return why
    flac = path.with_suffix(".flac")
    return f"{why}, or write {flac} and convert it: {shlex.join(['ffmpeg', '-i', str(flac), str(path)])}"


def _file_rate_hz(form: _Format, rate_hz: int) -> int:
    """Return the rate itself where the codec takes it, else the next higher one, else the codec's highest."""
    if not form.rates_hz:
        return rate_hz
    return next((rate for rate in form.rates_hz if rate >= rate_hz), form.rates_hz[-1])


def _bit_rate(encoding: Encoding) -> Mapping[str, Any]:
    """Return libsndfile's options for the wanted bit rate; no options if no rate is wanted."""
    if encoding.constant_kbit_s is None:
        return {}
    least, most = _MP3_KBIT_S
    return {"bitrate_mode": "CONSTANT", "compression_level": (most - encoding.constant_kbit_s) / (most - least)}


def resampler(rate_hz: int, file_rate_hz: int) -> Callable[..., Pcm]:
    """Return what turns samples at one rate into samples at the other, called in order, `last=True` once at the end."""
    if rate_hz == file_rate_hz:
        return lambda pcm, *, last: pcm  # noqa: ARG005 - nothing is held back
    import soxr

    stream: Callable[..., Pcm] = soxr.ResampleStream(rate_hz, file_rate_hz, 1, dtype="int16").resample_chunk
    return stream


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Raise OutputError where the system cannot write."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another place"
        ) from error
