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


_NO_FILE: Final = (errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""Errors of opening a link where none is followed (the second on FreeBSD), and a socket."""


class NotRegularFileError(OSError):
    """What has the file's name is something else: a link, a folder, a pipe, a device, a file that is too long."""


def read_regular(path: Path, max_bytes: int, *, follow_links: bool = True) -> bytes:
    """Return the bytes of a regular file.

    Raises NotRegularFileError for anything else, and for a file over `max_bytes` bytes; OSError if it cannot be read.
    """
    try:
        descriptor = os.open(path, _FLAGS if follow_links else _FLAGS | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NotRegularFileError(error.errno, "it is not a regular file", str(path)) from error
        raise
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise NotRegularFileError(errno.EINVAL, "it is not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(max_bytes + 1) if about.st_size <= max_bytes else b""
    if about.st_size > max_bytes or len(data) > max_bytes:
        raise NotRegularFileError(errno.EFBIG, f"it is longer than {max_bytes} bytes", str(path))
    return data
