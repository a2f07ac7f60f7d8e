"""The folder that a book is narrated into: the files for people, and the state that a later run continues from.

    01 Title.flac …      the files for people
    .voxspool/
      recipe.json        the options of the narration, its id and title
      source.epub        a copy of the book (a folder `source` if the book is one), and of the pronunciations
      tracks/3-….json    the track of chapter 3, once the whole chapter is spoken
      files.json         the files that were written, each with a hash of what it was made from
      heard.json         the transcript of each segment

The folder may come from somebody else, so nothing here is believed: names of files are plain names in this folder,
links are not followed, and values have the types and the sizes that this module writes.

Speaking needs none of it: jobs are in Redis, audio is in the store. This module reads and writes the files; it does not
know how their content is made.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import BookError
from voxspool.files.atomic_file import PartialFile, write_whole
from voxspool.files.regular_file import read_regular
from voxspool.narration.options import NarrationOptions
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

VERSION: Final = 1
"""Version of recipe.json. A folder with another one is refused."""
_STATE: Final = ".voxspool"
_RECIPE: Final = "recipe.json"
_TRANSCRIPTS: Final = "heard.json"
_FILES: Final = "files.json"
_NAME_CHARS: Final = 80
"""Maximum length of a title in a file name, in characters: at 3 bytes each under the usual limit of 255 bytes."""
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\u2028\u2029]+')
"""Characters that a file name must not contain on at least one system."""
_MAX_STATE_BYTES: Final = 256 * 2**20
"""Limit for a file of the state, in bytes. The track of a chapter has some 100 kB."""
_MAX_RATE_HZ: Final = 192_000
_MAX_CUE_S: Final = 3_700
"""Limit for a cue: the longest segment in a store, and its pause."""
_DAMAGE: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""The errors that reading a damaged file of the state raises."""
_ID: Final = re.compile(r"[a-z0-9]{1,24}-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class StoredNarration:
    """A narration as its folder describes it."""

    id: str
    title: str
    options: NarrationOptions
    source: Path
    """The copy of the book."""
    pronunciations: tuple[Path, ...]
    """The copies of the pronunciation files, in order."""


class OutputFolder:
    """A folder to narrate into. Its methods raise OutputError if a file cannot be written, or would be elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._state = self.path / _STATE

    def make(self) -> None:
        """Create the folder if it does not exist. Call it early: it refuses a place that cannot be written to."""
        with self._as_output_error():
            _make_folder(self._state)

    def prepare(
        self, title: str, options: NarrationOptions, source: Path, pronunciations: Sequence[Path]
    ) -> StoredNarration:
        """Store everything that a later run needs. It replaces earlier options, but not what was made with them."""
        name = narration_id(title, self.path)
        self.make()
        with self._as_output_error():
            book = self._copy(source, "source")
            rules = [self._copy(path, f"pronunciations-{number}").name for number, path in enumerate(pronunciations)]
            about = {"version": VERSION, "id": name, "title": title, "source": book.name, "pronunciations": rules}
            recipe = about | {"recipe": json.loads(options.encode())}
            self.write_text(self._state / _RECIPE, json.dumps(recipe))
        return self.load()

    def load(self) -> StoredNarration:
        """Return the narration that this folder belongs to. Raises BookError if there is none, or it is damaged."""
        path = self._state / _RECIPE
        try:
            about = json.loads(self._read(path))
            _check(about["version"] == VERSION and _ID.fullmatch(about["id"]), about["version"])
            rules = tuple(self._state_file(name) for name in about["pronunciations"])
            options = NarrationOptions.decode(json.dumps(about["recipe"]))
            source = self._state_file(about["source"])
            return StoredNarration(about["id"], str(about["title"]), options, source, rules)
        except FileNotFoundError:
            raise BookError(f"there is no narration in {self.path}; start one: voxspool narrate BOOK -o DIR") from None
        except _DAMAGE as error:
            raise BookError(f"{path} cannot be read ({error!r:.80}); narrate the book again") from error

    def load_track(self, number: int, digest: str) -> Track | None:
        """Return the track of a whole chapter that was made from a job with this digest; None if there is none."""
        try:
            return _track(json.loads(self._read(self._track_path(number, digest))), number)
        except _DAMAGE:
            return None

    def save_track(self, track: Track, digest: str) -> None:
        """Store the track of a whole chapter, in place of an earlier one of the same chapter."""
        path = self._track_path(track.number, digest)
        with self._as_output_error():
            _make_folder(path.parent)
            for old in path.parent.glob(f"{track.number}-*.json"):
                old.unlink()
            self.write_text(path, json.dumps(asdict(track)))

    def load_transcripts(self, model: str) -> dict[str, str]:
        """Return the transcripts that a model made, by the segments' keys in the store."""
        texts = self._load_object(_TRANSCRIPTS).get(model)
        found = texts.items() if isinstance(texts, dict) else ()
        return {key: text for key, text in found if isinstance(text, str)}

    def save_transcripts(self, model: str, texts: Mapping[str, str]) -> None:
        """Store the transcripts that a model made. It removes those of other models."""
        with self._as_output_error():
            self.write_text(self._state / _TRANSCRIPTS, json.dumps({model: texts}))

    def path_of(self, name: str) -> Path:
        """Return the path of a file for people."""
        return self.path / name

    def is_current(self, name: str, made_of: str) -> bool:
        """Return whether a file exists that was made from exactly this; `made_of` is a hash."""
        written = self._files().get(name)
        path = self.path_of(name)
        return written is not None and written[0] == made_of and path.is_file() and not path.is_symlink()

    def record_file(self, name: str, made_of: str, chapter: int | None = None) -> None:
        """Record what a file was made from, and which chapter it belongs to; None stands for the whole book.

        A file of the same chapter (or of the book) with the same suffix and another name is removed: the chapter had
        another title then.
        """
        files = self._files()
        with self._as_output_error():
            for old, (_, of) in list(files.items()):
                if of == chapter and old != name and Path(old).suffix == Path(name).suffix:
                    del files[old]
                    if self.path_of(old).is_file():
                        self.path_of(old).unlink(missing_ok=True)
            self.write_text(self._state / _FILES, json.dumps(files | {name: (made_of, chapter)}))

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file, whole or not at all. Raises OSError."""
        write_whole(path, text.encode(), sync=True)

    def _files(self) -> dict[str, tuple[str, int | None]]:
        """Return the files that were written: name -> hash of what it was made from, and its chapter."""
        found = self._load_object(_FILES).items()
        return {name: tuple(entry) for name, entry in found if _is_plain(name) and _is_entry(entry)}

    def _load_object(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file of the state; an empty one if it cannot be read."""
        try:
            found: Any = json.loads(self._read(self._state / name))
        except _DAMAGE:
            return {}
        return found if isinstance(found, dict) else {}

    def _read(self, path: Path) -> bytes:
        """Return a file of the state. Raises OSError, also for a link in its path below the folder."""
        for folder in (self._state, path.parent):
            if folder.is_symlink():
                raise OSError(errno.ELOOP, "it is a link", str(folder))
        return read_regular(path, _MAX_STATE_BYTES, follow_links=False)

    def _copy(self, source: Path, stem: str) -> Path:
        """Copy a file or a folder into the state, in place of an earlier copy; return the copy."""
        copy = self._state / (stem + source.suffix.lower() if source.is_file() else stem)
        if source.absolute() == copy:
            return copy
        if source.is_dir():
            _remove(copy)
            shutil.copytree(source, copy, symlinks=True, ignore=_not_copied)
        else:
            with PartialFile(copy) as part:
                shutil.copyfile(source, part.path)
                part.place()
        return copy

    def _state_file(self, name: object) -> Path:
        """Return the path of a file in the state. Raises ValueError for a name that leads elsewhere."""
        path = self._state / str(name)
        _check(isinstance(name, str) and _is_plain(name) and not path.is_symlink(), name)
        return path

    def _track_path(self, number: int, digest: str) -> Path:
        return self._state / "tracks" / f"{number}-{digest}.json"

    def _as_output_error(self) -> AbstractContextManager[None]:
        from voxspool.audio.files import as_output_error

        return as_output_error(self.path)


def _make_folder(path: Path) -> None:
    """Create a folder of the state. Raises OSError, also if there is a link in its place."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another place; remove it", str(path))
    path.mkdir(parents=True, exist_ok=True)


def _remove(path: Path) -> None:
    """Remove a folder with what is in it, or what has its name. Links are not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """Return the names in the folder of a book that are not copied: links, pipes, devices, and the state."""
    paths = {name: Path(folder, name) for name in names}
    return {
        name
        for name, path in paths.items()
        if name == _STATE or path.is_symlink() or not (path.is_file() or path.is_dir())
    }


def _is_plain(name: str) -> bool:
    """Return whether a name can be that of a file in a folder, and of no file elsewhere or of the state."""
    return not (name.startswith(".") or not name or _FORBIDDEN.search(name) or Path(name).name != name)


def _is_entry(entry: object) -> bool:
    """Return whether an entry of files.json is what this module writes: a hash and a chapter's number or null."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    made_of, chapter = entry
    return isinstance(made_of, str) and (chapter is None or type(chapter) is int)


def _track(fields: dict[str, Any], number: int) -> Track:
    """Return the track of a chapter in the JSON of its file. Raises ValueError, TypeError, KeyError, AttributeError."""
    cues = tuple(
        Cue(**cue | {"stored": None if cue["stored"] is None else StoredSegment.of(cue["stored"])})
        for cue in fields["cues"]
    )
    track = Track(**fields | {"cues": cues})
    _check(type(track.number) is int and track.number == number, track.number)
    _check(type(track.title) is str, track.title)
    _check(type(track.sample_rate) is int and 0 < track.sample_rate <= _MAX_RATE_HZ, track.sample_rate)
    end = 0
    for cue in cues:
        _check(all(type(one) is int for one in (cue.block, cue.start, cue.end, cue.pos, cue.end_pos)), cue)
        _check(all(type(one) is str for one in (cue.text, cue.spoken, cue.fault)) and type(cue.reused) is bool, cue)
        _check(0 <= cue.start <= cue.end and cue.block >= 0, cue)
        _check(end <= cue.pos <= cue.said_pos <= cue.end_pos <= cue.pos + _MAX_CUE_S * track.sample_rate, cue)
        end = cue.end_pos
    return track


def _check(valid: object, value: object) -> None:
    """Raise ValueError with the value if it is not valid."""
    if not valid:
        raise ValueError(value)


def narration_id(title: str, folder: Path) -> str:
    """Return the id of a narration: the same for the same title in the same folder of the same machine."""
    slug = "".join(c for c in title.lower() if c.isascii() and c.isalnum())[:24] or "book"
    where = hashlib.blake2b(f"{socket.gethostname()}\0{folder}".encode(errors="replace"), digest_size=3)
    return f"{slug}-{where.hexdigest()}"


def file_name(title: str, suffix: str, number: int | None = None, last: int = 0) -> str:
    """Return a file name that every system accepts: `03 The Title.flac`, or only the title.

    `last` is the highest number in the folder: numbers are padded to its width, and to two digits.
    """
    encoding = sys.getfilesystemencoding()  # UTF-8 nearly everywhere; in a locale such as C it may be ASCII
    title = title.encode(encoding, "ignore").decode(encoding)
    shown = " ".join(_FORBIDDEN.sub(" ", title).split())[:_NAME_CHARS].strip(" .") or "Untitled"
    return f"{shown}{suffix}" if number is None else f"{number:0{max(2, len(str(last)))}d} {shown}{suffix}"
