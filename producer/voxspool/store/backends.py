"""The place of a segment store: a folder, or a place that fsspec can access (s3://bucket/prefix, memory://name …).

A backend stores small objects under names. It makes an object appear whole in its kind of place, and explains why it
cannot; it knows nothing about segments. Messages and reprs contain no part of a URL that may be secret.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from voxspool.errors import MissingExtraError, StoreError
from voxspool.files.atomic_file import PartialFile
from voxspool.files.private_files import make_private
from voxspool.files.regular_file import NotRegularFileError, read_regular
from voxspool.hints import missing
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

DEAD_AFTER_S: Final = 24 * 3600
"""The age at which an unfinished file is deleted, in seconds. A file is written within a second, and the clocks of
machines that share a folder are never a day apart."""

_PARTS: Final = ".parts"
"""The folder of unfinished files. It is in the file system of the store, so that they can be renamed into place."""
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(?=:/)")
"""A URL's scheme has at least two letters; a single letter is a drive of Windows."""

_SETTLE_S: Final = 0.5
"""Longest time until all see a write, in seconds, at a place that cannot create objects exclusively. The creation of a
store waits for it once."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Errors of file systems without hard links (FAT, some network shares)."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)

_ELSEWHERE: Final = "or name another place with VOXSPOOL_STORE"


class Backend(Protocol):
    """Objects under names like `ab/abcd.json`. Every method raises StoreError if the place cannot be used."""

    def get(self, name: str, most_bytes: int) -> bytes | None:
        """Return an object; None if there is none, and no bytes for anything but a file of at most `most_bytes`."""
        ...

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if there is none, or if it is not a file."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object, and replace an existing one. It is synced to the disk when this returns."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write an object; return False, without changing it, if there is one already."""
        ...

    @property
    def settle_s(self) -> float:
        """The time for which two writers that create the same object may both get True, in seconds."""
        ...

    def prepare(self) -> None:
        """Create the place itself, if it can be created."""
        ...

    def tidy(self) -> None:
        """Delete what dead writers left. Raises nothing."""
        ...


def open_place(place: str | Path) -> Backend:
    """Return the place that a path or a URL names. Nothing is created yet.

    Raises StoreError for a URL that cannot be used, MissingExtraError.
    """
    named = str(place)
    scheme = _SCHEME.match(named)
    if isinstance(place, Path) or not (scheme or "://" in named):
        return _FolderBackend(_absolute(Path(place)))
    if scheme is None or not named.startswith("://", scheme.end()):
        message = f"{shown(named)} is neither a folder nor one URL; write it like s3://bucket/prefix"
        raise StoreError(message, wrong_value=True)
    url = scheme[0].lower() + named[scheme.end() :]
    return _FolderBackend(_path_of(url)) if scheme[0].lower() == "file" else _ObjectBackend(url, scheme[0].lower())


def shown(url: str) -> str:
    """Return a URL for messages: without its password and the values of its query."""
    url, mark, query = url.partition("?")
    head, at, rest = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    user, colon, _ = login.partition(":")
    named = f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{rest}" if at and slashes else url
    return named + (mark and "?" + re.sub(r"=[^&]*", "=***", query))


