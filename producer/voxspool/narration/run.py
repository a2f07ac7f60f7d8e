"""A narration while it runs: it enqueues a job for each chapter, follows the jobs' streams, and collects the tracks.

Workers do the work. A narration holds nothing that is not also in its folder, in Redis or in the store, so its command
may be stopped, killed and run again. `delivery` makes the files, and the CLI shows the progress.
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

LOOKUP_THREADS: Final = 16
"""Number of segments that are looked up in the store at the same time: a remote store takes 30 ms for each."""
MAX_ATTEMPTS: Final = 100
"""How often a chapter may fail or be cancelled and be enqueued again, while Redis keeps its earlier jobs (a week)."""


@dataclass(frozen=True, slots=True)
class BookSegment:
    """Event: a segment of a chapter was spoken, or found in the store."""

    number: int
    """The chapter's number."""
    mark: Mark
    sample_rate: int
    earlier: bool
    """True if the segment was spoken before this command started."""


@dataclass(frozen=True, slots=True)
class ChapterSpoken:
    """Event: a chapter is complete."""

    number: int
    track: Track


@dataclass(frozen=True, slots=True)
class ChapterGivenUp:
    """Event: a chapter failed or was cancelled."""

    number: int
    error: VoxspoolError


@dataclass(frozen=True, slots=True)
class Waiting:
    """Event: a second has passed without any other."""


NarrationEvent: TypeAlias = BookSegment | ChapterSpoken | ChapterGivenUp | Waiting


@dataclass(slots=True)
class _ChapterProgress:
    """What a chapter's job has published so far."""

    chapter: PlannedChapter
    sample_rate: int = 0
    marks: list[Mark] = field(default_factory=list)

    def add(self, mark: Mark) -> bool:
        """Add a mark; return False if an earlier attempt of the job has published it already."""
        if mark.segment < len(self.marks):
            return False
        self.marks.append(mark)
        return True


class Narration:
    """The narration of one book into one folder. Its segments are in one store."""

    def __init__(
        self, client: Client, folder: OutputFolder, name: str, title: str, options: NarrationOptions, store: Store,
        chapters: tuple[PlannedChapter, ...],
    ) -> None:  # fmt: skip
        """`name` is the narration's id. Nothing is sent to Redis yet."""
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
        """The tracks of the complete chapters."""
        self.loaded: frozenset[int] = frozenset()
        """The chapters that an earlier run completed."""
        self.given_up: dict[int, VoxspoolError] = {}
        """The chapters that failed or were cancelled, each with its error."""
        self.jobs: dict[int, str] = {}
        """The job of each chapter that was not complete when this command started."""
        self._segments_before: dict[int, int] = {}
        """The number of a chapter's segments that were spoken before this command started."""

    def load_tracks(self) -> None:
        """Load the chapters that an earlier run completed, if the store still has all their segments undamaged."""
        with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
            for number, digest in self._digests.items():
                track = self._folder.load_track(number, digest)
                if track and all(threads.map(self._is_stored, track.cues)):
                    self.tracks[number] = track
        self.loaded = frozenset(self.tracks)

    def enqueue(self, on_busy: Callable[[BusyError], None]) -> None:
        """Enqueue the chapters that are not complete and have no job yet.

        While a queue is full it waits. `on_busy` is called before each wait.
        """
        for number, chapter in self.chapters.items():
            if number not in self.tracks:
                self.jobs[number] = self._find_or_enqueue(chapter, on_busy)
        record = NarrationRecord(self._title, socket.gethostname(), str(self._folder.path), tuple(self.jobs.values()))
        self._jobs.record(self.id, record)

    def events(self) -> Iterator[NarrationEvent]:
        """Yield what happens to the chapters, until each is complete or given up."""
        progress = {job: _ChapterProgress(self.chapters[number]) for number, job in self.jobs.items()}
        for received in self._jobs.read(list(progress)):
            if received is None:
                yield Waiting()
            else:
                job, entry = received
                yield from self._handle(progress[job], entry)

    def _is_stored(self, cue: Cue) -> bool:
        """Return whether a segment was spoken and is in the store undamaged."""
        return cue.stored is not None and self._store.check(cue.stored.key) is not None

    def _handle(self, progress: _ChapterProgress, received: Received | VoxspoolError) -> Iterator[NarrationEvent]:
        """Yield the events that follow from an entry of a chapter's job."""
        number = progress.chapter.number
        try:
            if isinstance(received, VoxspoolError):
                raise received
            entry = received.entry
            raise_for(entry)
            if isinstance(entry, Begin):
                progress.sample_rate = entry.sample_rate
            elif isinstance(entry, Mark) and progress.add(entry):
                earlier = entry.segment < self._segments_before.get(number, 0)
                yield BookSegment(number, entry, progress.sample_rate, earlier)
            elif isinstance(entry, End):
                yield ChapterSpoken(number, self._complete(progress))
        except VoxspoolError as error:
            self.given_up[number] = error
            yield ChapterGivenUp(number, error)

    def _complete(self, progress: _ChapterProgress) -> Track:
        """Make the track of a chapter whose job has ended, and save it. Raises StoreError if a segment is missing."""
        chapter = progress.chapter
        track = chapter.track(progress.marks, progress.sample_rate, self._store)
        check_whole(track)
        self.tracks[chapter.number] = track
        self._folder.save_track(track, self._digests[chapter.number])
        return track

    def _find_or_enqueue(self, chapter: PlannedChapter, on_busy: Callable[[BusyError], None]) -> str:
        """Return the job of a chapter; enqueue one if there is none that can complete the chapter.

        A failed or cancelled job cannot, nor one that has ended although the store now lacks a segment: then the
        chapter is enqueued under the next id.
        """
        stem = f"{self.id}-{chapter.number}-{self._digests[chapter.number]}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            job = f"{stem}-{attempt}"
            state = self._state(job, chapter.number)
            if state in ("queued", "running") or (state == "ended" and not self._was_completed(chapter.number)):
                return job
            if state == "unknown" and self._enqueue_job(chapter, job, on_busy):
                return job
        raise SpeechFailedError(
            f"chapter {chapter.number} failed {MAX_ATTEMPTS} times within a week; see the logs of the workers"
        )

    def _state(self, job: str, number: int) -> str:
        """Return the state of a job, `unknown` if it does not exist, and note its progress."""
        try:
            found = self._client.speech(job).status()
        except UnknownJobError:
            found = None
        self._segments_before[number] = found.segments_done if found else 0
        return found.state if found else "unknown"

    def _was_completed(self, number: int) -> bool:
        """Return whether an earlier run completed a chapter, so that its ended job has nothing more to offer."""
        return self._folder.load_track(number, self._digests[number]) is not None

    def _enqueue_job(self, chapter: PlannedChapter, job: str, on_busy: Callable[[BusyError], None]) -> bool:
        """Enqueue a chapter, and wait while the queue is full; return False if a job with this id exists."""
        spec = chapter.spec(job, self._options, self._store.id)
        while True:
            try:
                return self._jobs.place(spec)
            except BusyError as busy:
                on_busy(busy)
                time.sleep(busy.retry_after_s)
