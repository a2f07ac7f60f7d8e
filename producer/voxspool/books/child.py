"""Read a book in a process of its own, which ends at a limit of time and of memory.

The readers and the C libraries below them take linear time on what they are known to be slow on, but a book may come
from anywhere, and nothing else can stop a parser that does not return. The process sends the book as JSON: nothing
that it sends can run code here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from voxspool.books.book import Block, Book, Chapter, Cover, Place
from voxspool.errors import BookError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_S: Final = 60.0
"""Limit for reading a small book, in seconds. A long novel takes 2 s."""
LIMIT_S_PER_MIB: Final = 10.0
"""Added for each MiB of the file, in seconds: pypdf reads a page in some 20 ms, and 100 pages have 1 MiB."""
MAX_MEMORY_BYTES: Final = 3 * 2**29
"""Limit for the memory of the process, in bytes. macOS does not enforce it."""
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from voxspool.books.child import main; main()"
)
"""It has the search path of this process, and not the current folder, where a book's folder may hold Python files."""
_ADVICE: Final = "convert it to another format, or split it into several files"
_ABOUT: Final = ("title", "authors", "language", "publisher", "date", "description", "unread")
_KINDS: Final = (BookError, MissingExtraError)


def read_within_limits(path: Path) -> Book:
    """Read a book as `read_book` does, within limits of time and memory.

    Raises BookError and MissingExtraError as that function does, and BookError if a limit is reached.
    """
    limit_s = LIMIT_S + LIMIT_S_PER_MIB * _size_bytes(path) / 2**20
    arguments = [json.dumps(sys.path), json.dumps([limit_s, MAX_MEMORY_BYTES]), str(path)]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(path, limit_s) from None
    if done.returncode == -signal.SIGXCPU:
        raise _too_slow(path, limit_s)
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        raise BookError(f"{path} cannot be read: its reader ended with {how}; {_ADVICE}")
    return _received(json.loads(done.stdout))


def main() -> None:
    """Read the book that the arguments name, and write it or the error to stdout as JSON."""
    from voxspool.books.readers import read_book
    from voxspool.display import protect_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that waits, which ends this one
    _, _, limits, path = sys.argv
    limit_s, most_bytes = json.loads(limits)
    answer = os.fdopen(os.dup(1), "wb")
    with contextlib.suppress(OSError):  # stderr is closed
        os.dup2(2, 1)  # what a library prints must not get into the answer
    protect_process()
    _limit(limit_s, most_bytes)
    try:
        said: dict[str, Any] = {"book": _sent(read_book(Path(path)))}
    except _KINDS as error:
        said = {"error": error.code, "message": str(error), "wrong_value": error.wrong_value}
    except MemoryError:
        message = f"{path} cannot be read: it needs more than {most_bytes >> 20} MiB of memory; {_ADVICE}"
        said = {"error": BookError.code, "message": message, "wrong_value": False}
    with answer:
        answer.write(json.dumps(said).encode())


def _size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes; 0 if it cannot be seen."""
    try:
        files = list(path.iterdir()) if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0  # the reader reports it


def _too_slow(path: Path, limit_s: float) -> BookError:
    return BookError(f"{path} cannot be read within the limit of {limit_s:.0f} s; {_ADVICE}")


def _limit(limit_s: float, most_bytes: int) -> None:
    """Limit the CPU time and the memory of this process, which ends by itself if nobody waits for it any more."""
    import resource

    for kind, most in ((resource.RLIMIT_CPU, int(limit_s) + 1), (resource.RLIMIT_AS, most_bytes)):
        _, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY or most < hard:
            with contextlib.suppress(OSError, ValueError):  # this system has no such limit
                resource.setrlimit(kind, (most, hard))


def _sent(book: Book) -> dict[str, Any]:
    """Return a book as JSON values."""
    about = {name: getattr(book, name) for name in _ABOUT}
    cover = book.cover and {"data": base64.b64encode(book.cover.data).decode(), "media_type": book.cover.media_type}
    chapters = [
        (chapter.title, [(block.text, block.kind, block.language, block.place) for block in chapter.blocks])
        for chapter in book.chapters
    ]
    return about | {"cover": cover, "chapters": chapters}


def _received(said: Mapping[str, Any]) -> Book:
    """Return the book in an answer. Raises the error in it."""
    if "error" in said:
        kind = next(kind for kind in _KINDS if kind.code == said["error"])
        raise kind(said["message"], wrong_value=said["wrong_value"])
    found = dict(said["book"])
    cover = found.pop("cover")
    chapters = tuple(Chapter(title, tuple(map(_block, blocks))) for title, blocks in found.pop("chapters"))
    for name in ("authors", "unread"):
        found[name] = tuple(found[name])
    return Book(
        chapters=chapters,
        cover=Cover(base64.b64decode(cover["data"]), cover["media_type"]) if cover else None,
        **found,
    )


def _block(sent: list[Any]) -> Block:
    text, kind, language, place = sent
    return Block(text, kind, language, Place(place[0], tuple(place[1])) if place else None)
