"""Read untrusted ZIP files within size limits. The limits count the bytes actually read, not the declared sizes.

Nothing is written to disk, so a path inside the archive cannot escape from it. This module does not interpret the
entries.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

MAX_ENTRIES: Final = 20_000
MAX_ENTRY_BYTES: Final = 16 * 2**20
"""Limit for one document or picture, in bytes. The longest novels have 4 MB of text in total."""
MAX_READ_BYTES: Final = 128 * 2**20
"""Limit for all entries read from one book together, in bytes."""
_CHUNK_BYTES: Final = 2**16
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The compression methods that EPUB and DOCX allow. With other methods one read can return unlimited data."""

_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    ValueError,
    RuntimeError,
    OSError,
    OverflowError,
)
"""The exceptions that zipfile raises for damaged archives.

NotImplementedError is a RuntimeError and UnicodeDecodeError is a ValueError, so both are covered.
"""


class Archive:
    """An open ZIP archive. Errors are BookError; their messages do not contain the archive's file name."""

    def __init__(self, source: Path | bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source)
        except _BROKEN as error:
            raise BookError(f"its archive is damaged or cut short ({error}); get the file again") from error
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise BookError(f"its archive has {len(infos)} entries; the limit is {MAX_ENTRIES}")
        # ZipInfo.is_dir raises IndexError for an empty name, which damaged archives contain.
        self._infos = {info.filename: info for info in infos if info.filename and not info.filename.endswith("/")}
        self._folded = {name.casefold(): name for name in self._infos}
        self._read_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    @property
    def infos(self) -> tuple[zipfile.ZipInfo, ...]:
        """All files in the archive, in archive order."""
        return tuple(self._infos.values())

    def find(self, name: str) -> str | None:
        """Return the entry that a reference points to, or None.

        Try the name as written, then with percent escapes such as %20 decoded, then without regard to case.
        """
        plain = unquote(name)
        return next((one for one in (name, plain, self._folded.get(plain.casefold())) if one in self._infos), None)

    def read(self, name: str) -> bytes:
        """Return an entry's bytes. Raises BookError if it is missing, damaged, encrypted or too large."""
        data = b"".join(self.chunks(name, MAX_ENTRY_BYTES))
        self._read_bytes += len(data)
        if self._read_bytes > MAX_READ_BYTES:
            raise BookError(f"the archive unpacks to more than the limit of {MAX_READ_BYTES >> 20} MiB")
        return data

    def check(self, most_bytes: int) -> None:
        """Read every entry and discard it, to prove that the archive unpacks to at most `most_bytes`.

        Call this before a library reads the archive without a limit. Raises BookError.
        """
        for info in self.infos:
            most_bytes -= sum(map(len, self.chunks(info.filename, most_bytes)))

    def chunks(self, name: str, most_bytes: int) -> Iterator[bytes]:
        """Yield an entry's bytes piece by piece. Raises BookError as `read` does."""
        info = self._infos.get(name)
        if info is None:
            raise BookError("it is missing from the archive")
        if info.flag_bits & 1:
            raise BookError("it is locked with a password; remove the password from the archive first")
        if info.compress_type not in _METHODS:
            raise BookError("it uses a compression method that books may not use; pack the archive again with deflate")
        had = 0
        try:
            with self._zip.open(info) as entry:
                while chunk := entry.read(_CHUNK_BYTES):
                    had += len(chunk)
                    if had > most_bytes:
                        raise BookError(f"it is larger than the limit of {most_bytes >> 20} MiB")
                    yield chunk
        except _BROKEN as error:
            raise BookError(f"it is damaged in the archive ({error})") from error
