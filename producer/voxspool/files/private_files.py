"""Folders that only one user can use, and the question whether other users could have changed a file.

Caches hold what people wrote and said, and code that is loaded. So their folders are created for their user alone, and
code is loaded only from files that no other user could have written, which is checked as ssh checks its keys.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS_WRITE: Final = 0o022
"""The permission bits with which the group or all users can write."""


def make_private(folder: Path) -> None:
    """Create a folder for this user alone, and each parent that does not exist. Raises OSError.

    A folder that exists keeps its permissions.
    """
    if not folder.parent.exists():
        make_private(folder.parent)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def tampering_fault(path: Path) -> str:
    """Return how another user could change a file or folder, in one line; empty if none can but root.

    It must not be a symbolic link. It and each folder above it must belong to this user or to root, and the group and
    others must not be able to write to it. (Above it, a folder such as /tmp, in which users can remove only their own
    files, is safe.) Windows has no such permissions; there the result is empty.
    """
    if not hasattr(os, "geteuid"):
        return ""
    try:
        if path.is_symlink():
            return f"{path} is a symbolic link"
        above = dict.fromkeys((*path.absolute().parents, *path.resolve().parents))
        return _fault(path, path.stat()) or next(
            filter(None, (_fault(one, one.stat(), above=True) for one in above)), ""
        )
    except OSError as error:
        return f"{path} cannot be examined: {error.strerror or error}"


def _fault(path: Path, about: os.stat_result, *, above: bool = False) -> str:
    """Return how another user could change this file or folder itself; empty if none can."""
    mode = stat.S_IMODE(about.st_mode)
    if about.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to the user with number {about.st_uid}"
    if mode & _OTHERS_WRITE and not (above and mode & stat.S_ISVTX):
        return f"{path} can be written to by other users (its mode is {mode:04o}; chmod go-w {path})"
    return ""
