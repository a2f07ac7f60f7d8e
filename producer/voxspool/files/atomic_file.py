"""Write a file so that it appears under its name whole, or not at all.

The bytes go to a partial file, which is renamed to the target when it is complete. A process that dies leaves at most
the partial file. The rename is atomic within one file system, so the partial file lies beside its target, or in a
folder of the same file system.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

SUFFIX: Final = ".part"
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NAME_CHARS: Final = 40
"""Characters of the target's name in that of the partial file. At 4 bytes each, with the rest, the name stays under the
usual limit of 255 bytes."""


class PartialFile:
    """A file that is written under another name, then renamed to its target.

    Use it as a context manager: write to `path`, close it, then call `place`. Without `place` the target stays as it
    was, and the partial file is removed. Every method may raise OSError, except `remove`.
    """

    def __init__(self, target: Path, folder: Path | None = None) -> None:
        """Choose a name in `folder`, or beside the target. No file is created."""
        self.target = target
        name = f"{_stem(target)}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        self.path = (folder or target.parent) / name
        """Where to write. No other file has this name."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def write(self, data: bytes, mode: int = 0o666) -> None:
        """Write all of the file at once. `mode` is its permission bits, of which the umask removes some."""
        with os.fdopen(os.open(self.path, _FLAGS, mode), "wb") as file:
            file.write(data)

    def sync(self) -> None:
        """Bring the bytes to the disk: after a power cut, the target is not empty or half a file."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())

    def place(self) -> None:
        """Rename the partial file to its target, replacing a file of that name."""
        self.path.replace(self.target)

    def remove(self) -> None:
        """Remove the partial file, if it is still there."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def write_whole(target: Path, data: bytes, *, sync: bool, mode: int = 0o666) -> None:
    """Write a file, whole or not at all; with `sync` it is on the disk when this returns. Raises OSError."""
    with PartialFile(target) as part:
        part.write(data, mode)
        if sync:
            part.sync()
        part.place()


def partial_files(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield the partial files beside a target, each with the process id of its writer, which may be dead."""
    name = re.compile(rf"{re.escape(_stem(target))}(\d+)(?:-\w+)?{re.escape(SUFFIX)}")
    for path in target.parent.glob(f".*{SUFFIX}"):
        if found := name.fullmatch(path.name):
            yield path, int(found[1])


def _stem(target: Path) -> str:
    return f".{target.name[:_NAME_CHARS]}."
