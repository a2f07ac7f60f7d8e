"""The threads that speak segments of chapters, of any worker's chapters: claim, speak, check, store.

Each segment worker is a thread with one segment at a time. There is one for each row that batch work may use, and one
more whose segment waits, so that an engine with one row never idles between two. Each segment is a job of its own for
the scheduler, so a listener's job gets the row at the next border. This module uses the segment queue, the store and
the scheduler; it knows neither streams nor RQ.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from uuid import uuid4

import numpy as np
from redis.exceptions import RedisError

from voxspool.errors import VoxspoolError
from voxspool.protocol.jobs import AUDIO_BASE_S, AUDIO_PER_CHAR_S
from voxspool.protocol.narration import ChapterSpec
from voxspool.protocol.stream import Mark
from voxspool_worker.engines.base import AudioChunk, SegmentError, SpokenSegment
from voxspool_worker.narration import audio_checks, segment_queue
from voxspool_worker.narration.segment_plan import Plan, plan, seed_of
from voxspool_worker.narration.segment_queue import Claimed, Outcome, SegmentQueue
from voxspool_worker.narration.store_handle import patiently
from voxspool_worker.speech.scheduler import RESERVED_SHARE, EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    from redis import Redis

    from voxspool.store.segments import Store, Stored
    from voxspool_worker.engines.base import Engine, SpeechSegment
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.speech.pipeline import Observer
    from voxspool_worker.speech.scheduler import Lane, Scheduler

    Pcm = npt.NDArray[np.int16]

log = logging.getLogger(__name__)

TRIES: Final = 3
"""How often a segment is spoken, at most, until nothing is wrong with it."""
LOOK_S: Final = 1.0
"""How often an idle worker looks for segments, in seconds."""
FREE_S: Final = 0.05
"""Polling interval while waiting for all segment workers to finish, in seconds."""
RENEW_S: Final = segment_queue.LEASE_S / 3
_Given = TypeVar("_Given")


class _DroppedError(Exception):
    """The segment in hand is wanted no more."""


@dataclass(slots=True)
class Chapter:
    """A running chapter, as those see it who speak it."""

    job: str
    plan: Plan
    segment_queue: SegmentQueue
    on_end: Callable[[], None] = lambda: None
    """Told when one of its segments was ended here."""


@dataclass(slots=True)
class _ClaimedSegment:
    """A segment in hand."""

    chapter: Chapter
    claimed: Claimed
    id: str
    """Who holds it, in the pool and at the scheduler."""
    lane: Lane | None = None
    dropped: bool = False

    @property
    def segment(self) -> SpeechSegment:
        """What it says, as a job of its own."""
        return replace(self.chapter.plan.segments[self.claimed.index], job=self.id, live=False)

    def drop(self) -> None:
        """Tell its thread that it is no longer wanted. From any thread."""
        self.dropped = True
        if self.lane:
            self.lane.wake()


class Try(NamedTuple):
    """What came of speaking a segment once."""

    pcm: Pcm
    heard: audio_checks.Heard
    faults: list[str]
    """The worst first."""
    spoken: SpokenSegment


class SegmentWorkers:
    """All segment workers of a process."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        redis: Redis,
        store_handle: StoreHandle,
        observer: Observer,
        worker: str,
        *,
        argument_of: Callable[[str], object],
        redis_is_new: Callable[[], bool],
    ) -> None:
        """Prepare; nothing is spoken before `start`.

        `argument_of` gives a job's argument; `redis_is_new` says whether leases may have run out as Redis was away.
        """
        self._engine = engine
        self._scheduler = scheduler
        self._scripts = segment_queue.Scripts(redis)
        self._store_handle = store_handle
        self._observer = observer
        self._worker = worker
        self._argument_of = argument_of
        self._redis_is_new = redis_is_new
        self._own: dict[str, Chapter] = {}
        self._others: dict[str, Chapter | None] = {}
        """Chapters of other workers; None for one that we cannot help with."""
        self._holds: dict[str, _ClaimedSegment] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        """Held by the thread that looks for a segment: one at a time."""
        self._wake = threading.Event()
        self._closing = False
        self._quit = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether there is a segment in hand."""
        return bool(self._holds)

    def start(self) -> None:
        """Start the threads."""
        rows = self._engine.rows
        for number in range(rows - rows // RESERVED_SHARE + 1):
            threading.Thread(target=self._work, name=f"segment-{number}", daemon=True).start()
        threading.Thread(target=self._renew, name="segment-leases", daemon=True).start()

    def stop(self) -> None:
        """End the threads, when they look."""
        self._quit.set()
        self._wake.set()

    def close(self) -> None:
        """Take no more segments; those in hand are spoken."""
        self._closing = True

    def give_back(self, limit_s: float) -> None:
        """Let others speak the segments in hand, now; wait until they may."""
        self._closing = True
        with self._lock:
            holds = list(self._holds.values())
        self._drop(holds)
        deadline = time.monotonic() + limit_s
        while self.busy and time.monotonic() < deadline:
            self._quit.wait(FREE_S)

    def segment_queue(self, job: str, digest: str) -> SegmentQueue:
        """Return a chapter's segment queue, by its plan's digest; without a digest it can only be closed."""
        return SegmentQueue(self._scripts, job, self._engine.name, digest)

    def serve(self, chapter: Chapter) -> None:
        """Speak a chapter of this worker, before others'."""
        with self._lock:
            self._own[chapter.job] = chapter
        self._wake.set()

    def leave(self, chapter: Chapter) -> None:
        """Speak no more of a chapter that this worker was serving; what is in hand is dropped."""
        with self._lock:
            if self._own.get(chapter.job) is chapter:
                del self._own[chapter.job]
            holds = [hold for hold in self._holds.values() if hold.chapter is chapter]
        self._drop(holds)

    # -- finding a segment -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Speak one segment after another: the body of a thread."""
        while hold := self._next():
            try:
                self._speak(hold)
            except EngineLostError:
                return  # its lease runs out: that is a death, as the process ends
            except _DroppedError:
                self._try(functools.partial(hold.chapter.segment_queue.give_back, {hold.claimed.index: hold.id}))
            except RedisError as error:
                log.warning("redis.away job=%s error=%s", hold.chapter.job, error)
            except Exception:
                log.exception("segment.error job=%s segment=%d", hold.chapter.job, hold.claimed.index)
                self._quit.wait(LOOK_S)
            finally:
                with self._lock:
                    self._holds.pop(hold.id, None)
                self._wake.set()

    def _next(self) -> _ClaimedSegment | None:
        """Wait for a segment; None where the worker ends."""
        with self._turn:
            while not self._quit.is_set():
                self._wake.clear()
                if hold := self._try(self._take):
                    return hold
                self._wake.wait(LOOK_S)
        return None

    def _take(self) -> _ClaimedSegment | None:
        """Claim a segment, if there is one and this is a time to.

        A suspect, of which a worker died, is taken alone: nothing is, while one is in hand, and nothing else where one
        waits until all segment workers are free.
        """
        with self._lock:
            holds = list(self._holds.values())
        if self._closing or not self._store_handle.id or any(hold.claimed.deaths for hold in holds):
            return None
        for chapter in self._chapters():
            claim = uuid4().hex
            said = chapter.segment_queue.claim(claim, count_deaths=not self._redis_is_new(), alone=not holds)
            if isinstance(said, Claimed):
                return self._hold(_ClaimedSegment(chapter, said, claim))
            if said == "suspect":
                return None
            if said in ("over", "other"):
                self._others[chapter.job] = None
        return None

    def _hold(self, hold: _ClaimedSegment) -> _ClaimedSegment:
        """Take note of a segment in hand."""
        with self._lock:
            self._holds[hold.id] = hold
        if hold.claimed.deaths:
            log.warning(
                "segment.quarantined job=%s segment=%d deaths=%d",
                hold.chapter.job, hold.claimed.index, hold.claimed.deaths,
            )  # fmt: skip
        return hold

    def _chapters(self) -> Iterator[Chapter]:
        """Yield the chapters to speak: this worker's, then others', the oldest first."""
        with self._lock:
            own = list(self._own.values())
        yield from own
        running = segment_queue.narrated(self._scripts.redis, self._engine.name)
        self._others = {job: chapter for job, chapter in self._others.items() if job in running}
        for job in running:
            if job in {chapter.job for chapter in own}:
                continue
            if job not in self._others:
                self._others[job] = self._find(job)
            if other := self._others[job]:
                yield other

    def _find(self, job: str) -> Chapter | None:
        """Plan another worker's chapter; None where we cannot help with it."""
        try:
            chapter = ChapterSpec.decode(self._argument_of(job))
            if chapter.store != self._store_handle.id:
                return None
            planned = plan(chapter, self._engine, job)
        except VoxspoolError:
            return None
        return Chapter(job, planned, self.segment_queue(job, planned.digest))

    # -- speaking it -----------------------------------------------------------------------------------------------

    def _speak(self, hold: _ClaimedSegment) -> None:
        """Speak a segment that is in hand, unless the store has it; say what came of it."""
        index = hold.claimed.index
        try:
            outcome = self._found(hold) or self._spoken(hold)
        except SegmentError as error:
            log.warning("segment.unspeakable job=%s segment=%d error=%s", hold.chapter.job, index, error)
            outcome = Outcome(index, "engine", seed=hold.segment.seed, tries=2)
        except VoxspoolError as error:  # the store refuses, the voice is gone …: no other segment would fare better
            outcome = Outcome(index, error.code, fault=str(error))
        hold.chapter.segment_queue.end(outcome)
        hold.chapter.on_end()

    def _found(self, hold: _ClaimedSegment) -> Outcome | None:
        """Return what the store has of a segment, if anything: another worker may have been quicker."""
        key, store = hold.chapter.plan.keys[hold.claimed.index], self._store_handle.store()
        found = patiently(lambda: store.check(key), self._quit.wait)
        return found_outcome(hold.claimed.index, found) if found else None

    def _spoken(self, hold: _ClaimedSegment) -> Outcome:
        """Speak a segment and keep it."""
        best, tries, elapsed_s = self._best(hold)
        return self._keep(hold, self._store_handle.store(), best, tries, elapsed_s)

    def _best(self, hold: _ClaimedSegment) -> tuple[Try, int, float]:
        """Speak a segment until nothing is wrong with it, TRIES times at most; give the best try, and what it took.

        An engine that checks what it says has tried again itself. Raises SegmentError where it fails twice, and nothing
        was said before.
        """
        tried: list[Try] = []
        tries, elapsed_s = 0, 0.0
        segment = hold.segment
        for again in range(TRIES):
            seed = seed_of(segment.seed, segment.voice.name, segment.text, again) if again else segment.seed
            try:
                one, spent_s = self._once(hold, replace(segment, seed=seed))
            except SegmentError:
                if tried:
                    break
                raise
            tries, elapsed_s = tries + one.spoken.tries, elapsed_s + spent_s
            tried.append(one)
            done = not one.faults or (one.spoken.fault and one.spoken.tries > 1)
            if done or (again and np.array_equal(one.pcm, tried[-2].pcm)):  # an engine that a seed does not change
                break
        return min(tried, key=lambda one: len(one.faults)), tries, elapsed_s

    def _once(self, hold: _ClaimedSegment, segment: SpeechSegment) -> tuple[Try, float]:
        """Speak a segment once, or twice where the engine fails; give the seconds that it took from its row on."""
        self._prepare(segment)
        try:
            pcm, spoken, spent_s = self._hear(hold, segment)
        except SegmentError as error:
            log.warning("segment.again job=%s segment=%d error=%s", hold.chapter.job, segment.index, error)
            pcm, spoken, spent_s = self._hear(hold, segment)
        heard = audio_checks.measure(pcm, self._engine.sample_rate)
        faults = audio_checks.faults(heard, segment.text, segment.speed)
        if spoken.fault:
            faults = [spoken.fault, *(fault for fault in faults if fault != spoken.fault)]
        return Try(pcm, heard, faults, spoken), spent_s

    def _prepare(self, segment: SpeechSegment) -> None:
        """Make a voice ready, and count it where that was work: for each segment it would be the last one's again."""
        prepared = self._engine.prepare(segment.voice)
        if prepared.source not in ("built-in", "memory"):
            self._observer.voice_ready(prepared)

    def _hear(self, hold: _ClaimedSegment, segment: SpeechSegment) -> tuple[Pcm, SpokenSegment, float]:
        """Have the engine speak; give the samples, how they came about and the seconds from its row on."""
        most_s = AUDIO_BASE_S + AUDIO_PER_CHAR_S * len(segment.text) / segment.speed
        parts: list[Pcm] = []
        hold.lane = lane = self._scheduler.submit(hold.id, "batch", [segment])
        try:
            for chunk in self._chunks(hold, lane):
                parts.append(chunk.pcm)
                if sum(map(len, parts)) > most_s * self._engine.sample_rate:
                    raise SegmentError(
                        segment, f"the output is longer than the text can explain: over {most_s:.0f} s for one segment"
                    )
                if chunk.last:
                    spoken = chunk.spoken or SpokenSegment(segment.seed)
                    return np.concatenate(parts), spoken, time.monotonic() - (lane.seated or time.monotonic())
        finally:
            self._scheduler.drop(hold.id)
        raise EngineLostError("the worker ends")

    def _chunks(self, hold: _ClaimedSegment, lane: Lane) -> Iterator[AudioChunk]:
        """Yield what the engine makes. Raises what it raises, and _DroppedError where nobody wants it any more."""
        while not self._quit.is_set():
            heard = None if hold.dropped else lane.get(LOOK_S)
            if hold.dropped:
                raise _DroppedError
            if isinstance(heard, Exception):
                raise heard
            if heard is not None:
                yield heard

    def _keep(self, hold: _ClaimedSegment, store: Store, best: Try, tries: int, elapsed_s: float) -> Outcome:
        """Put a segment into the store; say what its mark will say."""
        segment, fault = hold.segment, best.faults[0] if best.faults else ""
        about = {
            "key": hold.chapter.plan.keys[segment.index], "sample_rate": self._engine.sample_rate,
            "engine": self._engine.name, "model": self._engine.model, "voice": segment.voice.name,
            "language": segment.language, "seed": best.spoken.seed, "tries": tries, "fault": fault,
            "elapsed_s": round(elapsed_s, 4), "level_dbfs": best.heard.level_dbfs, "peak_dbfs": best.heard.peak_dbfs,
            "silent_share": round(best.heard.silent_share, 4), "worker": self._worker,
        }  # fmt: skip
        stored = patiently(lambda: store.write(best.pcm, **about), self._quit.wait)
        self._observer.audio(best.heard.duration_s)
        self._observer.segment_done(
            Mark(0, len(best.pcm), segment.index, segment.start, segment.end, best.spoken.seed, tries, fault)
        )
        return Outcome(segment.index, "spoken", stored.samples, stored.seed, stored.tries, stored.fault)

    # -- holding it ------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Renew the leases of what is in hand, again and again: the body of a thread."""
        while not self._quit.wait(RENEW_S):
            with self._lock:
                holds = list(self._holds.values())
            for shared in {id(hold.chapter): hold.chapter.segment_queue for hold in holds}.values():
                self._try(
                    functools.partial(self._renew_of, [hold for hold in holds if hold.chapter.segment_queue is shared])
                )

    def _renew_of(self, holds: list[_ClaimedSegment]) -> None:
        """Renew the leases of one chapter's segments; drop those that are another's by now."""
        lost = holds[0].chapter.segment_queue.renew({hold.claimed.index: hold.id for hold in holds})
        self._drop([hold for hold in holds if hold.claimed.index in lost])

    @staticmethod
    def _drop(holds: list[_ClaimedSegment]) -> None:
        for hold in holds:
            hold.drop()

    def _try(self, act: Callable[[], _Given]) -> _Given | None:
        """Do it; a Redis that is away is waited for."""
        try:
            return act()
        except RedisError as error:
            log.warning("redis.away job=- error=%s", error)
        except Exception:
            log.exception("segment.error")
        return None


def found_outcome(index: int, found: Stored) -> Outcome:
    """Return the outcome of a segment that is in the store."""
    return Outcome(index, "found", found.samples, found.seed, found.tries, found.fault)
