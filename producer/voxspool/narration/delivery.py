"""Tracks -> the files that people keep: audio for each chapter, captions, one M4B, an EPUB with overlays, the report.

A file whose ingredients have not changed is not made again. This module knows which files the options ask for and
what each depends on; other modules make them. Without a loudness preset the files of a chapter are made when it is
complete; with one, when the book is.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from voxspool.audio.files import as_output_error
from voxspool.audio.tags import Tags
from voxspool.narration.estimate import USUAL_RATE_HZ
from voxspool.narration.exports.audio_files import write_chapter
from voxspool.narration.exports.captions import srt, webvtt
from voxspool.narration.options import AUDIO
from voxspool.narration.output_folder import file_name
from voxspool.narration.report.data import encoded, report
from voxspool.narration.report.page import page

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from voxspool.books.book import Book
    from voxspool.errors import VoxspoolError
    from voxspool.narration.mastering.master import Gain, PresetName
    from voxspool.narration.options import NarrationOptions
    from voxspool.narration.output_folder import OutputFolder, StoredNarration
    from voxspool.narration.report.verify import Transcription
    from voxspool.narration.track import Track
    from voxspool.store.segments import Store

CAPTIONS: Final = {"srt": srt, "vtt": webvtt}
REPORT: Final = "report.html"
_SHOWN_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file for people."""

    path: Path
    new: bool
    """Whether it was made now; it was there otherwise."""


@dataclass(frozen=True, slots=True)
class NarrationResult:
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


def check_extras(options: NarrationOptions) -> None:
    """Refuse what needs a library, or a model, that is not there, before hours are spent on the book.

    Raises MissingExtraError, CheckpointError.
    """
    if {"m4b", "epub"} & {*options.formats}:
        from voxspool.narration.exports.m4b import pyav

        pyav()
    if options.loudness is not None:
        from voxspool.narration.mastering.loudness import Meter

        Meter(USUAL_RATE_HZ)
    if options.verify is not None:
        from voxspool.narration.report.verify import Transcriber

        Transcriber(options.verify)


