"""Where a segment store is: a folder, or whatever fsspec reaches (s3://bucket/prefix, memory://name …).

A backend keeps small objects under names. It knows how an object appears whole in its kind of place, and what is
wrong if it cannot; it does not know segments. Parts of a URL that may be secret are in no message and in no repr.
"""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from voxspool.atomic_file import PartialFile
from voxspool.errors import MissingExtraError, StoreError
from voxspool.hints import missing
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

DEAD_AFTER_S: Final = 24 * 3600
"""The age at which a file that was never finished is nobody's, in seconds: one is written within a second, and clocks
of machines that share a folder are never a day apart."""

_PARTS: Final = ".parts"
"""The folder of files that are being written, in the same file system as all others."""
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(?=:/)")
"""At least two letters: one is a drive of Windows."""

_SETTLE_S: Final = 0.5
"""How long a write may take to be seen by all where nothing can be created exclusively, in seconds; waited for once in
a store's life."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What a file system says that has no hard links (FAT, some network shares)."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)

_ELSEWHERE: Final = "or name another place with VOXSPOOL_STORE"


class Backend(Protocol):
    """Objects under names like `ab/abcd.json`. Every method raises StoreError where the place cannot be used."""

    def get(self, name: str) -> bytes | None:
        """Return an object; None where there is none."""
        ...

    def size_bytes(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if there is none."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole, in place of one that is there. It is on the disk when this returns."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write an object; False where there is one already, which stays."""
        ...

    @property
    def settle_s(self) -> float:
        """For how long two that create one object may both believe that it is theirs, in seconds."""
        ...

    def prepare(self) -> None:
        """Make the place itself, where it can be made."""
        ...

    def tidy(self) -> None:
        """Forget what dead writers left behind. Raises nothing."""
        ...


def open_place(place: str | Path) -> Backend:
    """Return the place that a path or a URL names; nothing is made yet.

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
    """Return a URL as it may be shown: no password, no value of a query."""
    url, mark, query = url.partition("?")
    head, at, rest = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    user, colon, _ = login.partition(":")
    named = f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{rest}" if at and slashes else url
    return named + (mark and "?" + re.sub(r"=[^&]*", "=***", query))


class _FolderBackend:
    """A folder, on this machine or mounted. What is written appears whole and is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.settle_s = 0.0

    def __str__(self) -> str:
        return str(self._root)

    def prepare(self) -> None:
        with self._usable("made"):
            self._root.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> bytes | None:
        with self._usable("read"):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def size_bytes(self, name: str) -> int | None:
        with self._usable("read"):
            try:
                return (self._root / name).stat().st_size
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
                with suppress(OSError):  # another user's, or another's to remove just now
                    if time.time() - part.stat(follow_symlinks=False).st_mtime > DEAD_AFTER_S:
                        Path(part.path).unlink()

    def _create_without_links(self, part: PartialFile) -> bool:
        """Rename where nothing is; two that do so at once are told apart by reading what is there later."""
        self.settle_s = _SETTLE_S
        if part.target.exists():
            return False
        part.place()
        _sync(part.target.parent)
        return True

    def _make_parent(self, target: Path) -> None:
        """Make an object's folder, but never the store's own: that is missing when its disk is."""
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            _sync(self._root)

    @contextmanager
    def _part(self, name: str, data: bytes) -> Iterator[PartialFile]:
        """Yield a partial file of an object: all of the data, synced to the disk, not yet under its name."""
        parts = self._root / _PARTS
        parts.mkdir(exist_ok=True)
        with PartialFile(self._root / name, parts) as part:
            part.write(data)
            part.sync()
            yield part

    @contextmanager
    def _usable(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unusable(str(self), done, error.strerror or str(error), error.errno) from error


class _ObjectBackend:
    """Whatever fsspec reaches. It makes an object appear whole or, where it is a disk, byte by byte."""

    settle_s = _SETTLE_S

    def __init__(self, url: str, scheme: str) -> None:
        self._shown = shown(url)
        self._secrets = _secrets(url)
        self._files, self._root = self._open(url, scheme)

    def __str__(self) -> str:
        return self._shown

    def prepare(self) -> None:
        """Leave it to the first object: a bucket is made by people, and a folder on the way."""

    def get(self, name: str) -> bytes | None:
        with self._usable("read"):
            try:
                found: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return found

    def size_bytes(self, name: str) -> int | None:
        with self._usable("read"):
            try:
                return int(self._files.info(self._path(name))["size"])
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
            except Exception:  # noqa: BLE001 - a place that cannot create exclusively says so in many ways
                if self._files.exists(self._path(name)):
                    return False
                self._write(name, data)
        return True

    def tidy(self) -> None:
        """Nothing is left behind: there are no parts."""

    def _write(self, name: str, data: bytes, **how: Any) -> None:  # noqa: ANN401 - fsspec's
        path = self._path(name)
        try:
            self._files.pipe_file(path, data, **how)
        except FileNotFoundError:  # a disk wants the folder first; without parents nobody makes a bucket
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
        except Exception as error:  # noqa: BLE001 - each of fsspec's places raises what its library raises
            reason = " ".join(str(error).split()) or type(error).__name__
            for secret in self._secrets:
                reason = reason.replace(secret, "***")
            raised = _unusable(self._shown, done, reason, getattr(error, "errno", None))
            raise raised from (None if self._secrets else error)  # a traceback prints a cause


def _unusable(place: str, done: str, reason: str, number: int | None) -> StoreError:
    """Return the error for a store that cannot be used, with what to do."""
    if number in _FULL:
        what = f"make room there, {_ELSEWHERE}"
    elif number in _CLOSED:
        what = f"give this user the right to, {_ELSEWHERE}"
    else:
        what = f"see that it is there and can be reached, {_ELSEWHERE}"
    return StoreError(f"the segment store {place} cannot be {done}: {reason}; {what}")


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk; a file system that has none of this says EINVAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _absolute(folder: Path) -> Path:
    """Return a folder's path, whatever becomes of the working directory. Raises StoreError for ~NOBODY."""
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        message = f"the segment store {folder} is in nobody's home: {error}; write its whole path"
        raise StoreError(message, wrong_value=True) from error


def _path_of(url: str) -> Path:
    """Return the path of a file:// URL. Raises StoreError for one of another machine."""
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        message = f"{shown(url)} is on another machine; write file:///FOLDER, with three slashes"
        raise StoreError(message, wrong_value=True)
    return Path(unquote(parts.path))


def _secrets(url: str) -> list[str]:
    """Return what in a URL may be a secret, as it is written and as it is meant; the longest first."""
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
    """Name the package that a kind of place needs beside fsspec."""
    cause = error.__cause__
    package = (getattr(cause, "name", None) or str(error)).partition(".")[0]
    return missing(f"a segment store at {place}", package, package)
