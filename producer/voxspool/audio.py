"""Entries -> WAV, FLAC, MP3, Ogg Vorbis and Opus files, the loudspeaker, and the bytes a live listener still lacks.

Knows the order of a stream: positions without a hole, segments closed by marks, attempts that say a segment again.
A file appears under its name when it is whole and on the disk, or not at all. Knows nothing of Redis, waits for nobody
and gives no verdict: what `failed` and `cancelled` mean to the caller is the caller's.

Overlap is cut by position alone: that a second attempt says the same samples again is the engine's promise (seeds).
"""

from __future__ import annotations

import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import soundfile as sf

from voxspool.errors import MissingExtraError, OutputError, ProtocolError, StreamGapError
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Begin, Cancelled, End, Entry, Failed, Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

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

LEAST_SILENCE_S: Final = 0.02
"""What a speech without a sample becomes where the container cannot be empty (FLAC, MP3, Opus): one frame of Opus."""

_BLOCK_SAMPLES: Final = 16_384
"""Most samples given to libsndfile at once: 1.2.2 put two minutes of Vorbis on the stack and the process died."""

_PLAY_BLOCK_S: Final = 0.1
"""Most seconds given to the loudspeaker at once: an interrupt is only seen between blocks."""

_NO_BEGIN: Final = "audio came before any begin: the start of the stream is missing; enqueue the job again"

_PART_NAME_CHARS: Final = 40
"""How much of its name a part carries. At 4 bytes a character, with the rest, it stays under the usual 255 bytes."""


def check_output(path: Path) -> None:
    """Refuse a path that no speech could be written to, before anything is spoken.

    Raises OutputError: unknown suffix, no such folder, a folder itself, no right to write. It creates nothing.
    """
    _format(path)
    place = _place(path)
    with as_output_error(path):
        mode = _mode(place)  # a name too long and a closed folder show here
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder; name a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path} exists and is not a file; choose another name")
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {place.parent}; create it first")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no right to create files in {place.parent}; choose another folder")


