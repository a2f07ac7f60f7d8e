"""The folder that a book is narrated into: the files people keep, and what a later run needs to go on.

    01 Title.flac …      what was made, for people
    .voxspool/
      recipe.json        what was wanted, and the narration's id
      source.epub        the book as it was (source/ where it is a folder), and the pronunciations
      tracks/3-….json    what was spoken of chapter 3, once it is whole
      files.json         which files we wrote, and from what
      heard.json         what a transcriber heard of each segment

Nothing here is needed to speak: that lies in the store and in Redis. Knows files, not how they are made.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from voxspool.atomic_file import PartialFile, write_whole
from voxspool.errors import BookError
from voxspool.narration.options import NarrationOptions
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

VERSION: Final = 1
_STATE: Final = ".voxspool"
_HEARD: Final = "heard.json"
_NAME_CHARS: Final = 80
"""Longest title in a file's name, in characters: at 3 bytes each under the usual limit of 255."""
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\u2028\u2029]+')
"""What one system or another takes in no file's name."""
_ID: Final = re.compile(r"[a-z0-9]{1,24}-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class StoredNarration:
    """What a folder says of the narration in it."""

    id: str
    title: str
    options: NarrationOptions
    source: Path
    pronunciations: tuple[Path, ...]


class OutputFolder:
    """A folder to narrate into. Raises OutputError where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._state = self.path / _STATE

    def make(self) -> None:
        """Make it, where it is not there: what cannot be written to is refused before anything is begun."""
        with self._as_output_error():
            self._state.mkdir(parents=True, exist_ok=True)

    def prepare(
        self, title: str, options: NarrationOptions, source: Path, pronunciations: Sequence[Path]
    ) -> StoredNarration:
        """Keep everything that a later run needs; what an earlier one wanted is forgotten, what it made is not."""
        name = narration_id(title, self.path)
        self.make()
        with self._as_output_error():
            kept = self._keep(source, "source")
            rules = [self._keep(path, f"pronunciations-{number}").name for number, path in enumerate(pronunciations)]
            about = {"version": VERSION, "id": name, "title": title, "source": kept.name, "pronunciations": rules}
            self.write(self._state / "recipe.json", json.dumps(about | {"recipe": json.loads(options.encode())}))
        return self.kept()

    def kept(self) -> StoredNarration:
        """Return the narration that was begun here: id, title, options, source. Raises BookError if there is none."""
        try:
            about = json.loads((self._state / "recipe.json").read_text(encoding="utf-8"))
            _check(about["version"] == VERSION and _ID.fullmatch(about["id"]), about["version"])
            rules = tuple(self._inside(name) for name in about["pronunciations"])
            options = NarrationOptions.decode(json.dumps(about["recipe"]))
            return StoredNarration(about["id"], str(about["title"]), options, self._inside(about["source"]), rules)
        except FileNotFoundError:
            raise BookError(f"no narration was begun in {self.path}; begin one: voxspool narrate BOOK -o DIR") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BookError(
                f"{self._state / 'recipe.json'} cannot be read ({error!r:.80}); narrate the book again"
            ) from error

    def track(self, number: int, digest: str) -> Track | None:
        """Return what was spoken of a chapter, if all of it was, and it is as it was; None otherwise."""
        try:
            fields = json.loads(self._track_path(number, digest).read_text(encoding="utf-8"))
            cues = tuple(
                Cue(**cue | {"stored": StoredSegment(**cue["stored"]) if cue["stored"] else None})
                for cue in fields["cues"]
            )
            return Track(**fields | {"cues": cues})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep_track(self, track: Track, digest: str) -> None:
        """Keep what was spoken of a chapter; what was before is forgotten."""
        path = self._track_path(track.number, digest)
        with self._as_output_error():
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.glob(f"{track.number}-*.json"):
                old.unlink()
            self.write(path, json.dumps(asdict(track)))

    def heard(self, model: str) -> dict[str, str]:
        """Return what a model heard of segments, by their keys in the store."""
        found = self._json(_HEARD)
        texts = found.get(model)
        return texts if isinstance(texts, dict) else {}

    def keep_heard(self, model: str, texts: Mapping[str, str]) -> None:
        """Keep what a model heard; what others did is forgotten."""
        with self._as_output_error():
            self.write(self._state / _HEARD, json.dumps({model: texts}))

    def place(self, name: str) -> Path:
        """Return the path of a file for people."""
        return self.path / name

    def has(self, name: str, made_of: str) -> bool:
        """Whether a file is there that was made of exactly this."""
        written = self._files().get(name)
        return written is not None and written[0] == made_of and self.place(name).is_file()

    def wrote(self, name: str, made_of: str, chapter: int | None = None) -> None:
        """Take note of what a file was made of, and of which chapter it is; None: of the book.

        One of the same chapter, or of the book, in the same format and under another title is removed.
        """
        files = self._files()
        for old, (_, of) in list(files.items()):
            if of == chapter and old != name and Path(old).suffix == Path(name).suffix:
                del files[old]
                self.place(old).unlink(missing_ok=True)
        with self._as_output_error():
            self.write(self._state / "files.json", json.dumps(files | {name: (made_of, chapter)}))

    def write(self, path: Path, text: str) -> None:
        """Write a text file, whole or not at all. Raises OSError."""
        write_whole(path, text.encode(), sync=True)

    def _files(self) -> dict[str, tuple[str, int | None]]:
        """Return which files were made, of which audio and of which chapter."""
        found = self._json("files.json").items()
        return {name: tuple(said) for name, said in found if isinstance(said, list) and len(said) == 2}

    def _json(self, name: str) -> dict[str, Any]:
        """Read an object of ours; an empty one, where it cannot be read."""
        try:
            found: Any = json.loads((self._state / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _keep(self, source: Path, stem: str) -> Path:
        """Copy a file or a folder to our own, over what was there."""
        kept = self._state / (stem + source.suffix.lower() if source.is_file() else stem)
        if source.absolute() == kept:
            return kept
        if source.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(source, kept, ignore=shutil.ignore_patterns(_STATE))
        else:
            with PartialFile(kept) as part:
                shutil.copyfile(source, part.path)
                part.place()
        return kept

    def _inside(self, name: object) -> Path:
        """Return a file of ours by its name. Raises ValueError for what would lie elsewhere."""
        _check(isinstance(name, str) and Path(str(name)).name == name, name)
        return self._state / str(name)

    def _track_path(self, number: int, digest: str) -> Path:
        return self._state / "tracks" / f"{number}-{digest}.json"

    def _as_output_error(self) -> AbstractContextManager[None]:
        from voxspool.audio.files import as_output_error

        return as_output_error(self.path)


def _check(right: object, value: object) -> None:
    """Raise ValueError for a value that is not right."""
    if not right:
        raise ValueError(value)


def narration_id(title: str, folder: Path) -> str:
    """Name a narration: the same title in the same folder of the same machine is the same one."""
    slug = "".join(c for c in title.lower() if c.isascii() and c.isalnum())[:24] or "book"
    where = hashlib.blake2b(f"{socket.gethostname()}\0{folder}".encode(errors="replace"), digest_size=3)
    return f"{slug}-{where.hexdigest()}"


def file_name(title: str, suffix: str, number: int | None = None, last: int = 0) -> str:
    """Name a file for people: `03 The Title.flac`, or the title alone; in any folder of any system."""
    encoding = sys.getfilesystemencoding()  # UTF-8 nearly everywhere; in a locale such as C it may be ASCII
    title = title.encode(encoding, "ignore").decode(encoding)
    shown = " ".join(_FORBIDDEN.sub(" ", title).split())[:_NAME_CHARS].strip(" .") or "Untitled"
    return f"{shown}{suffix}" if number is None else f"{number:0{max(2, len(str(last)))}d} {shown}{suffix}"
