"""The threads that claim segments of chapters, this worker's and other workers', speak them and report the outcomes.

Each thread holds one segment at a time. There is one thread for each row that batch work may use, and one more whose
segment waits, so that an engine with one row is never idle between two segments. Another thread renews the leases.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError

from voxspool.connections.connection import is_wrong_type
from voxspool_worker.narration.running_chapters import RunningChapters
from voxspool_worker.narration.segment_queue import LEASE_S, SegmentClaim, SegmentScripts, holder_prefix
from voxspool_worker.narration.segment_speaker import ClaimedSegment, SegmentDroppedError, SegmentSpeaker
from voxspool_worker.speech.scheduler import RESERVED_SHARE, EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.jobs.standing import Standing
    from voxspool_worker.narration.running_chapters import RunningChapter
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.speech.observer import Observer
    from voxspool_worker.speech.probation import Probation
    from voxspool_worker.speech.scheduler import Scheduler

log = logging.getLogger(__name__)

IDLE_POLL_S: Final = 1.0
"""Polling interval of a thread that finds no segment to speak, in seconds; also its wait after an error."""
GIVE_BACK_POLL_S: Final = 0.05
"""Polling interval while waiting for all threads to give their segments back, in seconds."""
RENEW_S: Final = LEASE_S / 3
"""Interval between two renewals of a lease, in seconds."""

_Result = TypeVar("_Result")


class SegmentWorkers:
    """All segment threads of a process."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        redis: Redis,
        store_handle: StoreHandle,
        observer: Observer,
        worker: str,
        standing: Standing,
        probation: Probation,
        *,
        argument_of: Callable[[str], object],
        expired_by: Callable[[], float],
    ) -> None:
        """Create the parts; `start` starts the threads.

        `argument_of` returns the argument of a job. `expired_by` returns Redis's time in seconds by which a lease must
        have ended to count as expired; 0: none counts now, because live workers may not have renewed theirs.
        """
        self._stopping = threading.Event()
        self._speaker = SegmentSpeaker(engine, scheduler, store_handle, observer, worker, self._stopping)
        self._chapters = RunningChapters(engine, SegmentScripts(redis), store_handle, argument_of)
        self._worker = worker
        self._standing = standing
        self._probation = probation
        self._rows = engine.rows
        self._store_handle = store_handle
        self._expired_by = expired_by
        self._held: dict[str, ClaimedSegment] = {}
        """The segments that are being spoken, by their holder."""
        self._held_lock = threading.Lock()
        self._claim_lock = threading.Lock()
        """Held by the one thread that looks for a segment."""
        self._unanswered: dict[str, tuple[RunningChapter, str]] = {}
        """Job -> its chapter and the holder of a claim whose reply is missing."""
        self._wake = threading.Event()
        self._closing = False
        self._noted = ""
        """The last error of Redis that was logged."""

    @property
    def busy(self) -> bool:
        """True if a segment is being spoken."""
        return bool(self._held)

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._rows - self._rows // RESERVED_SHARE + 1):
            threading.Thread(target=self._run, name=f"segment-{number}", daemon=True).start()
        threading.Thread(target=self._renew_leases, name="segment-leases", daemon=True).start()

    def stop(self) -> None:
        """End the threads within CHUNK_WAIT_S; the leases of their segments expire."""
        self._stopping.set()
        self._wake.set()

    def close(self) -> None:
        """Claim no more segments; the threads still speak those that they hold."""
        self._closing = True

    def give_back(self, deadline: float) -> None:
        """Claim no more segments, and drop the held ones, so that others can claim them at once.

        Wait for the threads until `deadline`, by the monotonic clock. Then give back the segments of threads that have
        not reacted, because they prepare a voice or wait for a store.
        """
        self._closing = True
        self._drop(self._snapshot())
        while self.busy and time.monotonic() < deadline:
            self._stopping.wait(GIVE_BACK_POLL_S)
        if self._expired_by():  # otherwise Redis may not answer, and each call would wait for it
            for held in self._snapshot():
                queue = held.chapter.segment_queue
                self._safely(functools.partial(queue.give_back, {held.claim.index: held.holder}))
            for chapter, holder in list(self._unanswered.values()):
                self._safely(functools.partial(chapter.segment_queue.give_back_claim, holder))

    def serve(self, chapter: RunningChapter) -> None:
        """Speak a chapter of this worker before those of others."""
        self._chapters.add(chapter)
        self._wake.set()

    def leave(self, chapter: RunningChapter) -> None:
        """Stop speaking a chapter of this worker; drop its segments that are held."""
        self._chapters.remove(chapter)
        self._drop([held for held in self._snapshot() if held.chapter is chapter])

    # -- a segment thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Speak one segment after another until the process ends: the body of a thread."""
        while held := self._next():
            try:
                self._speak(held)
            except EngineLostError:
                return  # not given back: the process ends, and the expired lease counts as a death
            finally:
                self._release(held)

    def _speak(self, held: ClaimedSegment) -> None:
        """Speak a segment and report its outcome, or give it back if it was dropped. Raises EngineLostError."""
        job, index, queue = held.chapter.job, held.claim.index, held.chapter.segment_queue
        try:
            outcome = self._speaker.speak(held)
            queue.end(outcome, held.holder)
            held.chapter.on_segment()
            if outcome.kind == "spoken":
                self._probation.completed()
        except EngineLostError:
            raise
        except SegmentDroppedError:
            self._safely(functools.partial(queue.give_back, {index: held.holder}))
        except RedisError as error:
            log.warning("redis.away job=%s error=%s", job, error)
        except Exception:
            log.exception("segment.error job=%s segment=%d", job, index)
            self._stopping.wait(IDLE_POLL_S)

    def _next(self) -> ClaimedSegment | None:
        """Wait for a segment; return None if the process ends."""
        with self._claim_lock:
            while not self._stopping.is_set():
                self._wake.clear()
                if held := self._safely(self._claim):
                    return held
                self._wake.wait(IDLE_POLL_S)
        return None

    def _claim(self) -> ClaimedSegment | None:
        """Claim a segment and return it, or return None if none may be claimed now.

        A segment in which a worker died is spoken alone, so that it is known as the cause of a second death: nothing
        else is claimed while it is held, or while it waits for the other segments to end.
        """
        before = self._snapshot()
        if self._closing or self._probation.wait_s or not self._store_handle.id:
            return None
        if any(held.claim.deaths for held in before):
            return None
        for chapter in self._chapters.in_order():
            mine = holder_prefix(self._worker) + uuid4().hex
            holder = self._unanswered.setdefault(chapter.job, (chapter, mine))[1]
            try:
                claim = chapter.segment_queue.claim(
                    holder, expired_by=self._expired_by(), alone=not before, standing=self._standing
                )
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                self._note(error)
                claim = "other"  # another program wrote its keys: its own run fails, other chapters go on
            self._unanswered.pop(chapter.job, None)
            if isinstance(claim, SegmentClaim):
                self._probation.claimed()
                return self._hold(ClaimedSegment(chapter, claim, holder))
            if claim == "suspect":
                return None
            if claim in ("over", "other"):
                self._chapters.exclude(chapter)
        self._unanswered.clear()  # these chapters have ended
        return None

    # -- the segments that are held --------------------------------------------------------------------------------

    def _hold(self, claimed: ClaimedSegment) -> ClaimedSegment:
        """Add a segment to those that are held; return it."""
        with self._held_lock:
            self._held[claimed.holder] = claimed
        if claimed.claim.deaths:
            log.warning(
                "segment.quarantined job=%s segment=%d deaths=%d",
                claimed.chapter.job, claimed.claim.index, claimed.claim.deaths,
            )  # fmt: skip
        return claimed

    def _release(self, held: ClaimedSegment) -> None:
        """Remove a segment from those that are held, and wake the thread that looks for the next."""
        with self._held_lock:
            self._held.pop(held.holder, None)
        self._wake.set()

    def _snapshot(self) -> list[ClaimedSegment]:
        """Return the segments that are held now."""
        with self._held_lock:
            return list(self._held.values())

    def _renew_leases(self) -> None:
        """Renew the leases of all held segments every RENEW_S seconds: the body of a thread."""
        while not self._stopping.wait(RENEW_S):
            self._renew_all()

    def _renew_all(self) -> None:
        """Renew the leases of all segments that are held, one chapter after another."""
        held_of: dict[int, list[ClaimedSegment]] = {}
        for held in self._snapshot():
            held_of.setdefault(id(held.chapter), []).append(held)
        for held_segments in held_of.values():
            self._safely(functools.partial(self._renew, held_segments))

    def _renew(self, held_segments: list[ClaimedSegment]) -> None:
        """Renew the leases of segments of one chapter; drop the segments that another worker holds meanwhile."""
        queue = held_segments[0].chapter.segment_queue
        lost = queue.renew({held.claim.index: held.holder for held in held_segments})
        self._drop([held for held in held_segments if held.claim.index in lost])

    @staticmethod
    def _drop(held_segments: list[ClaimedSegment]) -> None:
        for held in held_segments:
            held.drop()

    def _note(self, error: RedisError) -> None:
        """Log an error of Redis; one about a key of another type only once, because it comes back every second."""
        if not (is_wrong_type(error) and str(error) == self._noted):
            log.warning("redis.away job=- error=%s", error)
        self._noted = str(error)

    def _safely(self, act: Callable[[], _Result]) -> _Result | None:
        """Call `act` and return its result; on an error, log it and return None, so that the thread continues."""
        try:
            return act()
        except RedisError as error:
            self._note(error)
        except Exception:
            log.exception("segment.error")
        return None