class Recorder:
    """Writes a speech to a file, chunk by chunk, beside its place; the finished file is renamed into place.

    Use it as a context manager and `add` every entry of the stream in order. With the `end` entry the file is there,
    synced to the disk and with an ordinary file's permissions. Left before that, in any way, it leaves nothing behind,
    and a file that had the name stays as it was. What a later attempt says again replaces what came before, so the
    samples since the last mark stay in memory: seconds of speech.

    Raises OutputError where the file cannot be written, StreamGapError where samples are missing, ProtocolError where
    the entries contradict each other.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self._path = path
        self._place = _place(path)
        name = f".{path.name[:_PART_NAME_CHARS]}.{os.getpid()}-{secrets.token_hex(4)}.part"
        self._part = self._place.with_name(name)
        self._held = bytearray()  # s16le samples [written, samples): their segment has no mark yet
        self._written = 0
        self._sample_rate: int | None = None
        self._encoder: _Encoder | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    @property
    def samples(self) -> int:
        """How many samples the speech has so far, those still held in memory included."""
        return self._written + len(self._held) // SAMPLE_BYTES

    @property
    def sample_rate(self) -> int | None:
        """In Hz, as spoken (an Opus file may have another); None before the first `begin`."""
        return self._sample_rate

    def add(self, entry: Entry) -> None:
        """Take the stream's next entry. `failed` and `cancelled` change nothing here."""
        if self._done:
            raise ProtocolError(f"{self._path} is finished, and yet a {entry.type} follows the end")
        match entry:
            case Begin():
                self._begin(entry)
            case Audio():
                self._hold(entry)
            case Mark():
                self._write_until(entry.end_pos)
            case End():
                self._finish(entry)
            case _:
                pass

    def _begin(self, begin: Begin) -> None:
        """Start, or drop what this attempt is going to say again."""
        if begin.pos > self.samples:
            raise _gap(begin.pos, self.samples)
        if begin.pos < self._written:
            raise ProtocolError(
                f"an attempt begins at sample {begin.pos}, within what a mark closed at {self._written}"
            )
        if self._sample_rate not in (None, begin.sample_rate):
            raise ProtocolError(
                f"an attempt speaks at {begin.sample_rate} Hz, the one before at {self._sample_rate} Hz"
            )
        self._sample_rate = begin.sample_rate
        del self._held[(begin.pos - self._written) * SAMPLE_BYTES :]
        if self._encoder is None:
            self._thread = ThreadPoolExecutor(1, "voxspool-encoder")
            self._encoder = self._run(_Encoder, self._part, _format(self._path), begin.sample_rate)

    def _hold(self, audio: Audio) -> None:
        self._begun()
        if audio.pos != self.samples:
            raise _gap(audio.pos, self.samples)
        self._held += audio.pcm

    def _write_until(self, end_pos: int) -> None:
        """Write what is held of the samples before `end_pos`: nobody will say them again."""
        encoder = self._begun()
        if end_pos > self.samples:
            raise _gap(end_pos, self.samples)
        size_bytes = max(0, end_pos - self._written) * SAMPLE_BYTES
        if size_bytes:
            self._run(encoder.write, bytes(self._held[:size_bytes]))
            del self._held[:size_bytes]
            self._written = end_pos

    def _finish(self, end: End) -> None:
        encoder = self._begun()
        if end.pos != self.samples:
            raise _gap(end.pos, self.samples)
        self._write_until(end.pos)
        self._run(encoder.finish)
        with as_output_error(self._path):
            self._part.replace(self._place)
        self._done = True

    def _begun(self) -> _Encoder:
        if self._encoder is None:
            raise StreamGapError(_NO_BEGIN)
        return self._encoder

    def _discard(self) -> None:
        """Close what is open and remove the part, if there is one. Harmless after the end."""
        try:
            if self._encoder is not None:
                self._run(self._encoder.discard)
            if self._thread is not None:
                self._thread.shutdown()
        finally:
            self._encoder = self._thread = None
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have the encoder's thread do it, and wait.

        libsndfile calls back into Python to write bytes. Ctrl-C raises in the main thread alone; raised inside such a
        callback it would be printed and lost, and the bytes with it. On a thread of its own no callback is interrupted.
        """
        assert self._thread is not None, "nothing has begun"
        with as_output_error(self._path):
            return self._thread.submit(work, *args, **kwargs).result()


class _Encoder:
    """Samples -> encoded bytes in a file, block by block. Raises OSError. One thread uses it, see Recorder._run."""

    def __init__(self, part: Path, form: _Format, rate_hz: int) -> None:
        file_rate_hz = _file_rate_hz(form, rate_hz)
        self._form = form
        self._resample = _resampler(rate_hz, file_rate_hz)
        self._silence: Pcm = np.zeros(int(LEAST_SILENCE_S * file_rate_hz), np.int16)
        self._frames = 0
        self._sink = _Sink(part)
        try:
            with self._checked():
                self._file = sf.SoundFile(self._sink, "w", file_rate_hz, 1, format=form.container, subtype=form.subtype)
        except BaseException:
            self._sink.discard()
            raise

    def write(self, pcm: bytes) -> None:
        """Take whole samples, s16le."""
        self._put(self._resample(np.frombuffer(pcm, "<i2").astype(np.int16, copy=False), last=False))

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

    def __init__(self, path: Path) -> None:
        self.failure: OSError | None = None
        # Created as any program creates a file: the umask says who may read it. `x`: never somebody else's.
        self._file = path.open("x+b")

    def write(self, data: bytes) -> int:
        return self._try(self._file.write, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._try(self._file.tell)

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


class Playhead:
    """Gives each sample once: after a resume, audio that was already given is skipped.

    A listener who comes back has been given the samples before `given_samples` already.
    """

    def __init__(self, given_samples: int = 0) -> None:
        self._given = given_samples

    @property
    def given_samples(self) -> int:
        """How many samples of the speech have been given so far."""
        return self._given

    def feed(self, entry: Entry) -> bytes:
        """Take the stream's next entry; give the samples (s16le) that the listener has not had, often none.

        Raises StreamGapError where samples are missing before the entry.
        """
        if entry.pos > self._given and not isinstance(entry, (Failed, Cancelled)):
            raise _gap(entry.pos, self._given)
        if not isinstance(entry, Audio):
            return b""
        fresh = entry.pcm[(self._given - entry.pos) * SAMPLE_BYTES :]
        self._given += len(fresh) // SAMPLE_BYTES
        return fresh


def play(entries: Iterable[Entry]) -> None:
    """Play a speech on the default loudspeaker, from its first entry to its last; return when it has been heard.

    Raises MissingExtraError without sounddevice, OutputError without PortAudio or a loudspeaker, StreamGapError.
    """
    sounddevice = _sounddevice()
    try:
        _play(entries, sounddevice)
    except sounddevice.PortAudioError as error:
        raise OutputError(f"the loudspeaker cannot be used: {error}; write a file instead") from error


def _play(entries: Iterable[Entry], sounddevice: Any) -> None:  # noqa: ANN401 - the module: untyped, optional
    entries = iter(entries)
    begin = _first_begin(entries)
    if begin is None:
        return
    playhead = Playhead()
    playhead.feed(begin)
    block_bytes = int(_PLAY_BLOCK_S * begin.sample_rate) * SAMPLE_BYTES
    speaker = sounddevice.RawOutputStream(samplerate=begin.sample_rate, channels=1, dtype="int16")
    try:
        speaker.start()
        for entry in entries:
            pcm = playhead.feed(entry)
            for start in range(0, len(pcm), block_bytes):
                speaker.write(pcm[start : start + block_bytes])
        speaker.stop()  # waits until what was written has been heard
    finally:
        speaker.close()


def _first_begin(entries: Iterator[Entry]) -> Begin | None:
    """Give the begin that opens the stream, or None where it was closed (cancelled, failed) before it had one."""
    for entry in entries:
        if isinstance(entry, Begin):
            return entry
        if isinstance(entry, Audio):
            raise StreamGapError(_NO_BEGIN)
    return None


def _sounddevice() -> Any:  # noqa: ANN401 - the module: untyped, optional
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError("playing needs sounddevice; install it with: pip install 'voxspool[play]'") from error
    except OSError as error:  # sounddevice is there, the C library under it is not
        raise OutputError(
            f"the loudspeaker cannot be used: {error}; install PortAudio (Debian: apt install libportaudio2)"
        ) from error
    return sounddevice


def _place(path: Path) -> Path:
    """Give where the bytes will lie: a link stays a link, and what it points to is replaced."""
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
        known = ", ".join(SUFFIXES)
        raise OutputError(f"{path} has no suffix of an audio file; end its name in one of {known}") from None


def _file_rate_hz(form: _Format, rate_hz: int) -> int:
    """Give the rate itself where the codec takes it, else the next higher one, else the codec's highest."""
    if not form.rates_hz:
        return rate_hz
    return next((rate for rate in form.rates_hz if rate >= rate_hz), form.rates_hz[-1])


def _resampler(rate_hz: int, file_rate_hz: int) -> Callable[..., Pcm]:
    """Give what turns samples at one rate into samples at the other, called in order, `last=True` once at the end."""
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


def _gap(pos: int, have: int) -> StreamGapError:
    return StreamGapError(
        f"the stream goes on at sample {pos} and {have} have come: audio is missing or doubled; enqueue the job again"
    )
