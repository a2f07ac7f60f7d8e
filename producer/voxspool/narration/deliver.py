"""Tracks -> the files that people keep: audio a chapter, captions, one M4B, an EPUB with overlays, the report.

A file that was made of the same is not made again. Knows which files a recipe wants and what each depends on; how one
is made is its module's. Without a loudness a chapter's files are made when it is whole; with one, when the book is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from voxspool.audio import Recorder, as_output_error
from voxspool.narration.captions import srt, webvtt
from voxspool.narration.folder import file_name
from voxspool.narration.recipe import AUDIO
from voxspool.protocol.stream import Audio, Begin, End

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from voxspool.books.book import Book
    from voxspool.errors import VoxspoolError
    from voxspool.narration.folder import Folder, Kept
    from voxspool.narration.track import Track
    from voxspool.store import Store

CAPTIONS: Final = {"srt": srt, "vtt": webvtt}
_SHOWN_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class Made:
    """A file for people."""

    path: Path
    new: bool
    """Whether it was made now; it was there otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a narration."""

    folder: Path
    report: Path
    chapters: int
    duration_s: float
    spoken: int
    """Segments that were spoken since the command began."""
    reused: int
    """Segments that were there."""
    problems: list[str]
    """A line each: what was not spoken, what did not pass its checks, what could not be read."""

    @property
    def ok(self) -> bool:
        """Whether everything was spoken and passed."""
        return not self.problems


class Delivery:
    """Makes the files of one narration."""

    def __init__(self, folder: Folder, kept: Kept, book: Book, store: Store) -> None:
        """Prepare."""
        self._folder = folder
        self._recipe = kept.recipe
        self._source = kept.source
        self._book = book
        self._store = store

    def chapter(self, track: Track) -> Iterator[Made]:
        """Make what can be made of a chapter before the others are whole."""
        if self._recipe.loudness is None:
            yield from self._audio(track)
        yield from self._captions(self._named(track), [track])

    def book(self, tracks: Mapping[int, Track], given_up: Mapping[int, VoxspoolError]) -> Iterator[Made]:
        """Make everything of the chapters that are whole."""
        whole = [tracks[number] for number in sorted(tracks)]
        for track in whole:
            yield from self.chapter(track)

    def outcome(
        self, tracks: Mapping[int, Track], given_up: Mapping[int, VoxspoolError], found: Collection[int]
    ) -> Outcome:
        """Sum up what came of it; `found` are the chapters that were whole before."""
        cues = [replace(cue, reused=cue.reused or number in found) for number in tracks for cue in tracks[number].cues]
        return Outcome(
            self._folder.path,
            self._folder.place("report.html"),
            len(tracks),
            sum(track.duration_s for track in tracks.values()),
            sum(not cue.reused for cue in cues),
            sum(cue.reused for cue in cues),
            [*self._book.unread, *_given_up(given_up), *_faults(tracks)],
        )

    def _audio(self, track: Track) -> Iterator[Made]:
        """Make a chapter's audio files."""
        made_of = _digest(track.sample_rate, [[cue.stored and cue.stored.key, cue.pos, cue.end_pos] for cue in track.cues])
        for form in self._recipe.formats:
            if form in AUDIO:
                yield self._made(f"{self._named(track)}.{form}", made_of, lambda path: self._record(track, path))

    def _record(self, track: Track, path: Path) -> None:
        with Recorder(path) as recorder:
            recorder.add(Begin(0, track.sample_rate, "", "", "", "", 0))
            pos = 0
            for pcm in track.audio(self._store):
                recorder.add(Audio(pos, pcm.tobytes()))
                pos += len(pcm)
            recorder.add(End(pos, 0.0, 0, None, None))

    def _captions(self, name: str, tracks: list[Track]) -> Iterator[Made]:
        """Make the captions of one chapter, or of all."""
        for form, write in CAPTIONS.items():
            text = write(tracks)
            yield self._made(f"{name}.{form}", _digest(text), lambda path, text=text: self._write(path, text))  # type: ignore[misc] # a default binds it

    def _write(self, path: Path, text: str) -> None:
        with as_output_error(path):
            self._folder.write(path, text)

    def _made(self, name: str, made_of: str, make: Callable[[Path], None]) -> Made:
        """Make a file, unless it is there and was made of the same."""
        path = self._folder.place(name)
        if self._folder.has(name, made_of):
            return Made(path, new=False)
        make(path)
        self._folder.wrote(name, made_of)
        return Made(path, new=True)

    def _named(self, track: Track) -> str:
        """Name a chapter's files, without their suffix."""
        return file_name(track.title, "", track.number, len(self._book.chapters))


def _given_up(given_up: Mapping[int, VoxspoolError]) -> Iterable[str]:
    """Say which chapters are missing."""
    return (f"chapter {number} is missing: {given_up[number]}" for number in sorted(given_up))


def _faults(tracks: Mapping[int, Track]) -> Iterable[str]:
    """Say which segments did not pass their checks."""
    for number in sorted(tracks):
        for cue in tracks[number].cues:
            if cue.fault:
                at = f"{cue.pos / tracks[number].sample_rate:.1f} s"
                text = cue.text if len(cue.text) <= _SHOWN_CHARS else f"{cue.text[:_SHOWN_CHARS]}…"
                yield f"chapter {number} at {at}: {cue.fault}: {text}"


def _digest(*parts: Any) -> str:  # noqa: ANN401 - JSON
    """Give a hash of what a file is made of."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
