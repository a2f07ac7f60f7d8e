"""Read a file that somebody else may have put there: a regular file of bounded size, and nothing else.

Opening a named pipe waits for a writer for ever, and a device or a file of many gigabytes fills the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Without waiting for the writer of a named pipe. Windows has only the last flag."""


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file. Raises OSError for anything else, and for a file over `max_bytes` bytes."""
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        data = file.read(max_bytes + 1) if about.st_size <= max_bytes else b""
        if about.st_size > max_bytes or len(data) > max_bytes:
            raise OSError(errno.EFBIG, f"it is longer than {max_bytes} bytes", str(path))
        return data
