"""Speak a speech: its text -> segments -> chunks in the order of the text -> audio and mark entries.

This code runs in the thread of the job and mostly waits; the engine computes in its own thread.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from voxspool.errors import UnknownEngineError
from voxspool.protocol.jobs import AUTO
from voxspool.protocol.stream import Audio, Mark
from voxspool_worker import text
from voxspool_worker.engines.base import AudioChunk, SpeechSegment, SpokenSegment
from voxspool_worker.jobs.cancellation import RowClock
from voxspool_worker.speech import summary
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from voxspool.protocol.jobs import JobSpec
    from voxspool.protocol.stream import End
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.speech.job_run import JobRun
    from voxspool_worker.speech.observer import Observer
    from voxspool_worker.speech.scheduler import Lane, Scheduler

    Pcm = npt.NDArray[np.int16]

log = logging.getLogger(__name__)

MAX_DEATHS: Final = 2
"""Number of workers that may die in one segment of a speech before the job is marked failed. One death may be chance;
each one costs the load of a model and delays the jobs beside it."""
MAX_ENTRY_S: Final = 1.0
"""Longest audio in one entry, in seconds: 48 KB at 24 kHz. A reader that stops receives at most this much in excess."""
POLL_TOKEN_S: Final = 1.0
"""Polling interval of a waiting job for its cancel token, in seconds. Normally the token wakes the job."""
WINDOW_POLL_S: Final = 0.1
"""Polling interval of a job that has audio and waits for its reader, in seconds."""


class SegmentCache(Protocol):
    """Audio of segments that were spoken before. Its methods raise nothing: a segment without audio is spoken."""

    def reseeded(self, segments: Iterable[SpeechSegment], seed: int) -> list[SpeechSegment]:
        """Return the segments with seeds that depend on their text and not on their position."""

    def find(self, segments: Iterable[SpeechSegment]) -> set[int]:
        """Return the indexes of the segments that need not be spoken: stored ones, and repetitions of earlier ones."""

    def read(self, segment: SpeechSegment) -> tuple[Pcm, SpokenSegment] | None:
        """Return the samples of a segment, shape (n,), and how it was spoken; None if there is no audio of it."""

    def write(self, segment: SpeechSegment, pcm: Pcm, spoken: SpokenSegment) -> None:
        """Store a segment that was spoken, samples of shape (n,)."""


class SpeechJob:
    """The job kind of a speech: its audio is published while it is made. It has no state of a single job."""

    def __init__(self, engine: Engine, scheduler: Scheduler, observer: Observer, cache: SegmentCache) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._observer = observer
        self._cache = cache

    def plan(self, job: JobRun) -> list[SpeechSegment]:
        """Split the text of the speech into segments."""
        segments = plan_speech(job.spec, job.run.id, self._engine)
        return self._cache.reseeded(segments, job.spec.seed) if job.spec.reuse else segments

    def speak(self, job: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Publish the audio of these segments in the order of the text, with a mark after each."""
        self._prepare_voice(job, segments[0])
        before = self._scheduler.work
        window_s = job.spec.window_s
        window_samples = None if window_s is None else window_s * self._engine.sample_rate
        known = self._cache.find(segments) if job.spec.reuse else set()
        missing = [segment for segment in segments if segment.index not in known]
        with RowClock(job.token) as clock:
            lane = self._scheduler.submit(
                job.run.id, job.spec.priority, missing, window_samples, clock=clock, suspect=bool(job.run.deaths)
            )
            job.token.on_end(lane.wake)
            try:
                chunks = in_order(_received(lane, job), [segment.index for segment in missing])
                for segment in segments:
                    if segment.index in known:
                        lane.silent_samples += self._publish_known(job, segment, lane)
                    else:
                        lane.silent_samples += self._publish_segment(job, segment, chunks)
            finally:
                job.token.on_end(lambda: None)
                self._scheduler.drop(job.run.id)
        job.mean_rows = self._scheduler.work.mean_rows(before)

    def ended(self, job: JobRun, end: End) -> None:
        """Count and log a speech that is complete."""
        self._observer.job_ended(end)
        log.info("job.end %s", summary.end_line(job, end))

    def _prepare_voice(self, job: JobRun, segment: SpeechSegment) -> None:
        """Prepare the voice of the job in the job's own thread, so that no other job waits for it."""
        job.prepared = self._engine.prepare(segment.voice)
        self._observer.voice_ready(job.prepared)
        log.debug("voice.ready job=%s source=%s seconds=%.4g", job.spec.id, job.prepared.source, job.prepared.seconds)

    def _publish_segment(self, job: JobRun, segment: SpeechSegment, chunks: Iterator[AudioChunk]) -> int:
        """Publish one segment: its audio, the pause after it, its mark. Return the length of the pause in samples."""
        start, last = job.publisher.pos, False
        spoken: SpokenSegment | None = None
        parts: list[Pcm] = []
        while not last:
            chunk = next(chunks)
            self._publish_audio(job, chunk.pcm)
            spoken, last = chunk.spoken, chunk.last
            if job.spec.reuse:
                parts.append(chunk.pcm)
        pause_samples = self._publish_end(job, segment, start, spoken or SpokenSegment(segment.seed))
        if parts:
            self._cache.write(segment, np.concatenate(parts), spoken or SpokenSegment(segment.seed))
        return pause_samples

    def _publish_known(self, job: JobRun, segment: SpeechSegment, lane: Lane) -> int:
        """Publish a segment that was spoken before. Return its length with the pause after it, in samples.

        If its audio is gone, or cannot be read, it is spoken.
        """
        while lane.far_ahead:
            job.token.stand_still(WINDOW_POLL_S)
            _look_at_reader(lane, job)
        job.token.check()
        _look_at_reader(lane, job)
        start, found = job.publisher.pos, self._cache.read(segment)
        if found is None:
            self._speak_alone(job, segment, lane)
        else:
            self._publish_audio(job, found[0])
            self._publish_end(job, segment, start, found[1], reused=True)
        return job.publisher.pos - start

    def _speak_alone(self, job: JobRun, segment: SpeechSegment, others: Lane) -> None:
        """Speak and publish one segment, as a job of its own for the scheduler. `others` is the lane of the rest."""
        alone = replace(segment, job=f"{segment.job}/{segment.index}")
        with RowClock(job.token) as clock:
            lane = self._scheduler.submit(alone.job, job.spec.priority, [alone], clock=clock)
            job.token.on_end(lane.wake)
            try:
                self._publish_segment(job, alone, in_order(_received(lane, job), [alone.index]))
            finally:
                job.token.on_end(others.wake)
                self._scheduler.drop(alone.job)

    def _publish_end(
        self, job: JobRun, segment: SpeechSegment, start: int, spoken: SpokenSegment, *, reused: bool = False
    ) -> int:
        """Publish the pause after a segment that began at sample `start`, and its mark. Return the pause in samples."""
        pause = np.zeros(round(segment.pause_s * self._engine.sample_rate), np.int16)
        self._publish_audio(job, pause)
        mark = mark_of(segment, start, job.publisher.pos, spoken, reused=reused)
        job.publish_mark(mark)
        if not reused:
            self._observer.segment_done(mark)
        return len(pause)

    def _publish_audio(self, job: JobRun, pcm: Pcm) -> None:
        """Publish samples, shape (n,), in entries of at most MAX_ENTRY_S."""
        rate = self._engine.sample_rate
        longest = round(MAX_ENTRY_S * rate)
        if job.publisher.pos + len(pcm) > job.spec.max_audio_s * rate:
            raise SpeechGivenUpError(
                "too-long",
                f"the speech is longer than {job.spec.max_audio_s} s, the limit for {len(job.spec.text)} characters; "
                "split the text; if it is short, the engine did not stop",
            )
        for first in range(0, len(pcm), longest):
            part = pcm[first : first + longest]
            job.publisher.publish(Audio(job.publisher.pos, part.astype("<i2", copy=False).tobytes()))
            job.chunks += 1
            self._observer.audio(len(part) / rate)
            if job.first_chunk_s is None:
                job.first_chunk_s = job.elapsed_s
                self._observer.first_audio(job.first_chunk_s)


