"""Read a ZIP file that anybody may have made, within bounds, which count the bytes really read, not those declared.

Nothing is unpacked to the disk, so a name in the archive leads nowhere. What the entries mean is not known here.
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
"""One document or picture: the longest novels have 4 MB in all."""
MAX_READ_BYTES: Final = 128 * 2**20
"""All that is read of a book to have its text."""
_CHUNK_BYTES: Final = 2**16
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What EPUB and DOCX allow; others let a chunk grow without a bound before it is seen."""

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
"""What zipfile raises over damaged archives; NotImplementedError is a RuntimeError, UnicodeDecodeError a ValueError."""


class Archive:
    """An open archive. Raises BookError, without the archive's own name."""

    def __init__(self, source: Path | bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(BytesIO(source) if isinstance(source, bytes) else source)
        except _BROKEN as error:
            raise BookError(f"its archive is damaged or cut short ({error}); get the file again") from error
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise BookError(f"its archive has {len(infos)} entries; {MAX_ENTRIES} are read at most")
        # ZipInfo.is_dir raises IndexError over a name of nothing, which damage makes.
        self._infos = {info.filename: info for info in infos if info.filename and not info.filename.endswith("/")}
        self._folded = {name.casefold(): name for name in self._infos}
        self._read_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    @property
    def infos(self) -> tuple[zipfile.ZipInfo, ...]:
        """Every file in it, in its order."""
        return tuple(self._infos.values())

    def find(self, name: str) -> str | None:
        """Return the entry that a reference means: as written, with %20 and the like read, or in another case."""
        plain = unquote(name)
        return next((one for one in (name, plain, self._folded.get(plain.casefold())) if one in self._infos), None)

    def read(self, name: str) -> bytes:
        """Return an entry's bytes. Raises BookError: missing, damaged, locked or too large."""
        data = b"".join(self.chunks(name, MAX_ENTRY_BYTES))
        self._read_bytes += len(data)
        if self._read_bytes > MAX_READ_BYTES:
            raise BookError(f"there are more than {MAX_READ_BYTES >> 20} MiB to read in the archive, which no book has")
        return data

    def check(self, most_bytes: int) -> None:
        """Read all of it and keep nothing, before a library reads it without bounds. Raises BookError."""
        for info in self.infos:
            most_bytes -= sum(map(len, self.chunks(info.filename, most_bytes)))

    def chunks(self, name: str, most_bytes: int) -> Iterator[bytes]:
        """Yield an entry's bytes piece by piece. Raises BookError as `read` does."""
        info = self._infos.get(name)
        if info is None:
            raise BookError("it is missing from the archive")
        if info.flag_bits & 1:
            raise BookError("it is locked with a password; unlock the archive first")
        if info.compress_type not in _METHODS:
            raise BookError("it is compressed in a way that books are not; pack the archive anew")
        had = 0
        try:
            with self._zip.open(info) as entry:
                while chunk := entry.read(_CHUNK_BYTES):
                    had += len(chunk)
                    if had > most_bytes:
                        raise BookError(f"it is larger than {most_bytes >> 20} MiB, which is read at most")
                    yield chunk
        except _BROKEN as error:
            raise BookError(f"it is damaged in the archive ({error})") from error
