"""Entries or samples -> WAV, FLAC, MP3, Ogg Vorbis and Opus files; entries -> the loudspeaker, a live listener's bytes.

Knows the order of a stream: positions without a hole, segments closed by marks, attempts that say a segment again.
A file appears under its name when it is whole and on the disk, or not at all. Knows nothing of Redis, waits for nobody
and gives no verdict: what `failed` and `cancelled` mean to the caller is the caller's.

Overlap is cut by position alone: that a second attempt says the same samples again is the engine's promise (seeds).
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
import soundfile as sf

from voxspool.errors import MissingExtraError, OutputError, ProtocolError, StreamGapError
from voxspool.hints import missing
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Begin, Cancelled, End, Entry, Failed, Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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

_PLAY_BLOCK_S: Final = 0.1
"""Most seconds given to the loudspeaker at once: an interrupt is only seen between blocks."""

_PORTAUDIO: Final = (
    "install it: sudo apt install libportaudio2 (Debian, Ubuntu), sudo dnf install portaudio (Fedora), "
    "sudo pacman -S portaudio (Arch)"
)
"""For Linux: elsewhere sounddevice brings PortAudio with it."""

_NO_BEGIN: Final = "audio came before any begin: the start of the stream is missing; enqueue the job again"

_PART_NAME_CHARS: Final = 40
"""How much of its name a part carries. At 4 bytes a character, with the rest, it stays under the usual 255 bytes."""


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
        self._held = bytearray()  # s16le samples [written, samples): their segment has no mark yet
        self._written = 0
        self._sample_rate: int | None = None
        self._writer: Writer | None = None
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.discard()

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
        if self._writer is None:
            self._writer = Writer(self._path, begin.sample_rate)

    def _hold(self, audio: Audio) -> None:
        self._begun()
        if audio.pos != self.samples:
            raise _gap(audio.pos, self.samples)
        self._held += audio.pcm

    def _write_until(self, end_pos: int) -> None:
        """Write what is held of the samples before `end_pos`: nobody will say them again."""
        writer = self._begun()
        if end_pos > self.samples:
            raise _gap(end_pos, self.samples)
        size_bytes = max(0, end_pos - self._written) * SAMPLE_BYTES
        if size_bytes:
            writer.write(np.frombuffer(bytes(self._held[:size_bytes]), "<i2").astype(np.int16, copy=False))
            del self._held[:size_bytes]
            self._written = end_pos

    def _finish(self, end: End) -> None:
        writer = self._begun()
        if end.pos != self.samples:
            raise _gap(end.pos, self.samples)
        self._write_until(end.pos)
        writer.finish()
        self._done = True

    def _begun(self) -> Writer:
        if self._writer is None:
            raise StreamGapError(_NO_BEGIN)
        return self._writer


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
        self._place = _place(path)
        name = f".{path.name[:_PART_NAME_CHARS]}.{os.getpid()}-{secrets.token_hex(4)}.part"
        self.path = self._place.with_name(name)
        """Where to write it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def sync(self) -> None:
        """Bring its bytes to the disk, where the library that wrote them did not."""
        with as_output_error(self._name), self.path.open("rb+") as file:
            os.fsync(file.fileno())

    def place(self) -> None:
        """Give it its name; what had the name is gone."""
        with as_output_error(self._name):
            self.path.replace(self._place)

    def remove(self) -> None:
        """Leave nothing behind. Harmless once it is in its place."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


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

    Raises what check_loudspeaker raises, OutputError where the loudspeaker fails later, StreamGapError.
    """
    sounddevice = _sounddevice()
    try:
        _play(entries, sounddevice)
    except sounddevice.PortAudioError as error:
        raise _cannot_play(error) from error


def check_loudspeaker() -> None:
    """Return if this machine can play audio, so that nothing is spoken in vain. It plays nothing.

    Raises MissingExtraError without sounddevice, OutputError without PortAudio or an output device.
    """
    sounddevice = _sounddevice()
    try:
        sounddevice.query_devices(kind="output")
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: there are devices, and none is an output
        raise _cannot_play(error) from error


def _cannot_play(error: Exception) -> OutputError:
    """Describe why the loudspeaker fails."""
    return OutputError(f"this machine has no loudspeaker that works ({error}); write a file instead")


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
        raise MissingExtraError(
            f"{missing('playing', 'the Python package sounddevice', 'voxspool', 'play')}; or write a file instead"
        ) from error
    except OSError as error:  # sounddevice is there, the C library under it is not
        raise OutputError(f"playing needs PortAudio; {_PORTAUDIO}; or write a file instead") from error
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
        raise OutputError(_not_written(path), wrong_value=True) from None


def _not_written(path: Path) -> str:
    """Describe why no audio file can have this name, and what to do."""
    why = f"{path} has no suffix of an audio file that can be written; end its name in one of {', '.join(SUFFIXES)}"
    if path.suffix.lower() not in _OTHER_SUFFIXES:
        return why
    flac = path.with_suffix(".flac")
    return f"{why}, or write {flac} and convert it: {shlex.join(['ffmpeg', '-i', str(flac), str(path)])}"


def _file_rate_hz(form: _Format, rate_hz: int) -> int:
    """Give the rate itself where the codec takes it, else the next higher one, else the codec's highest."""
    if not form.rates_hz:
        return rate_hz
    return next((rate for rate in form.rates_hz if rate >= rate_hz), form.rates_hz[-1])


def _bit_rate(encoding: Encoding) -> Mapping[str, Any]:
    """Say to libsndfile what bit rate is wanted; nothing where none is."""
    if encoding.constant_kbit_s is None:
        return {}
    least, most = _MP3_KBIT_S
    return {"bitrate_mode": "CONSTANT", "compression_level": (most - encoding.constant_kbit_s) / (most - least)}


def resampler(rate_hz: int, file_rate_hz: int) -> Callable[..., Pcm]:
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