def plan_speech(spec: JobSpec, run_id: str, engine: Engine) -> list[SpeechSegment]:
    """Split the text of a speech into segments of one run; the list is empty if there is nothing to speak.

    Raises UnknownEngineError, UnknownVoiceError or UnknownLanguageError.
    """
    check_engine(spec, engine)
    voice = catalog.find(spec.voice, engine.voices, engine.name, spec.language)
    language = voice.language(spec.language)
    pieces = text.split(spec.text, language, engine.limits(language))
    return [
        SpeechSegment(
            run_id, index, piece.text, piece.start, piece.end, piece.pause_s,
            voice, language, spec.speed, segment_seed(spec.seed, index),
        )
        for index, piece in enumerate(pieces)
    ]  # fmt: skip


def check_engine(spec: JobSpec, engine: Engine) -> None:
    """Raise UnknownEngineError for a job that names another engine."""
    if spec.engine not in (AUTO, engine.name):
        raise UnknownEngineError(f"this worker speaks with {engine.name}, not {spec.engine}")


def segment_seed(seed: int, index: int) -> int:
    """Return the seed of a segment, 32 bits: a hash of the job's seed and the index."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/{index}".encode(), digest_size=4).digest(), "little")


def in_order(chunks: Iterator[AudioChunk], order: list[int]) -> Iterator[AudioChunk]:
    """Yield chunks in the order of their segments; chunks of later segments are kept until their turn."""
    early: dict[int, list[AudioChunk]] = {index: [] for index in order}
    for index in order:
        ready = early.pop(index)
        yield from ready
        done = bool(ready) and ready[-1].last
        while not done:
            chunk = next(chunks)
            if chunk.segment == index:
                yield chunk
                done = chunk.last
            else:
                early[chunk.segment].append(chunk)


def mark_of(segment: SpeechSegment, pos: int, end_pos: int, spoken: SpokenSegment, *, reused: bool = False) -> Mark:
    """Return the mark of a complete segment; `pos` and `end_pos` are its first sample and the one after its last."""
    return Mark(
        pos, end_pos, segment.index, segment.start, segment.end, spoken.seed, spoken.tries, spoken.fault, reused=reused
    )


def _received(lane: Lane, job: JobRun) -> Iterator[AudioChunk]:
    """Yield chunks as the engine makes them. Raises the errors of the engine, and EndedEarlyError."""
    while True:
        received = lane.get(min(POLL_TOKEN_S, job.reader_progress.poll_s, job.token.remaining_s))
        job.token.check()
        _look_at_reader(lane, job)
        if isinstance(received, Exception):
            raise received
        if received is not None:
            yield received


def _look_at_reader(lane: Lane, job: JobRun) -> None:
    """Pass on how far the reader is. Raises EndedEarlyError if nobody has read the job for too long."""
    job.reader_progress.look()
    lane.read_samples = max(0, job.reader_progress.pos - job.first_pos)
