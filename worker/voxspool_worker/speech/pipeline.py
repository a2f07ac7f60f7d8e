"""One job from start to end: its spec -> segments -> chunks in the order of the text -> entries of its stream.

It runs in the job's own thread and mostly waits; the engine computes in another. It knows the order of events, but not
RQ, leases or scripts. Every way out of `tell` except a lost claim leaves a terminal entry in the stream. A speech and a
chapter of a book begin, continue and end in the same way: `tell` does it for both, and a JobKind adds the difference.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import numpy as np
from redis.exceptions import RedisError

from voxspool import workers
from voxspool.errors import InvalidJobError, MissingExtraError, UnknownEngineError, VoxspoolError
from voxspool.protocol.jobs import AUTO, DEFAULT_KEEP_S, engine_of, is_engine_name
from voxspool.protocol.stream import STATES, Audio, Begin, Cancelled, End, Failed, Mark
from voxspool_worker import text
from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError, SpeechSegment, SpokenSegment
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.speech.publisher import (
    AlreadyRunningError,
    ClosedError,
    LostWritesError,
    NeedsOtherWorkerError,
    Publisher,
    Scripts,
    WrongEngineError,
)
from voxspool_worker.speech.reader_progress import ReaderProgress
from voxspool_worker.speech.scheduler import EngineLostError, Work
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from redis import Redis

    from voxspool.protocol.jobs import JobSpec
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.speech.publisher import Resume
    from voxspool_worker.speech.scheduler import Lane, Scheduler

log = logging.getLogger(__name__)

MAX_DEATHS: Final = 2
"""A job that so many workers died of, in one segment, is set aside: one death may be chance, and each costs a model's
load and its neighbours' wait."""
MAX_ENTRY_S: Final = 1.0
"""Longest audio in one entry, in seconds: 48 KB at 24 kHz. A reader that stops has at most this much too much."""
LOOK_S: Final = 1.0
"""How often a waiting job looks at its token though nobody woke it, in seconds."""


class SpeechGivenUpError(VoxspoolError):
    """The job failed in a way that its stream has been told; the message is the sentence that stands there."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Observer(Protocol):
    """Who is told what jobs come to, as it happens, from the threads of all jobs: the worker's metrics."""

    def voice_ready(self, prepared: Prepared) -> None:
        """A job's voice was made ready."""

    def first_audio(self, after_s: float) -> None:
        """A run published its first audio."""

    def audio(self, duration_s: float) -> None:
        """An audio entry was published."""

    def segment_done(self, mark: Mark) -> None:
        """A mark entry was published."""

    def job_ended(self, end: End) -> None:
        """An end entry was published."""


