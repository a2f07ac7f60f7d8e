"""Tracks -> the files for people: audio and captions of each chapter, one M4B, an EPUB with audio, the report.

This module knows which files the options ask for, and what each is made from; other modules make them. A file is made
again only if something that it is made from has changed. With a loudness preset, audio needs the gain of the whole
book, so it is made when the book is complete; without one, when its chapter is.
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
"""Maximum length of a segment's text in a problem, in characters."""


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file for people."""

    path: Path
    new: bool
    """True if the file was made now; False if it existed and is up to date."""


@dataclass(frozen=True, slots=True)
class NarrationResult:
    """The result of a narration."""

    folder: Path
    report: Path
    chapters: int
    """The number of complete chapters."""
    duration_s: float
    """The duration of their audio, in seconds."""
    spoken: int
    """The number of segments that were spoken for this narration, since the command started."""
    reused: int
    """The number of segments that the store had before."""
    problems: list[str]
    """One line for each chapter that is missing, segment with a fault, part of the book that could not be read."""

    @property
    def ok(self) -> bool:
        """True if every sentence was spoken and passed its checks."""
        return not self.problems


def check_extras(options: NarrationOptions) -> None:
    """Check that the libraries and models that the options need are installed, before the book is spoken.

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

    def __init__(self, folder: OutputFolder, narration: StoredNarration, book: Book, store: Store) -> None:
        """`book` was read from the narration's source."""
        self._folder = folder
        self._options = narration.options
        self._source = narration.source
        self._book = book
        self._store = store
        self._complete: tuple[Track, ...] = ()
        """The complete chapters, set when the narration has ended."""
        self._transcriptions: dict[tuple[int, int], Transcription] = {}
        self._problems: list[str] = list(book.unread)

    def chapter(self, track: Track) -> Iterator[MadeFile]:
        """Make the files of a chapter that do not depend on other chapters; yield each."""
        if self._options.loudness is None:
            yield from self._audio(track)
        yield from self._captions(self._stem(track), [track], track.number)

    def book(self, tracks: Mapping[int, Track], given_up: Mapping[int, VoxspoolError]) -> Iterator[MadeFile]:
        """Make all files that are still missing, from the complete chapters; yield every file."""
        self._complete = tuple(tracks[number] for number in sorted(tracks))
        self._problems += [f"chapter {number} is missing: {given_up[number]}" for number in sorted(given_up)]
        for track in self._complete:
            yield from self._audio(track)
            yield from self._captions(self._stem(track), [track], track.number)
        if self._complete:
            yield from self._captions(file_name(self._book.title, ""), self._complete)
            yield from self._m4b()
            yield from self._epub()
        self._verify()
        self._check_acx()
        self._problems += _faults(self._complete, self._transcriptions)
        yield from self._report()

    def result(self, loaded: Collection[int]) -> NarrationResult:
        """Return the result. `loaded` are the chapters that an earlier run completed."""
        reused = [cue.reused or track.number in loaded for track in self._complete for cue in track.cues]
        return NarrationResult(
            self._folder.path,
            self._folder.path_of(REPORT),
            len(self._complete),
            sum(track.duration_s for track in self._complete),
            len(reused) - sum(reused),
            sum(reused),
            self._problems,
        )

    @cached_property
    def _gain(self) -> Gain | None:
        """The gain that the book gets, for which all its audio is measured; None without a loudness preset."""
        if self._options.loudness is None:
            return None
        from voxspool.narration.mastering.loudness import fit

        _, gain = fit(cast("PresetName", self._options.loudness), self._complete, self._store)
        return gain

    def _audio(self, track: Track) -> Iterator[MadeFile]:
        """Make the audio files of a chapter. Those that are missing are made in one pass."""
        tags = self._tags(track)
        made_of = _digest(_sound(track), tags.named(), self._loudness)
        names = [f"{self._stem(track)}.{form}" for form in self._options.formats if form in AUDIO]
        missing = [name for name in names if not self._folder.is_current(name, made_of)]
        if missing:
            targets = [self._folder.path_of(name) for name in missing]
            write_chapter(track, self._store, targets, tags=tags, gain=self._gain)
        for name in missing:
            self._folder.record_file(name, made_of, track.number)
        for name in names:
            yield MadeFile(self._folder.path_of(name), new=name in missing)

    def _captions(self, stem: str, tracks: Sequence[Track], chapter: int | None = None) -> Iterator[MadeFile]:
        """Make the caption files of some chapters."""
        for form, write in CAPTIONS.items():
            yield self._text(f"{stem}.{form}", write(tracks), chapter)

    def _m4b(self) -> Iterator[MadeFile]:
        """Make the M4B of the book, if the options ask for it."""
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
            lambda path: write_m4b(book, self._complete, self._store, path, gain=self._gain),
        )

    def _epub(self) -> Iterator[MadeFile]:
        """Make the EPUB with audio, if the options ask for it."""
        if "epub" in self._options.formats:
            made_of = _digest(self._sounds, self._texts, self._loudness)
            yield self._made(file_name(self._book.title, ".epub"), made_of, self._write_epub)

    def _write_epub(self, path: Path) -> None:
        """Write the EPUB, with the audio of each chapter as AAC."""
        from voxspool.narration.exports.m4b import write_m4b
        from voxspool.narration.exports.overlay import write_overlay

        with tempfile.TemporaryDirectory(prefix="voxspool-") as folder:
            audio = {track.number: Path(folder) / f"{track.number}.m4a" for track in self._complete}
            for track in self._complete:
                alone = replace(self._book, title=track.title, cover=None)
                write_m4b(alone, [track], self._store, audio[track.number], gain=self._gain)
            write_overlay(self._source, self._book, self._complete, audio, path)

    def _verify(self) -> None:
        """Transcribe the segments and compare them with their texts, if the options ask for it."""
        if self._options.verify is not None:
            from voxspool.narration.report.verify import verify

            texts = self._folder.load_transcripts(self._options.verify)
            for number, index, transcription in verify(self._complete, self._store, self._options.verify, texts):
                self._transcriptions[number, index] = transcription
            self._folder.save_transcripts(self._options.verify, texts)

    def _check_acx(self) -> None:
        """Check the MP3 files against the rules of ACX, if the options ask for its preset."""
        if self._options.loudness == "acx":
            from voxspool.narration.mastering.acx import check_book

            for checked in check_book([self._folder.path_of(f"{self._stem(track)}.mp3") for track in self._complete]):
                for row in checked.rows:
                    if not row.passed:
                        self._problems.append(
                            f"ACX: {checked.path.name}: {row.rule} is {row.value:.4g} {row.unit}, not {row.limit}"
                        )

    def _report(self) -> Iterator[MadeFile]:
        """Make the report, as data and as a page."""
        from voxspool.narration.report.page import page

        found = report(replace(self._book, unread=tuple(self._problems)), self._complete, self._transcriptions)
        yield self._text("report.json", encoded(found))
        yield self._text(REPORT, page(found))

    def _text(self, name: str, text: str, chapter: int | None = None) -> MadeFile:
        """Make a text file."""

        def write(path: Path) -> None:
            with as_output_error(path):
                self._folder.write_text(path, text)

        return self._made(name, _digest(text), write, chapter)

    def _made(self, name: str, made_of: str, make: Callable[[Path], None], chapter: int | None = None) -> MadeFile:
        """Make a file with `make`, unless it exists and was made from the same."""
        path = self._folder.path_of(name)
        if self._folder.is_current(name, made_of):
            return MadeFile(path, new=False)
        make(path)
        self._folder.record_file(name, made_of, chapter)
        return MadeFile(path, new=True)

    @property
    def _sounds(self) -> list[list[Any]]:
        """What the audio of the whole book is made from."""
        return [[track.title, *_sound(track)] for track in self._complete]

    @property
    def _texts(self) -> list[Any]:
        """The places in the book of all segments."""
        return [[[cue.block, cue.start, cue.end] for cue in track.cues] for track in self._complete]

    @property
    def _loudness(self) -> list[Any] | None:
        """What the gain depends on: the preset, and the audio of the whole book."""
        return None if self._options.loudness is None else [self._options.loudness, self._sounds]

    def _stem(self, track: Track) -> str:
        """Return the name of a chapter's files, without the suffix."""
        return file_name(track.title, "", track.number, len(self._book.chapters))

    def _tags(self, track: Track) -> Tags:
        """Return the tags of a chapter's files."""
        book = self._book
        artist = ", ".join(book.authors)
        return Tags(
            track.title, artist, book.title, track.number, len(book.chapters), date=book.date, genre="Audiobook"
        )


def _faults(tracks: Iterable[Track], transcriptions: Mapping[tuple[int, int], Transcription]) -> Iterable[str]:
    """Yield a line for each segment with a fault."""
    for track in tracks:
        for index, cue in enumerate(track.cues):
            transcription = transcriptions.get((track.number, index))
            if fault := cue.fault or (transcription.fault if transcription else ""):
                text = cue.text.strip()
                shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
                yield f"chapter {track.number} at {cue.pos / track.sample_rate:.1f} s: {fault}: {shown}"


def _sound(track: Track) -> list[Any]:
    """Return what the audio of a chapter is made from: the sample rate, and each segment's key and position."""
    return [track.sample_rate, [[cue.stored and cue.stored.key, cue.pos, cue.end_pos] for cue in track.cues]]


def _digest(*parts: Any) -> str:  # noqa: ANN401 - JSON
    """Return a hash of what a file is made from."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
