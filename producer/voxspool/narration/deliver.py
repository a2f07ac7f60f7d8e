"""Tracks -> the files that people keep: audio a chapter, captions, one M4B, an EPUB with overlays, the report.

A file that was made of the same is not made again. Knows which files a recipe wants and what each depends on; how one
is encoded is its module's. Without a loudness a chapter's files are made when it is whole; with one, when the book is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    reused: int
    problems: list[str]
    """A line each: what was not spoken, what did not pass its checks, what could not be read or written."""

    @property
    def ok(self) -> bool:
        """Whether every segment was spoken and passed."""
        return not self.problems


class Delivery:
    """Makes the files of one narration."""

    def __init__(self, folder: Folder, kept: Kept, book: Book, store: Store, chapters: Mapping[int, Planned]) -> None:
        """Prepare."""
        self._folder = folder
        self._kept = kept
        self._book = book
        self._store = store
        self._chapters = chapters
        self.outcome: Outcome | None = None

    def chapter(self, track: Track) -> Iterator[Made]:
        """Make what can be made of a chapter before the others are whole."""
        check_whole(track)
        if self._kept.recipe.loudness is None:
            yield from self._audio(track)

    def _audio(self, track: Track) -> Iterator[Made]:
        from voxspool.audio import Recorder
        from voxspool.protocol.stream import Audio, Begin, End

        for suffix in self._kept.recipe.formats:
            if suffix in AUDIO:
                path = self._folder.place(file_name(track.title, f".{suffix}", track.number, len(self._book.chapters)))
                with Recorder(path) as recorder:
                    recorder.add(Begin(0, track.sample_rate, "", "", "", "", 0))
                    pos = 0
                    for pcm in track.audio(self._store):
                        recorder.add(Audio(pos, pcm.tobytes()))
                        pos += len(pcm)
                    recorder.add(End(pos, 0.0, 0, None, None))
                yield Made(path, new=True)

    def book(self, tracks, given_up):
        yield from ()
        cues = [cue for track in tracks.values() for cue in track.cues]
        self.outcome = Outcome(
            self._folder.path,
            self._folder.place("report.html"),
            len(tracks),
            sum(t.duration_s for t in tracks.values()),
            sum(not c.reused for c in cues),
            sum(c.reused for c in cues),
            [str(e) for e in given_up.values()],
        )