class JobKind(Protocol):
    """What one kind of job is: how it is cut, and how its segments come to be marked."""

    max_deaths: int
    """A job that so many workers died of, in one segment, is set aside."""

    def plan(self, at: JobRun) -> list[SpeechSegment]:
        """Cut the job into segments; none where there is nothing to say.

        Raises VoxspoolError for a job that cannot be spoken, NeedsOtherWorkerError for one that others can.
        """

    def say(self, at: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Publish what comes of these segments, in their order, with a mark for each."""

    def ended(self, at: JobRun, end: End) -> None:
        """Take note of how it ended, and say so in the log's one line of it."""


@dataclass(slots=True)
class JobRun:
    """One run of one job, and what it has measured so far."""

    spec: JobSpec
    run: JobExecution
    worker: str
    token: CancelToken
    publisher: Publisher
    reader_progress: ReaderProgress
    on_segment: Callable[[], None]
    started: float = field(default_factory=time.monotonic)
    prepared: Prepared | None = None
    """None where nothing was left to say."""
    first_chunk_s: float | None = None
    first_pos: int = 0
    """Where this run began, in samples."""
    work_before: Work = field(default_factory=Work)
    """The engine's work before the first segment was submitted."""
    chunks: int = 0
    characters: int = 0
    spoken_again: int = 0
    faults: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def publish_mark(self, mark: Mark) -> None:
        """Publish that a segment is complete, and count it."""
        self.publisher.publish(mark)
        self.characters += 0 if mark.reused else mark.end - mark.start
        self.spoken_again += mark.tries > 1 and not mark.reused
        self.faults += bool(mark.fault)
        self.on_segment()


class Pipeline:
    """Speaks jobs with one engine. Shared by all job threads; holds no job's state."""

    def __init__(self, engine: Engine, scheduler: Scheduler, redis: Redis, observer: Observer) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._observer = observer
        self._scripts = Scripts(redis)

    def speak(
        self,
        spec: JobSpec,
        run: JobExecution,
        worker: str,
        token: CancelToken,
        on_segment: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Speak a job to its end, from wherever an earlier run left it; give a summary.

        `on_segment` is told of each segment that is complete. A job that MAX_DEATHS workers died of is not spoken.

        Raises what `tell` raises.
        """
        return self.tell(self.speaking(spec, run, worker, token, on_segment), _Speech(self, self._observer))

    def speaking(
        self, spec: JobSpec, run: JobExecution, worker: str, token: CancelToken, on_segment: Callable[[], None]
    ) -> JobRun:
        """Prepare a run; nothing is asked yet."""
        reader_progress = ReaderProgress(self._scripts.redis, spec)
        publisher = Publisher(
            self._scripts, run, spec.keep_s, lambda wait_s: _stand_still(wait_s, token, reader_progress)
        )
        return JobRun(spec, run, worker, token, publisher, reader_progress, on_segment)

    def tell(self, at: JobRun, telling: JobKind) -> dict[str, Any]:
        """Continue a job where an earlier run left it, up to its end. Return a summary.

        Raises AlreadyRunningError if another run holds the job; WrongEngineError or NeedsOtherWorkerError if another
        worker must run it; EndedEarlyError if it was cancelled, handed back or fenced off; SpeechGivenUpError if it
        failed; RedisError if Redis does not answer: then nothing is decided, and the job is rescued later.
        """
        spec, publisher = at.spec, at.publisher
        try:
            return self._tell(at, telling)
        except ClosedError as closed:
            return _as_it_ended(spec.id, str(closed))
        except EndedEarlyError as ended:
            _close_early(ended, publisher)
            raise
        except (
            AlreadyRunningError,
            WrongEngineError,
            NeedsOtherWorkerError,
            LostWritesError,
            EngineLostError,
            RedisError,
        ):
            raise
        except Exception as error:
            given_up = _given_up(error)
            publisher.publish(Failed(publisher.pos, given_up.code, str(given_up), retryable=False))
            raise given_up from error

    def refuse(self, run: JobExecution, worker: str, error: InvalidJobError, wait: Callable[[float], None]) -> None:
        """Close the stream of a job that cannot even be read, so that whoever follows it learns why.

        `wait` spends seconds in which Redis has no memory.
        """
        publisher = Publisher(self._scripts, run, DEFAULT_KEEP_S, wait)
        begin = self._begin_entry("", "", 0)
        facts = self._facts(worker, begin)
        try:
            try:
                publisher.begin(begin, facts)
            except WrongEngineError as elsewhere:
                publisher.begin(_as_begun(begin, elsewhere), facts)
        except ClosedError:
            return
        publisher.publish(Failed(publisher.pos, error.code, str(error), retryable=False))

    def _tell(self, at: JobRun, telling: JobKind) -> dict[str, Any]:
        """Claim, say, end."""
        spec, problem = at.spec, None
        segments: list[SpeechSegment] = []
        voice, language = spec.voice or "", spec.language or ""
        if at.run.deaths >= telling.max_deaths:
            self._set_aside(at, self._begin_entry(voice, language, spec.seed))
        try:
            segments = telling.plan(at)
            if segments:
                voice, language = segments[0].voice.name, segments[0].language
        except NeedsOtherWorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again below: only the owner of the stream may say so there
            problem = error
            self._pass_on(at, error)
        begin = self._begin_entry(voice, language, spec.seed)
        resume = self._begin(at, begin, self._facts(at.worker, begin) | _said_of(spec, len(segments)))
        if problem:
            raise problem
        at.reader_progress.look()
        log.info("job.begin job=%s attempt=%d segments=%d voice=%s", spec.id, resume.attempt, len(segments), voice)
        at.first_pos = resume.pos
        if left := segments[resume.segment :]:
            telling.say(at, left)
        end = self._end_entry(at, len(segments))
        at.publisher.publish(end)
        telling.ended(at, end)
        return {"state": STATES[End.type], "duration_s": end.duration_s, "segments": len(segments)}

    def _set_aside(self, at: JobRun, begin: Begin) -> NoReturn:
        """End a job that workers die of, before it meets the engine: not even its text is looked at."""
        resume = self._begin(at, begin, self._facts(at.worker, begin))
        raise SpeechGivenUpError(
            "poison",
            f"{at.run.deaths} workers in a row died in segment {resume.segment} of this speech, so it is set aside; "
            "see their logs, change the passage or the voice, and enqueue it under a new id",
        )

    def _begin(self, at: JobRun, begin: Begin, facts: dict[str, str | int]) -> Resume:
        """Claim the stream, if this engine may go on with it.

        Raises WrongEngineError where it began with another engine. Where it began with ours at another rate, no queue
        would tell the worker that could go on from those that cannot: the stream is closed with SpeechGivenUpError.
        """
        rate = self._engine.sample_rate
        try:
            return at.publisher.begin(begin, facts)
        except WrongEngineError as elsewhere:
            if elsewhere.engine != self._engine.name and is_engine_name(elsewhere.engine):
                raise
            at.publisher.begin(_as_begun(begin, elsewhere), facts)
            raise SpeechGivenUpError(
                "engine",
                f"the speech began at {elsewhere.sample_rate} Hz and the worker that should go on has {rate} Hz; "
                "enqueue it under a new id, and name a voice",
            ) from elsewhere

    def _pass_on(self, at: JobRun, error: Exception) -> None:
        """Leave a job to others where it lacks only what a live worker of them has.

        Raises NeedsOtherWorkerError if another worker of this engine can read the language and this one cannot,
        WrongEngineError if the job was in the queue `auto` and a worker of another engine can speak it.
        """
        if not isinstance(error, InvalidJobError | MissingExtraError):
            return
        able = {card.engine for card in workers.live(self._scripts.redis) if card.could_speak(at.spec)}
        if isinstance(error, MissingExtraError) and self._engine.name in able:
            raise NeedsOtherWorkerError(str(error)) from error
        if engine_of(at.run.queue) != AUTO:
            return
        if others := able - {self._engine.name}:
            raise WrongEngineError(min(others - {workers.LAST} or others)) from error

    def prepare(self, at: JobRun, segment: SpeechSegment) -> None:
        """Make the job's voice ready, in the job's own thread, so that nobody else waits for it."""
        at.prepared = self._engine.prepare(segment.voice)
        self._observer.voice_ready(at.prepared)
        log.debug("voice.ready job=%s source=%s seconds=%.4g", at.spec.id, at.prepared.source, at.prepared.seconds)

    def plan(self, spec: JobSpec, run: str) -> list[SpeechSegment]:
        """Cut a job into segments; none where there is nothing to say.

        Raises UnknownEngineError, UnknownVoiceError or UnknownLanguageError.
        """
        check_engine(spec, self._engine)
        voice = catalog.find(spec.voice, self._engine.voices, self._engine.name, spec.language)
        language = voice.language(spec.language)
        pieces = text.split(spec.text, language, self._engine.limits(language))
        return [
            SpeechSegment(
                run, index, piece.text, piece.start, piece.end, piece.pause_s,
                voice, language, spec.speed, segment_seed(spec.seed, index),
            )
            for index, piece in enumerate(pieces)
        ]  # fmt: skip

    def say(self, at: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Publish the audio of these segments in the order of the text, with a mark behind each."""
        at.work_before = self._scheduler.work
        window_s = at.spec.window_s
        window_samples = None if window_s is None else window_s * self._engine.sample_rate
        lane = self._scheduler.submit(at.run.id, at.spec.priority, segments, window_samples)
        at.token.on_end(lane.wake)
        try:
            chunks = in_order(_heard(lane, at), [segment.index for segment in segments])
            for segment in segments:
                lane.silent_samples += self._say_one(at, segment, chunks)
        finally:
            at.token.on_end(lambda: None)
            self._scheduler.drop(at.run.id)

    def _say_one(self, at: JobRun, segment: SpeechSegment, chunks: Iterator[AudioChunk]) -> int:
        """Publish one segment: its audio, the pause after it, its mark. Give the pause, in samples."""
        start, last = at.publisher.pos, False
        spoken: SpokenSegment | None = None
        while not last:
            chunk = next(chunks)
            self._publish_audio(at, chunk.pcm)
            spoken, last = chunk.spoken, chunk.last
        pause = np.zeros(round(segment.pause_s * self._engine.sample_rate), np.int16)
        self._publish_audio(at, pause)
        mark = mark_of(segment, start, at.publisher.pos, spoken or SpokenSegment(segment.seed))
        at.publish_mark(mark)
        self._observer.segment_done(mark)
        return len(pause)

    def _publish_audio(self, at: JobRun, pcm: npt.NDArray[np.int16]) -> None:
        """Publish samples, shape (n,), in entries of at most MAX_ENTRY_S."""
        rate = self._engine.sample_rate
        most = round(MAX_ENTRY_S * rate)
        if at.publisher.pos + len(pcm) > at.spec.max_audio_s * rate:
            raise SpeechGivenUpError(
                "too-long",
                f"the speech is longer than {at.spec.max_audio_s} s, the limit for {len(at.spec.text)} characters; "
                "split the text; if it is short, the engine did not stop",
            )
        for first in range(0, len(pcm), most):
            part = pcm[first : first + most]
            at.publisher.publish(Audio(at.publisher.pos, part.astype("<i2", copy=False).tobytes()))
            at.chunks += 1
            self._observer.audio(len(part) / rate)
            if at.first_chunk_s is None:
                at.first_chunk_s = at.elapsed_s
                self._observer.first_audio(at.first_chunk_s)

    def _end_entry(self, at: JobRun, segments: int) -> End:
        """Sum up a run."""
        rate, pos, elapsed_s = self._engine.sample_rate, at.publisher.pos, at.elapsed_s
        said_s = (pos - at.first_pos) / rate if at.chunks else 0.0
        rows = self._scheduler.work.mean_rows(at.work_before) if at.prepared else None
        return End(
            pos,
            pos / rate,
            segments,
            first_chunk_s=_brief(at.first_chunk_s),
            real_time_factor=_brief(elapsed_s / said_s if said_s else None),
            elapsed_s=_brief(elapsed_s),
            characters_per_s=_brief(at.characters / elapsed_s if at.characters else None),
            chunks=at.chunks,
            voice_source=at.prepared.source if at.prepared else "",
            rows=_brief(rows),
            spoken_again=at.spoken_again,
            faults=at.faults,
        )

    def _begin_entry(self, voice: str, language: str, seed: int) -> Begin:
        """Describe an attempt with this engine."""
        engine = self._engine
        return Begin(0, engine.sample_rate, engine.name, engine.model, voice, language, seed)

    @staticmethod
    def _facts(worker: str, begin: Begin) -> dict[str, str | int]:
        """Return who speaks, for `status`."""
        return {"worker": worker, "voice": begin.voice}


class _Speech:
    """The telling of a speech: its audio goes into the stream as it is made."""

    max_deaths = MAX_DEATHS

    def __init__(self, pipeline: Pipeline, observer: Observer) -> None:
        self._pipeline = pipeline
        self._observer = observer

    def plan(self, at: JobRun) -> list[SpeechSegment]:
        """Cut its text."""
        return self._pipeline.plan(at.spec, at.run.id)

    def say(self, at: JobRun, segments: Sequence[SpeechSegment]) -> None:
        """Speak with the engine's rows."""
        self._pipeline.prepare(at, segments[0])
        self._pipeline.say(at, segments)

    def ended(self, at: JobRun, end: End) -> None:
        """Measure it."""
        self._observer.job_ended(end)
        log.info("job.end %s", end_line(at.spec, at.prepared, end))


def check_engine(spec: JobSpec, engine: Engine) -> None:
    """Refuse a job that names another engine. Raises UnknownEngineError."""
    if spec.engine not in (AUTO, engine.name):
        raise UnknownEngineError(f"this worker speaks with {engine.name}, not {spec.engine}")


def _said_of(spec: JobSpec, segments: int) -> dict[str, str | int]:
    """Return what `status` shows of a job, and what tells its readers to acknowledge."""
    asked = {"live_s": spec.live_s, "window_s": spec.window_s}
    said: dict[str, str | int] = {"segments": segments}
    return said | {name: value for name, value in asked.items() if value is not None}


def _stand_still(wait_s: float, token: CancelToken, reader_progress: ReaderProgress) -> None:
    """Wait for Redis to have room, without using up the job's time. Raises EndedEarlyError."""
    token.stand_still(wait_s)
    reader_progress.look()


def _as_begun(begin: Begin, elsewhere: WrongEngineError) -> Begin:
    """Return the begin entry of an attempt that only says why the speech cannot go on."""
    return dataclasses.replace(begin, engine=elsewhere.engine, sample_rate=elsewhere.sample_rate or begin.sample_rate)


def _given_up(error: Exception) -> SpeechGivenUpError:
    """Put into one sentence why a job failed. What we did not foresee stays in the worker's log."""
    if isinstance(error, VoxspoolError):
        return SpeechGivenUpError(error.code, str(error))
    if isinstance(error, SegmentError):
        return SpeechGivenUpError("engine", str(error))
    log.error("job.error", exc_info=error)
    sentence = f"the worker failed unexpectedly ({type(error).__name__}); its log has the details"
    return SpeechGivenUpError("internal", sentence)


def _as_it_ended(job: str, state: str) -> dict[str, Any]:
    """End a run as an earlier one did, which died before it could say so to the queue."""
    log.info("job.closed job=%s state=%s", job, state)
    if state == STATES["failed"]:
        raise SpeechGivenUpError("failed", "an earlier run failed; its stream says why")
    if state == STATES["cancelled"]:
        raise EndedEarlyError(Reason.CANCELLED)
    return {"state": state}


def segment_seed(seed: int, index: int) -> int:
    """Derive a segment's seed from its job's: 32 bits, the same for ever, unrelated for neighbours."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/{index}".encode(), digest_size=4).digest(), "little")


def _close_early(ended: EndedEarlyError, publisher: Publisher) -> None:
    """Close the stream of a job that ended early. A job that continues elsewhere is not over: its stream stays open."""
    if ended.reason is Reason.CANCELLED:
        publisher.publish(Cancelled(publisher.pos, ended.by or publisher.cancelled_by() or "a stop command"))
    elif ended.reason is Reason.TIMED_OUT:
        sentence = "the job took longer than its time limit; split the text, or start more workers"
        publisher.publish(Failed(publisher.pos, "timeout", sentence, retryable=True))


def _heard(lane: Lane, at: JobRun) -> Iterator[AudioChunk]:
    """Yield chunks as the engine makes them; end as the token, the readers or the engine say."""
    while True:
        wait_s, held = min(LOOK_S, at.token.remaining_s), lane.far_ahead
        heard = lane.get(wait_s)
        if held and heard is None:
            at.token.give_back(wait_s)  # it waits for its reader; one that never comes back ends it as unread
        at.token.check()
        at.reader_progress.look()
        lane.read_samples = max(0, at.reader_progress.pos - at.first_pos)
        if isinstance(heard, Exception):
            raise heard
        if heard is not None:
            yield heard


def in_order(chunks: Iterator[AudioChunk], order: list[int]) -> Iterator[AudioChunk]:
    """Yield chunks in the order of their segments, holding back those of later ones."""
    held: dict[int, list[AudioChunk]] = {index: [] for index in order}
    for index in order:
        ready = held.pop(index)
        yield from ready
        done = bool(ready) and ready[-1].last
        while not done:
            chunk = next(chunks)
            if chunk.segment == index:
                yield chunk
                done = chunk.last
            else:
                held[chunk.segment].append(chunk)


def mark_of(segment: SpeechSegment, pos: int, end_pos: int, spoken: SpokenSegment) -> Mark:
    """Describe a segment that is complete, and how it came out."""
    return Mark(
        pos, end_pos, segment.index, segment.start, segment.end, spoken.seed, tries=spoken.tries, fault=spoken.fault
    )


def end_line(spec: JobSpec, prepared: Prepared | None, end: End) -> str:
    """Return the one log line of a job that ended: what its end entry says, and the voice. Never its text."""
    measured = {
        "job": spec.id,
        "audio_s": _brief(end.duration_s),
        "elapsed_s": end.elapsed_s,
        "first_chunk_s": end.first_chunk_s,
        "real_time_factor": end.real_time_factor,
        "characters": len(spec.text),
        "characters_per_s": end.characters_per_s,
        "segments": end.segments,
        "chunks": end.chunks,
        "rows": end.rows,
        "voice_source": end.voice_source,
        "voice_s": _brief(prepared.seconds if prepared else None),
        "spoken_again": end.spoken_again,
        "faults": end.faults,
    }
    return " ".join(f"{name}={'-' if value in (None, '') else value}" for name, value in measured.items())


def _brief(value: float | None) -> float | None:
    """Return a measurement to four digits: more are noise, and an entry is short."""
    return None if value is None else float(f"{value:.4g}")
