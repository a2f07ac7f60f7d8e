"""A narration while it runs: it enqueues the jobs of the chapters, follows their marks, and collects the tracks.

Workers do the work. A narration holds nothing that is not also in its folder, in Redis or in the store, so its
command may be stopped, killed or run again. `delivery` makes the files, and the CLI shows progress.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from voxspool.errors import BusyError, SpeechFailedError, UnknownJobError, VoxspoolError
from voxspool.narration.jobs import NarrationJobs, NarrationRecord
from voxspool.narration.plan import check_whole
from voxspool.protocol.stream import Begin, End, Mark
from voxspool.reading.reader import raise_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxspool.client import Client
    from voxspool.narration.options import NarrationOptions
    from voxspool.narration.output_folder import OutputFolder
    from voxspool.narration.plan import PlannedChapter
    from voxspool.narration.track import Cue, Track
    from voxspool.reading.reader import Received
    from voxspool.store.segments import Store

LOOKUPS: Final = 16
"""How many segments are looked for in the store at once: one far away takes 30 ms for each."""
MAX_TRIES: Final = 100
"""How often a chapter may be enqueued anew within a week, having failed or been cancelled each time."""


@dataclass(frozen=True, slots=True)
class BookSegment:
    """A segment of a chapter was spoken, or found in the store."""

    number: int
    mark: Mark
    sample_rate: int
    before: bool
    """Whether that was before this command began."""


@dataclass(frozen=True, slots=True)
class ChapterSpoken:
    """A chapter is whole."""

    number: int
    track: Track


@dataclass(frozen=True, slots=True)
class ChapterGivenUp:
    """A chapter is not spoken to its end."""

    number: int
    error: VoxspoolError


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing came for a second."""


News: TypeAlias = BookSegment | ChapterSpoken | ChapterGivenUp | Waiting


@dataclass(slots=True)
class _ChapterProgress:
    """What has come of a chapter's job so far."""

    chapter: PlannedChapter
    sample_rate: int = 0
    marks: list[Mark] = field(default_factory=list)

    def take(self, mark: Mark) -> bool:
        """Take a mark; False where an earlier attempt had said it."""
        if mark.segment < len(self.marks):
            return False
        self.marks.append(mark)
        return True


class Narration:
    """The narration of the chapters of one book, into one folder, through one store."""

    def __init__(
        self, client: Client, folder: OutputFolder, name: str, title: str, options: NarrationOptions, store: Store,
        chapters: tuple[PlannedChapter, ...],
    ) -> None:  # fmt: skip
        """Prepare; nothing is asked yet."""
        self.id = name
        self._client = client
        self._jobs = NarrationJobs(client)
        self._folder = folder
        self._title = title
        self._options = options
        self._store = store
        self.chapters = {chapter.number: chapter for chapter in chapters}
        self._digests = {number: one.digest(options, store.id) for number, one in self.chapters.items()}
        self.tracks: dict[int, Track] = {}
        """The chapters that are whole."""
        self.found: frozenset[int] = frozenset()
        """Those that an earlier run had heard to their end."""
        self.given_up: dict[int, VoxspoolError] = {}
        """Those that are not, and why."""
        self.jobs: dict[int, str] = {}
        """The jobs of the chapters that are not whole yet, or were not when this command began."""
        self._marked: dict[int, int] = {}
        """How many segments of a chapter were spoken then."""

    def find_tracks(self) -> None:
        """Take up the chapters that an earlier run heard to their end, if the store has all of them, undamaged."""
        with ThreadPoolExecutor(LOOKUPS) as threads:
            for number, digest in self._digests.items():
                track = self._folder.track(number, digest)
                if track and all(threads.map(self._has, track.cues)):
                    self.tracks[number] = track
        self.found = frozenset(self.tracks)

    def place(self, on_busy: Callable[[BusyError], None]) -> None:
        """Enqueue the chapters that are not whole, unless they are already. `on_busy` is told before each wait."""
        for number, chapter in self.chapters.items():
            if number not in self.tracks:
                self.jobs[number] = self._find_or_put(chapter, on_busy)
        record = NarrationRecord(self._title, socket.gethostname(), str(self._folder.path), tuple(self.jobs.values()))
        self._jobs.record(self.id, record)

    def news(self) -> Iterator[News]:
        """Yield what happens to the chapters, until all are whole or given up."""
        hearing = {job: _ChapterProgress(self.chapters[number]) for number, job in self.jobs.items()}
        for heard in self._jobs.read(list(hearing)):
            if heard is None:
                yield Waiting()
            else:
                job, what = heard
                yield from self._take(hearing[job], what)

    def _has(self, cue: Cue) -> bool:
        """Whether the store has a segment that was heard."""
        return cue.stored is not None and self._store.check(cue.stored.key) is not None

    def _take(self, hearing: _ChapterProgress, what: Received | VoxspoolError) -> Iterator[News]:
        """Yield what an entry of a chapter's job means."""
        number = hearing.chapter.number
        try:
            if isinstance(what, VoxspoolError):
                raise what
            entry = what.entry
            raise_for(entry)
            if isinstance(entry, Begin):
                hearing.sample_rate = entry.sample_rate
            elif isinstance(entry, Mark) and hearing.take(entry):
                yield BookSegment(number, entry, hearing.sample_rate, entry.segment < self._marked.get(number, 0))
            elif isinstance(entry, End):
                yield ChapterSpoken(number, self._keep(hearing))
        except VoxspoolError as error:
            self.given_up[number] = error
            yield ChapterGivenUp(number, error)

    def _keep(self, hearing: _ChapterProgress) -> Track:
        """Make a track of what was heard, and keep it."""
        chapter = hearing.chapter
        track = chapter.track(hearing.marks, hearing.sample_rate, self._store)
        check_whole(track)
        self.tracks[chapter.number] = track
        self._folder.keep_track(track, self._digests[chapter.number])
        return track

    def _find_or_put(self, chapter: PlannedChapter, on_busy: Callable[[BusyError], None]) -> str:
        """Enqueue a chapter, unless it is; give its job. What failed or lacks a segment is begun under another id."""
        stem = f"{self.id}-{chapter.number}-{self._digests[chapter.number]}"
        for attempt in range(1, MAX_TRIES + 1):
            job = f"{stem}-{attempt}"
            state = self._state(job, chapter.number)
            if state in ("queued", "running") or (state == "ended" and not self._heard_whole(chapter.number)):
                return job
            if state == "unknown" and self._put(chapter, job, on_busy):
                return job
        raise SpeechFailedError(f"chapter {chapter.number} failed {MAX_TRIES} times this week; see the workers' logs")

    def _state(self, job: str, number: int) -> str:
        """Return the state of a job, and note its progress; `unknown` if there is no job."""
        try:
            found = self._client.speech(job).status()
        except UnknownJobError:
            found = None
        self._marked[number] = found.segments_done if found else 0
        return found.state if found else "unknown"

    def _heard_whole(self, number: int) -> bool:
        """Whether an earlier run heard a chapter to its end: then what it lacks is not to be had from the same job."""
        return self._folder.track(number, self._digests[number]) is not None

    def _put(self, chapter: PlannedChapter, job: str, on_busy: Callable[[BusyError], None]) -> bool:
        """Put a chapter into its queue, as soon as there is room; False where its id is taken."""
        spec = chapter.spec(job, self._options, self._store.id)
        while True:
            try:
                return self._jobs.place(spec)
            except BusyError as busy:
                on_busy(busy)
                time.sleep(busy.retry_after_s)