class Delivery:
    """Makes the files of one narration."""

    def __init__(self, folder: OutputFolder, kept: StoredNarration, book: Book, store: Store) -> None:
        """Prepare."""
        self._folder = folder
        self._options = kept.options
        self._source = kept.source
        self._book = book
        self._store = store
        self._whole: tuple[Track, ...] = ()
        """The chapters that are whole, once no more will be."""
        self._heard: dict[tuple[int, int], Transcription] = {}
        self._problems: list[str] = list(book.unread)

    def chapter(self, track: Track) -> Iterator[MadeFile]:
        """Make what can be made of a chapter before the others are whole."""
        if self._options.loudness is None:
            yield from self._audio(track)
        yield from self._captions(self._named(track), [track], track.number)

    def book(self, tracks: Mapping[int, Track], given_up: Mapping[int, VoxspoolError]) -> Iterator[MadeFile]:
        """Make everything of the chapters that are whole."""
        self._whole = tuple(tracks[number] for number in sorted(tracks))
        self._problems += [f"chapter {number} is missing: {given_up[number]}" for number in sorted(given_up)]
        for track in self._whole:
            yield from self._audio(track)
            yield from self._captions(self._named(track), [track], track.number)
        if self._whole:
            yield from self._captions(file_name(self._book.title, ""), self._whole)
            yield from self._m4b()
            yield from self._epub()
        self._verify()
        self._check_acx()
        self._problems += _faults(self._whole, self._heard)
        yield from self._report()

    def outcome(self, found: Collection[int]) -> NarrationResult:
        """Sum up what came of it; `found` are the chapters that were whole before."""
        reused = [cue.reused or track.number in found for track in self._whole for cue in track.cues]
        return NarrationResult(
            self._folder.path,
            self._folder.place(REPORT),
            len(self._whole),
            sum(track.duration_s for track in self._whole),
            len(reused) - sum(reused),
            sum(reused),
            self._problems,
        )

    @cached_property
    def _gain(self) -> Gain | None:
        """The one gain of the book, for which all of it is listened to; None where it stays as it was spoken."""
        if self._options.loudness is None:
            return None
        from voxspool.narration.mastering.loudness import fit

        _, gain = fit(cast("PresetName", self._options.loudness), self._whole, self._store)
        return gain

    def _audio(self, track: Track) -> Iterator[MadeFile]:
        """Make a chapter's audio files, those that are missing in one pass."""
        tags = self._tags(track)
        made_of = _digest(_sound(track), tags.named(), self._loudness)
        names = [f"{self._named(track)}.{form}" for form in self._options.formats if form in AUDIO]
        missing = [name for name in names if not self._folder.has(name, made_of)]
        if missing:
            targets = [self._folder.place(name) for name in missing]
            write_chapter(track, self._store, targets, tags=tags, gain=self._gain)
        for name in missing:
            self._folder.wrote(name, made_of, track.number)
        for name in names:
            yield MadeFile(self._folder.place(name), new=name in missing)

    def _captions(self, name: str, tracks: Sequence[Track], chapter: int | None = None) -> Iterator[MadeFile]:
        """Make the captions of one chapter, or of all."""
        for form, write in CAPTIONS.items():
            yield self._text(f"{name}.{form}", write(tracks), chapter)

    def _m4b(self) -> Iterator[MadeFile]:
        """Make the one file of the whole book."""
        if "m4b" not in self._options.formats:
            return
        from voxspool.narration.exports.m4b import cover_fault, write_m4b

        book, cover = self._book, self._book.cover
        if cover and (fault := cover_fault(cover)):
            self._problems.append(f"the cover was left out: {fault}")
        about = [book.title, book.authors, book.date, book.publisher, book.description, book.language]
        made_of = _digest(self._sounds, about, cover and hashlib.sha256(cover.data).hexdigest(), self._loudness)
        yield self._made(
            file_name(book.title, ".m4b"),
            made_of,
            lambda path: write_m4b(book, self._whole, self._store, path, gain=self._gain),
        )

    def _epub(self) -> Iterator[MadeFile]:
        """Make the book that is read and heard at once."""
        if "epub" in self._options.formats:
            made_of = _digest(self._sounds, self._texts, self._loudness)
            yield self._made(file_name(self._book.title, ".epub"), made_of, self._write_epub)

    def _write_epub(self, path: Path) -> None:
        from voxspool.narration.exports.m4b import write_m4b
        from voxspool.narration.exports.overlay import write_overlay

        with tempfile.TemporaryDirectory(prefix="voxspool-") as folder:
            audio = {track.number: Path(folder) / f"{track.number}.m4a" for track in self._whole}
            for track in self._whole:
                alone = replace(self._book, title=track.title, cover=None)
                write_m4b(alone, [track], self._store, audio[track.number], gain=self._gain)
            write_overlay(self._source, self._book, self._whole, audio, path)

    def _verify(self) -> None:
        """Hear what was spoken, if that is wanted."""
        if self._options.verify is not None:
            from voxspool.narration.report.verify import verify

            texts = self._folder.heard(self._options.verify)
            for number, index, heard in verify(self._whole, self._store, self._options.verify, texts):
                self._heard[number, index] = heard
            self._folder.keep_heard(self._options.verify, texts)

    def _check_acx(self) -> None:
        """Hold what would be sent to ACX against its rules, if it is made for it."""
        if self._options.loudness == "acx":
            from voxspool.narration.mastering.acx import check_book

            for checked in check_book([self._folder.place(f"{self._named(track)}.mp3") for track in self._whole]):
                for row in checked.rows:
                    if not row.passed:
                        self._problems.append(
                            f"ACX: {checked.path.name}: {row.rule} is {row.value:.4g} {row.unit}, not {row.limit}"
                        )

    def _report(self) -> Iterator[MadeFile]:
        """Write down what is known of every segment."""
        found = report(replace(self._book, unread=tuple(self._problems)), self._whole, self._heard)
        yield self._text("report.json", encoded(found))
        yield self._text(REPORT, page(found))

    def _text(self, name: str, text: str, chapter: int | None = None) -> MadeFile:
        """Make a text file."""

        def write(path: Path) -> None:
            with as_output_error(path):
                self._folder.write(path, text)

        return self._made(name, _digest(text), write, chapter)

    def _made(self, name: str, made_of: str, make: Callable[[Path], None], chapter: int | None = None) -> MadeFile:
        """Make a file, unless it is there and was made of the same."""
        path = self._folder.place(name)
        if self._folder.has(name, made_of):
            return MadeFile(path, new=False)
        make(path)
        self._folder.wrote(name, made_of, chapter)
        return MadeFile(path, new=True)

    @property
    def _sounds(self) -> list[list[Any]]:
        """What is heard of the whole book."""
        return [[track.title, *_sound(track)] for track in self._whole]

    @property
    def _texts(self) -> list[Any]:
        """What is read of it."""
        return [[[cue.block, cue.start, cue.end] for cue in track.cues] for track in self._whole]

    @property
    def _loudness(self) -> list[Any] | None:
        """What the gain depends on: all that is heard of the book."""
        return None if self._options.loudness is None else [self._options.loudness, self._sounds]

    def _named(self, track: Track) -> str:
        """Name a chapter's files, without their suffix."""
        return file_name(track.title, "", track.number, len(self._book.chapters))

    def _tags(self, track: Track) -> Tags:
        """Return the tags of a chapter's files."""
        book = self._book
        artist = ", ".join(book.authors)
        return Tags(
            track.title, artist, book.title, track.number, len(book.chapters), date=book.date, genre="Audiobook"
        )


def _faults(tracks: Iterable[Track], heard: Mapping[tuple[int, int], Transcription]) -> Iterable[str]:
    """Yield a line for each segment that did not pass its checks."""
    for track in tracks:
        for index, cue in enumerate(track.cues):
            found = heard.get((track.number, index))
            if fault := cue.fault or (found.fault if found else ""):
                said = cue.text.strip()
                text = said if len(said) <= _SHOWN_CHARS else f"{said[:_SHOWN_CHARS]}…"
                yield f"chapter {track.number} at {cue.pos / track.sample_rate:.1f} s: {fault}: {text}"


def _sound(track: Track) -> list[Any]:
    """Return what a chapter's audio is made of: the sample rate, and the key and place of each segment."""
    return [track.sample_rate, [[cue.stored and cue.stored.key, cue.pos, cue.end_pos] for cue in track.cues]]


def _digest(*parts: Any) -> str:  # noqa: ANN401 - JSON
    """Return a hash of what a file is made of."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
