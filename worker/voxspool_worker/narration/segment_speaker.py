"""Speak one segment of a chapter with the engine, check its audio, speak it again if it has a fault, and store it.

Each segment is a job of its own for the scheduler, so a listener's job can get the row when the segment ends.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.errors import VoxspoolError
from voxspool.protocol.jobs import AUDIO_BASE_S, AUDIO_PER_CHAR_S
from voxspool.protocol.stream import Mark
from voxspool_worker.engines.base import SegmentError, SpokenSegment
from voxspool_worker.narration import audio_checks
from voxspool_worker.narration.segment_plan import seed_of
from voxspool_worker.narration.segment_queue import SegmentOutcome
from voxspool_worker.narration.store_handle import retry_store
from voxspool_worker.speech.scheduler import EngineLostError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    import numpy.typing as npt

    from voxspool_worker.engines.base import AudioChunk, Engine, SpeechSegment
    from voxspool_worker.narration.audio_checks import AudioMeasurements
    from voxspool_worker.narration.running_chapters import RunningChapter
    from voxspool_worker.narration.segment_queue import SegmentClaim
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.speech.observer import Observer
    from voxspool_worker.speech.scheduler import Lane, Scheduler

    Pcm = npt.NDArray[np.int16]

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""Largest number of attempts at a segment whose audio has a fault; then the attempt with the fewest faults is kept."""
CHUNK_WAIT_S: Final = 1.0
"""Longest wait for a chunk of audio, in seconds, before the thread checks whether it must stop."""


class SegmentDroppedError(Exception):
    """This process must stop speaking the segment: it was dropped."""


@dataclass(slots=True)
class ClaimedSegment:
    """A segment that this process holds, from its claim to its outcome."""

    chapter: RunningChapter
    claim: SegmentClaim
    holder: str
    """Identifies this claim: the holder of the lease in Redis, and the job's name at the scheduler."""
    lane: Lane | None = None
    dropped: bool = False

    @property
    def segment(self) -> SpeechSegment:
        """The segment as a job of its own."""
        return replace(self.chapter.plan.segments[self.claim.index], job=self.holder, live=False)

    @property
    def key(self) -> str:
        """The key of its audio in the store."""
        return self.chapter.plan.keys[self.claim.index]

    def drop(self) -> None:
        """Make the thread that speaks it raise SegmentDroppedError. May be called from any thread."""
        self.dropped = True
        if self.lane:
            self.lane.wake()


@dataclass(frozen=True, slots=True)
class SegmentAttempt:
    """The audio of a segment that was spoken once, and what was found in it."""

    pcm: Pcm
    """Samples, shape (n,)."""
    spoken: SpokenSegment
    measured: AudioMeasurements
    faults: list[str]
    """The worst first; empty if there are none."""
    elapsed_s: float
    """Seconds from the moment it got a row of the engine."""


