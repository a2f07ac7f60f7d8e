"""A spoken EPUB -> an EPUB 3 with media overlays: a reader highlights each sentence while it is heard.

All entries of the source are copied unchanged, except the package and the spoken documents, which get ids on elements
or on spans around sentences. An EPUB 2 is converted to EPUB 3 as far as necessary.
"""

from __future__ import annotations

import posixpath
import zipfile
from contextlib import contextmanager
from shutil import copyfileobj
from typing import TYPE_CHECKING, Final

from voxspool.books.archive import Archive
from voxspool.books.epub.package import open_package
from voxspool.errors import BookError, OutputError
from voxspool.files.atomic_file import PartialFile
from voxspool.narration.exports.epub3 import (
    CSS,
    EPOCH,
    Layout,
    Packager,
    href,
    is_old,
    link_css,
    modern,
    nav_document,
    newest,
    old_overlays,
    serialised,
    smil,
    xml,
)
from voxspool.narration.exports.overlay_clips import spoken_documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from voxspool.books.book import Book
    from voxspool.books.epub.package import Package
    from voxspool.narration.exports.overlay_clips import DocumentOverlay
    from voxspool.narration.track import Track

_MIMETYPE: Final = b"application/epub+zip"
_COPIED_AT_MOST_BYTES: Final = 4 * 2**30
_ZIP64_FROM_BYTES: Final = 2**31


def write_overlay(
    source: Path,
    book: Book,
    tracks: Sequence[Track],
    audio: Mapping[int, Path],
    target: Path,
    *,
    narrator: str = "voxspool",
) -> None:
    """Write the EPUB `source`, which was read as `book`, with the audio of the tracks. It appears whole or not at all.

    `audio` maps the number of each track to its file, MP3 or M4A (AAC), in step with the track. A track without a file
    is left out.

    Raises BookError if the source cannot be read, OutputError if the target cannot be written.
    """
    with Archive(source) as archive:
        package = open_package(archive)
        overlays = spoken_documents(archive, package, book, [track for track in tracks if track.number in audio])
        with _written(target) as out:
            _write(out, archive, package, overlays, audio, narrator)


def _write(
    out: zipfile.ZipFile,
    archive: Archive,
    package: Package,
    overlays: list[DocumentOverlay],
    audio: Mapping[int, Path],
    narrator: str,
) -> None:
    """Write the archive: changed and copied entries, new entries, and last the package that lists all of them."""
    layout = Layout(archive, package, {clip.audio: audio[clip.audio] for one in overlays for clip in one.clips})
    changed = modern(archive, package) if is_old(package) else {}
    for overlay in overlays:
        link_css(overlay.tree, href(layout.css, posixpath.dirname(overlay.item.path)))
        changed[overlay.item.path] = serialised(overlay.tree)
    _add(out, "mimetype", _MIMETYPE, zipfile.ZIP_STORED)
    kept = _copy(out, archive, changed, {package.path, *old_overlays(package)})
    for number, overlay in enumerate(overlays, 1):
        _add(out, layout.smil(number), smil(overlay, layout.smil(number), layout))
    for number, path in layout.audio.items():
        _add_file(out, path, audio[number])
    _add(out, layout.css, CSS.encode())
    if package.nav is None:
        _add(out, layout.nav, nav_document(archive, package, layout))
    Packager(package, layout, kept).update(overlays, narrator, newest(archive))
    _add(out, package.path, xml(package.root))


def _copy(out: zipfile.ZipFile, archive: Archive, changed: Mapping[str, bytes], left: set[str]) -> set[str]:
    """Copy the entries of the source, except those in `left` and damaged ones; return the names that were copied."""
    kept = set()
    for info in archive.infos:
        name = info.filename
        if name in left or name in {"mimetype", "META-INF/signatures.xml"} or not _is_safe(name):
            continue
        if name in changed:
            _add(out, name, changed[name], date=info.date_time)
        elif not _is_whole(archive, name):
            continue
        else:
            copied = _info(name, info.compress_type, info.date_time)
            with out.open(copied, "w", force_zip64=info.file_size >= _ZIP64_FROM_BYTES) as entry:
                entry.writelines(archive.chunks(name, _COPIED_AT_MOST_BYTES))
        kept.add(name)
    return kept


def _is_whole(archive: Archive, name: str) -> bool:
    """Return whether an entry can be read to its end. It is read before any of it is written."""
    try:
        for _ in archive.chunks(name, _COPIED_AT_MOST_BYTES):
            pass
    except BookError:
        return False
    return True


def _is_safe(name: str) -> bool:
    """Return whether an entry, when it is unpacked, stays inside the folder that the book is unpacked to."""
    return (
        not name.startswith("/")
        and "\\" not in name
        and ".." not in name.split("/")
        and ":" not in name.split("/", maxsplit=1)[0]
    )


def _info(name: str, compression: int = zipfile.ZIP_DEFLATED, date: tuple[int, ...] = EPOCH) -> zipfile.ZipInfo:
    year, month, day, hour, minute, second = date
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.compress_type = compression
    info.external_attr = 0o644 << 16
    return info


def _add(
    out: zipfile.ZipFile,
    name: str,
    data: bytes,
    compression: int = zipfile.ZIP_DEFLATED,
    date: tuple[int, ...] = EPOCH,
) -> None:
    out.writestr(_info(name, compression, date), data)


def _add_file(out: zipfile.ZipFile, name: str, path: Path) -> None:
    """Add an audio file, without compressing it again."""
    with (
        path.open("rb") as file,
        out.open(_info(name, zipfile.ZIP_STORED), "w", force_zip64=path.stat().st_size >= _ZIP64_FROM_BYTES) as entry,
    ):
        copyfileobj(file, entry)


@contextmanager
def _written(target: Path) -> Iterator[zipfile.ZipFile]:
    """Yield an archive that becomes `target` when the block ends without an error. Raises OutputError."""
    try:
        with PartialFile(target) as part:
            with part.path.open("xb") as file, zipfile.ZipFile(file, "w") as out:
                yield out
            part.sync()
            part.place()
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
