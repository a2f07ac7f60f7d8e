"""Samples become files: WAV, FLAC, MP3, Ogg Vorbis or Opus, by suffix. A file appears under its name when complete."""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from voxspool.audio.encoding import DEFAULT_ENCODING, FORMATS, Encoder
from voxspool.errors import OutputError
from voxspool.files.atomic_file import PartialFile
from voxspool.protocol.stream import SAMPLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from voxspool.audio.encoding import Encoding, Format, Pcm
    from voxspool.audio.tags import Tags

SUFFIXES: Final = tuple(f".{name}" for name in FORMATS)
"""The suffixes of the files that can be written, in lower or upper case."""

_OTHER_SUFFIXES: Final = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".alac", ".amr", ".ape", ".caf", ".m4a", ".m4b", ".mka", ".mp4", ".oga", ".spx",
     ".w64", ".webm", ".wma"}
)  # fmt: skip
"""Suffixes of audio files that cannot be written here; ffmpeg can convert a FLAC to them."""

_WAV_BYTES: Final = 2**32 - 2**16
"""The most bytes of samples in a WAV file, whose sizes have 32 bits, with room for tags. A longer one becomes RF64."""


def check_output(path: Path) -> None:
    """Refuse a path that no speech could be written to, before anything is spoken.

    Raises OutputError for an unknown suffix, a missing folder, a path that is a folder, or a folder that is not
    writable. Creates nothing.
    """
    check_place(path)
    _format(path)


def check_place(path: Path) -> None:
    """Refuse a path that no file could be written to, whatever its suffix. Raises OutputError. Creates nothing."""
    place = _place(path)
    with as_output_error(path):
        mode = _mode(place)  # raises for a name that is too long, and for a folder that is not readable
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


class Writer:
    """Writes samples to a partial file, block by block, and renames it to its final name at the end.

    Use it as a context manager: `write` in order, then `finish`, and the file is there, synced to the disk. If it is
    left before that, nothing remains, and an existing file of that name stays as it was. Memory does not grow.

    Raises OutputError if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        rate_hz: int,
        *,
        tags: Tags | None = None,
        encoding: Encoding = DEFAULT_ENCODING,
        samples: int = 0,
    ) -> None:
        """Create the partial file. The path is not checked: see check_output.

        `rate_hz` is that of the samples to come, `samples` their number, if it is known: then a WAV may pass 4 GB.
        """
        self._path = path
        self._part = Part(path)
        self._encoder: Encoder | None = None
        form = _format(path)
        container = "RF64" if form.container == "WAV" and samples * SAMPLE_BYTES > _WAV_BYTES else form.container
        try:
            with as_output_error(path):
                sink = _FileSink(self._part.path, tags.id3() if tags and container == "MP3" else b"")
                self._encoder = Encoder(sink, form, rate_hz, container=container, encoding=encoding, tags=tags)
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
        """Write the next samples, shape (n,)."""
        assert self._encoder is not None, "it was left"
        with as_output_error(self._path):
            self._encoder.write(pcm)

    def finish(self) -> None:
        """Write what is still held, and rename the file to its final name."""
        assert self._encoder is not None, "it was left"
        with as_output_error(self._path):
            self._encoder.finish()
        self._part.place()

    def discard(self) -> None:
        """Close what is open and remove the partial file, if there is one. Harmless after `finish`."""
        try:
            if self._encoder is not None:
                with as_output_error(self._path):
                    self._encoder.discard()
        finally:
            self._encoder = None
            self._part.remove()


class Part:
    """A partial file that is renamed to its final name when it is complete. Methods raise OutputError.

    It opens nothing: its user opens `path`, and must have closed it before `place`.
    """

    def __init__(self, path: Path) -> None:
        self._name = path
        self._part = PartialFile(_place(path))
        self.path = self._part.path
        """The path to write to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def sync(self) -> None:
        """Sync its bytes to the disk, if the library that wrote them did not."""
        with as_output_error(self._name):
            self._part.sync()

    def place(self) -> None:
        """Rename it to its final name, replacing a file of that name."""
        with as_output_error(self._name):
            self._part.place()

    def remove(self) -> None:
        """Remove it. Harmless after `place`."""
        self._part.remove()


class _FileSink:
    """The file that libsndfile writes. It keeps the first failure, since an error that is raised in C would be lost.

    If libsndfile opened the path itself, an error while it closes the file would be lost, and the system's reason.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        """Create the file, and write `head`. libsndfile's output begins after it, at position 0 as it seems there."""
        self.failure: OSError | None = None
        # Created as any program creates a file: the umask decides who may read it. `x`: no existing file is opened.
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
        """Sync all bytes to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close, and ignore bytes that cannot be written any more."""
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
    """Return the path of the file itself: a link stays a link, and its target is replaced."""
    return type(path)(os.path.realpath(path))  # Path.resolve raises RuntimeError on a ring of links before Python 3.13


def _mode(place: Path) -> int | None:
    try:
        return place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _format(path: Path) -> Format:
    try:
        return FORMATS[path.suffix.lower().removeprefix(".")]
    except KeyError:
        raise OutputError(_not_written(path), wrong_value=True) from None


def _not_written(path: Path) -> str:
    """Return the message for a name that no audio file can have: why, and what to do."""
    why = f"{path} has no suffix of an audio file that can be written; end its name in one of {', '.join(SUFFIXES)}"
    if path.suffix.lower() not in _OTHER_SUFFIXES:
        return why
    flac = path.with_suffix(".flac")
    return f"{why}, or write {flac} and convert it: {shlex.join(['ffmpeg', '-i', str(flac), str(path)])}"


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another place"
        ) from error