class SegmentSpeaker:
    """Speaks claimed segments. All segment threads share it; it has no state of a single segment."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        store_handle: StoreHandle,
        observer: Observer,
        worker: str,
        stopping: threading.Event,
    ) -> None:
        """Store the parts. `worker` is the worker's name, for the store; `stopping` is set when the process ends."""
        self._engine = engine
        self._scheduler = scheduler
        self._store_handle = store_handle
        self._observer = observer
        self._worker = worker
        self._stopping = stopping

    def speak(self, claimed: ClaimedSegment) -> SegmentOutcome:
        """Speak a segment and store it, unless the store has it. Return its outcome, also if it could not be spoken.

        Raises SegmentDroppedError if the segment was dropped meanwhile, and EngineLostError if the engine does not work
        any more or the process ends.
        """
        index = claimed.claim.index
        try:
            return self._find(claimed) or self._store(claimed, self._attempts(claimed))
        except SegmentError as error:
            log.warning("segment.unspeakable job=%s segment=%d error=%s", claimed.chapter.job, index, error)
            return SegmentOutcome(index, "engine", seed=claimed.segment.seed, tries=2)
        except VoxspoolError as error:  # the store fails, the voice was removed …: the next segment would fail, too
            return SegmentOutcome(index, error.code, fault=str(error))

    def _find(self, claimed: ClaimedSegment) -> SegmentOutcome | None:
        """Return the outcome of a segment that the store has: another worker may have been quicker."""
        store = self._store_handle.store()
        stored = retry_store(lambda: store.check(claimed.key), self._stopping.wait)
        return SegmentOutcome.found(claimed.claim.index, stored) if stored else None

    def _attempts(self, claimed: ClaimedSegment) -> list[SegmentAttempt]:
        """Speak a segment until an attempt is final, MAX_ATTEMPTS times at most. Return all attempts.

        Raises SegmentError if the engine cannot speak it at all.
        """
        attempts: list[SegmentAttempt] = []
        while len(attempts) < MAX_ATTEMPTS and not _is_final(attempts):
            try:
                attempts.append(self._attempt(claimed, len(attempts)))
            except SegmentError:
                if not attempts:
                    raise
                break
        return attempts

    def _attempt(self, claimed: ClaimedSegment, again: int) -> SegmentAttempt:
        """Speak a segment with the seed of its attempt number `again`; repeat it once if the engine fails."""
        segment = claimed.segment
        if again:
            segment = replace(segment, seed=seed_of(segment.seed, segment.voice.name, segment.text, again))
        self._prepare(segment)
        try:
            return self._speak_once(claimed, segment)
        except SegmentError as error:
            log.warning("segment.again job=%s segment=%d error=%s", claimed.chapter.job, segment.index, error)
            return self._speak_once(claimed, segment)

    def _prepare(self, segment: SpeechSegment) -> None:
        """Prepare the voice. Count it only if that took work: most segments have the voice of the one before."""
        prepared = self._engine.prepare(segment.voice)
        if prepared.source not in ("built-in", "memory"):
            self._observer.voice_ready(prepared)

    def _speak_once(self, claimed: ClaimedSegment, segment: SpeechSegment) -> SegmentAttempt:
        """Speak a segment with the engine, and check its audio.

        Raises SegmentError if the engine cannot speak it, or does not stop.
        """
        claimed.lane = lane = self._scheduler.submit(
            claimed.holder, "batch", [segment], clock=claimed.chapter.clock, suspect=bool(claimed.claim.deaths)
        )
        try:
            pcm, spoken = self._receive(claimed, lane, segment)
        finally:
            self._scheduler.drop(claimed.holder)
        elapsed_s = time.monotonic() - lane.first_row_at if lane.first_row_at else 0.0
        measured = audio_checks.measure(pcm, self._engine.sample_rate)
        faults = audio_checks.faults(measured, segment.text, segment.speed)
        if spoken.fault:
            faults = [spoken.fault, *(fault for fault in faults if fault != spoken.fault)]
        return SegmentAttempt(pcm, spoken, measured, faults, elapsed_s)

    def _receive(self, claimed: ClaimedSegment, lane: Lane, segment: SpeechSegment) -> tuple[Pcm, SpokenSegment]:
        """Return the complete audio of a segment, and its seed, attempts and fault."""
        limit_s = AUDIO_BASE_S + AUDIO_PER_CHAR_S * len(segment.text) / segment.speed
        parts: list[Pcm] = []
        samples = 0
        for chunk in self._chunks(claimed, lane):
            parts.append(chunk.pcm)
            samples += len(chunk.pcm)
            if samples > limit_s * self._engine.sample_rate:
                raise SegmentError(
                    segment, f"the output is longer than the text can explain: over {limit_s:.0f} s for one segment"
                )
            if chunk.last:
                break
        return np.concatenate(parts), chunk.spoken or SpokenSegment(segment.seed)

    def _chunks(self, claimed: ClaimedSegment, lane: Lane) -> Iterator[AudioChunk]:
        """Yield the chunks of a segment as the engine makes them; the caller stops at the last one.

        Raises the errors of the engine, SegmentDroppedError, and EngineLostError if the process ends.
        """
        while not self._stopping.is_set():
            event = None if claimed.dropped else lane.get(CHUNK_WAIT_S)
            if claimed.dropped:
                raise SegmentDroppedError
            if isinstance(event, Exception):
                raise event
            if event is not None:
                yield event
        raise EngineLostError("the worker ends")

    def _store(self, claimed: ClaimedSegment, attempts: list[SegmentAttempt]) -> SegmentOutcome:
        """Store the attempt with the fewest faults. Return the outcome that the store has, perhaps another worker's."""
        segment, best = claimed.segment, min(attempts, key=lambda one: len(one.faults))
        tries, elapsed_s = sum(one.spoken.tries for one in attempts), sum(one.elapsed_s for one in attempts)
        fault = best.faults[0] if best.faults else ""
        facts = {
            "key": claimed.key, "sample_rate": self._engine.sample_rate, "engine": self._engine.name,
            "model": self._engine.model, "voice": segment.voice.name, "language": segment.language,
            "seed": best.spoken.seed, "tries": tries, "fault": fault, "elapsed_s": round(elapsed_s, 4),
            "level_dbfs": best.measured.level_dbfs, "peak_dbfs": best.measured.peak_dbfs,
            "silent_share": round(best.measured.silent_share, 4), "worker": self._worker,
        }  # fmt: skip
        store = self._store_handle.store()
        stored = retry_store(lambda: store.write(best.pcm, **facts), self._stopping.wait)
        self._observer.audio(best.measured.duration_s)
        self._observer.segment_done(
            Mark(0, len(best.pcm), segment.index, segment.start, segment.end, best.spoken.seed, tries, fault)
        )
        return SegmentOutcome(segment.index, "spoken", stored.samples, stored.seed, stored.tries, stored.fault)


def _is_final(attempts: list[SegmentAttempt]) -> bool:
    """Return whether another attempt could not be better than the last one.

    That is so if it has no fault, if the engine has spoken it several times by itself, or if another seed did not
    change a sample.
    """
    if not attempts:
        return False
    last = attempts[-1]
    if not last.faults or (last.spoken.fault and last.spoken.tries > 1):
        return True
    return len(attempts) > 1 and np.array_equal(last.pcm, attempts[-2].pcm)
