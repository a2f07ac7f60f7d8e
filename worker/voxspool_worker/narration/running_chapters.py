"""List the chapters whose segments this process may speak: first its own, then those of other workers, oldest first.

This process plans another worker's chapter again from its job; equal digests show that both plans are the same.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxspool.errors import VoxspoolError
from voxspool.protocol.narration import ChapterSpec
from voxspool_worker.narration.segment_plan import plan_chapter
from voxspool_worker.narration.segment_queue import SegmentQueue, narrated_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.jobs.cancellation import RowClock
    from voxspool_worker.narration.segment_plan import SegmentPlan
    from voxspool_worker.narration.segment_queue import SegmentScripts
    from voxspool_worker.narration.store_handle import StoreHandle


@dataclass(slots=True)
class RunningChapter:
    """A chapter whose segments are being spoken."""

    job: str
    plan: SegmentPlan
    segment_queue: SegmentQueue
    on_segment: Callable[[], None] = lambda: None
    """Called when this process has recorded the outcome of one of its segments."""
    clock: RowClock | None = None
    """Runs while a segment has a row of this process; None for another worker's chapter."""


class RunningChapters:
    """The list of chapters. Any thread may call `add` and `remove`; only one thread at a time may call the rest."""

    def __init__(
        self, engine: Engine, scripts: SegmentScripts, store_handle: StoreHandle, argument_of: Callable[[str], object]
    ) -> None:
        """Create an empty list; `argument_of` returns the argument of a job."""
        self._engine = engine
        self._scripts = scripts
        self._store_handle = store_handle
        self._argument_of = argument_of
        self._own: dict[str, RunningChapter] = {}
        self._lock = threading.Lock()
        self._others: dict[str, RunningChapter | None] = {}
        """Chapters of other workers; None for one that this process cannot speak."""

    def add(self, chapter: RunningChapter) -> None:
        """Add a chapter of this worker."""
        with self._lock:
            self._own[chapter.job] = chapter

    def remove(self, chapter: RunningChapter) -> None:
        """Remove a chapter of this worker, unless a later run of the same job has replaced it."""
        with self._lock:
            if self._own.get(chapter.job) is chapter:
                del self._own[chapter.job]

    def exclude(self, chapter: RunningChapter) -> None:
        """Do not yield a chapter again unless it is this worker's own: it has ended, or its plan differs."""
        self._others[chapter.job] = None

    def in_order(self) -> Iterator[RunningChapter]:
        """Yield the chapters in the order in which to speak them. Raises RedisError once its own are yielded."""
        with self._lock:
            own = dict(self._own)
        yield from own.values()
        running = narrated_jobs(self._scripts.redis, self._engine.name)
        self._others = {job: chapter for job, chapter in self._others.items() if job in running}
        for job in running:
            if job not in own and (other := self._other(job)):
                yield other

    def _other(self, job: str) -> RunningChapter | None:
        """Return the chapter of another worker, or None if it cannot be spoken here; plan it at the first call."""
        if job not in self._others:
            self._others[job] = self._planned(job)
        return self._others[job]

    def _planned(self, job: str) -> RunningChapter | None:
        """Plan the chapter of another worker; return None if this worker lacks its store, voice or language."""
        try:
            chapter = ChapterSpec.decode(self._argument_of(job))
            if chapter.store != self._store_handle.id:
                return None
            plan = plan_chapter(chapter, self._engine, job)
        except VoxspoolError:
            return None
        return RunningChapter(job, plan, SegmentQueue(self._scripts, job, self._engine.name, plan.digest))