class _FolderBackend:
    """A folder, on this machine or mounted. Objects appear whole and are synced to the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.settle_s = 0.0

    def __str__(self) -> str:
        return str(self._root)

    def prepare(self) -> None:
        with self._usable("made"):
            make_private(self._root)

    def get(self, name: str, most_bytes: int) -> bytes | None:
        with self._usable("read"):
            try:
                return read_regular(self._root / name, most_bytes)
            except FileNotFoundError:
                return None
            except NotRegularFileError:
                return b""

    def size_bytes(self, name: str) -> int | None:
        with self._usable("read"):
            try:
                about = (self._root / name).stat()
                return about.st_size if stat.S_ISREG(about.st_mode) else None
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        with self._usable("written to"), self._part(name, data) as part:
            self._make_parent(part.target)
            part.place()
            _sync(part.target.parent)

    def create(self, name: str, data: bytes) -> bool:
        with self._usable("written to"), self._part(name, data) as part:
            self._make_parent(part.target)
            try:
                os.link(part.path, part.target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links(part)
            _sync(part.target.parent)
        return True

    def tidy(self) -> None:
        with suppress(OSError), os.scandir(self._root / _PARTS) as parts:
            for part in parts:
                with suppress(OSError):  # it belongs to another user, or another process deletes it
                    if time.time() - part.stat(follow_symlinks=False).st_mtime > DEAD_AFTER_S:
                        Path(part.path).unlink()

    def _create_without_links(self, part: PartialFile) -> bool:
        """Rename a file if its target does not exist. Two writers at once find out by reading the target later."""
        self.settle_s = _SETTLE_S
        if part.target.exists():
            return False
        part.place()
        _sync(part.target.parent)
        return True

    def _make_parent(self, target: Path) -> None:
        """Create an object's folder, but never the store's own folder: it is missing if its disk is not mounted."""
        if not target.parent.is_dir():
            target.parent.mkdir(self._mode(), exist_ok=True)
            _sync(self._root)

    def _mode(self) -> int:
        """Return the permissions of the store's folder: what lies in it gets no more, whatever the umask is."""
        return stat.S_IMODE(self._root.stat().st_mode) & 0o777

    @contextmanager
    def _part(self, name: str, data: bytes) -> Iterator[PartialFile]:
        """Yield a partial file of an object: all of the data, synced to the disk, not yet under its name."""
        parts = self._root / _PARTS
        parts.mkdir(self._mode(), exist_ok=True)
        with PartialFile(self._root / name, parts) as part:
            part.write(data, self._mode() & 0o666)
            part.sync()
            yield part

    @contextmanager
    def _usable(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unusable(str(self), done, error.strerror or str(error), error.errno) from error


class _ObjectBackend:
    """A place that fsspec can access. Objects appear whole, or byte by byte if the place is a disk."""

    settle_s = _SETTLE_S

    def __init__(self, url: str, scheme: str) -> None:
        self._shown = shown(url)
        self._secrets = _secrets(url)
        self._files, self._root = self._open(url, scheme)

    def __str__(self) -> str:
        return self._shown

    def prepare(self) -> None:
        """Do nothing: users create buckets, and the first object creates its folder."""

    def get(self, name: str, most_bytes: int) -> bytes | None:
        with self._usable("read"):
            try:
                about = self._files.info(self._path(name))
                if about["type"] != "file" or int(about["size"]) > most_bytes:
                    return b""
                found: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return found

    def size_bytes(self, name: str) -> int | None:
        with self._usable("read"):
            try:
                about = self._files.info(self._path(name))
                return int(about["size"]) if about["type"] == "file" else None
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        with self._usable("written to"):
            self._write(name, data)

    def create(self, name: str, data: bytes) -> bool:
        with self._usable("written to"):
            try:
                self._write(name, data, mode="create")
            except FileExistsError:
                return False
            except Exception:  # noqa: BLE001 - places that cannot create exclusively raise many errors
                if self._files.exists(self._path(name)):
                    return False
                self._write(name, data)
        return True

    def tidy(self) -> None:
        """Do nothing: this backend writes no partial files."""

    def _write(self, name: str, data: bytes, **how: Any) -> None:  # noqa: ANN401 - fsspec's
        path = self._path(name)
        try:
            self._files.pipe_file(path, data, **how)
        except FileNotFoundError:  # a disk needs the folder first; create_parents=False creates no bucket
            with suppress(FileExistsError):
                self._files.mkdir(path.rpartition("/")[0], create_parents=False)
            self._files.pipe_file(path, data, **how)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _open(self, url: str, scheme: str) -> tuple[Any, str]:
        fsspec = _fsspec(self._shown)
        try:
            fsspec.get_filesystem_class(scheme)
        except ValueError:
            hint = did_you_mean(scheme, fsspec.available_protocols())
            message = f"{self._shown} cannot be a segment store: unknown store scheme {scheme}://{hint}"
            raise StoreError(message, wrong_value=True) from None
        except ImportError as error:
            raise MissingExtraError(_lacks(self._shown, error)) from error
        with self._usable("reached"):
            files, root = fsspec.core.url_to_fs(url)
        return files, str(root).rstrip("/")

    @contextmanager
    def _usable(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each of fsspec's libraries has its own errors
            reason = " ".join(str(error).split()) or type(error).__name__
            for secret in self._secrets:
                reason = reason.replace(secret, "***")
            raised = _unusable(self._shown, done, reason, getattr(error, "errno", None))
            raise raised from (None if self._secrets else error)  # tracebacks print causes, and their secrets


def _unusable(place: str, done: str, reason: str, number: int | None) -> StoreError:
    """Return the error for a store that cannot be used. It names the remedy."""
    if number in _FULL:
        what = f"make room there, {_ELSEWHERE}"
    elif number in _CLOSED:
        what = f"give this user the right to, {_ELSEWHERE}"
    else:
        what = f"see that it is there and can be reached, {_ELSEWHERE}"
    return StoreError(f"the segment store {place} cannot be {done}: {reason}; {what}")


def _sync(folder: Path) -> None:
    """Sync the names in a folder to the disk. File systems that cannot do this raise EINVAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _absolute(folder: Path) -> Path:
    """Return the absolute path of a folder. Raises StoreError for the home of an unknown user."""
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        message = f"the segment store {folder} is in nobody's home: {error}; write its whole path"
        raise StoreError(message, wrong_value=True) from error


def _path_of(url: str) -> Path:
    """Return the path of a file:// URL. Raises StoreError if it names another machine."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        message = f"{shown(url)} is on another machine; write file:///FOLDER, with three slashes"
        raise StoreError(message, wrong_value=True)
    return Path(unquote(parts.path))


def _secrets(url: str) -> list[str]:
    """Return the parts of a URL that may be secret, quoted and unquoted; the longest first."""
    head = url.partition("?")[0].rpartition("@")[0].partition("://")[2]
    values = [head.partition(":")[2], *re.findall(r"=([^&]+)", url.partition("?")[2])]
    return sorted({form for value in values for form in (value, unquote(value)) if form}, key=len, reverse=True)


def _fsspec(place: str) -> Any:  # noqa: ANN401 - the module: untyped, optional
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(missing(f"a segment store at {place}", "fsspec", "voxspool", "store")) from error
    return fsspec


def _lacks(place: str, error: ImportError) -> str:
    """Return the message for a missing package that a kind of place needs in addition to fsspec."""
    cause = error.__cause__
    package = (getattr(cause, "name", None) or str(error)).partition(".")[0]
    return missing(f"a segment store at {place}", package, package)
