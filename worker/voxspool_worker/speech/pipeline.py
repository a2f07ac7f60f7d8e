"""Run a job on its stream: claim the stream, publish the segments that are missing, end the stream.

A run uses the thread of its job. This module defines the order of events; it uses neither RQ nor leases. When a job has
ended, its stream has an end, failed or cancelled entry; a run that lost its claim writes nothing. Speeches and chapters
of books run in the same way; a JobKind implements the difference.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from voxspool import workers
from voxspool.errors import InvalidJobError, MissingExtraError, VoxspoolError
from voxspool.protocol.jobs import AUTO, DEFAULT_KEEP_S, engine_of, is_engine_name
from voxspool.protocol.stream import STATES, Begin, Cancelled, End, Failed
from voxspool_worker.engines.base import SegmentError
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.speech import summary
from voxspool_worker.speech.job_run import JobRun, SpeechGivenUpError
from voxspool_worker.speech.live_workers import live_workers
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
from voxspool_worker.speech.scheduler import EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    from voxspool.protocol.jobs import JobSpec
    from voxspool_worker.engines.base import Engine, SpeechSegment
    from voxspool_worker.jobs.cancellation import CancelToken
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.speech.job_run import JobKind
    from voxspool_worker.speech.publisher import Resume

log = logging.getLogger(__name__)


class Pipeline:
    """Runs jobs on their streams, for one engine. All job threads share it; it has no state of a single job."""

    def __init__(self, engine: Engine, redis: Redis, worker: str, steady_s: Callable[[], float] = lambda: 0.0) -> None:
        """Load the scripts. `worker` is the name of the worker, which the status of its jobs shows.

        `steady_s` returns Redis's time in seconds if its clock is known to be steady, else 0.
        """
        self._steady_s = steady_s
        self._engine = engine
        self._worker = worker
        self._scripts = Scripts(redis)

    def prepare(
        self, spec: JobSpec, run: JobExecution, token: CancelToken, on_segment: Callable[[], None] = lambda: None
    ) -> JobRun:
        """Return a run that has not begun. Send nothing to Redis yet."""
        reader_progress = ReaderProgress(self._scripts.redis, spec)

        def wait_for_memory(wait_s: float) -> None:
            token.stand_still(wait_s)
            reader_progress.look()

        publisher = Publisher(self._scripts, run, spec.keep_s, wait_for_memory)
        return JobRun(spec, run, token, publisher, reader_progress, on_segment)

    def run(self, job: JobRun, kind: JobKind) -> dict[str, Any]:
        """Run a job to its end, from where an earlier run left it. Return a summary for RQ's result.

        Raises AlreadyRunningError if another run holds the job; WrongEngineError or NeedsOtherWorkerError if another
        worker must run it; EndedEarlyError if it was cancelled, handed back or fenced off; SpeechGivenUpError if it
        failed; RedisError if Redis does not answer: then no outcome is recorded, and the job is recovered later.
        """
        try:
            with _ending_the_stream(job.publisher):
                segments, resume = self._claim(job, kind)
                if missing := segments[resume.segment :]:
                    kind.speak(job, missing)
                end = summary.end_entry(job, len(segments), self._engine.sample_rate)
                job.publisher.publish(end)
                kind.ended(job, end)
                return {"state": STATES[End.type], "duration_s": end.duration_s, "segments": len(segments)}
        except ClosedError as closed:
            return _earlier_outcome(job, str(closed))

    def refuse(self, run: JobExecution, error: InvalidJobError, wait: Callable[[float], None]) -> None:
        """Close the stream of a job that cannot be read, so that its readers get the reason.

        `wait` is called with the seconds to wait while Redis has no memory.
        """
        publisher = Publisher(self._scripts, run, DEFAULT_KEEP_S, wait)
        begin = self._begin_entry("", "")
        facts = self._facts(begin)
        try:
            try:
                publisher.begin(begin, facts)
            except WrongEngineError as elsewhere:
                publisher.begin(_as_begun(begin, elsewhere), facts)
        except ClosedError:
            return
        publisher.publish(Failed(publisher.pos, error.code, str(error), retryable=False))

    def _claim(self, job: JobRun, kind: JobKind) -> tuple[list[SpeechSegment], Resume]:
        """Split a job into segments and claim its stream. Return all segments, and where the run continues.

        The stream is claimed also for a job that cannot be planned: only the owner of a stream may write why.
        """
        spec, problem = job.spec, None
        segments: list[SpeechSegment] = []
        voice, language = spec.voice or "", spec.language or ""
        try:
            segments = kind.plan(job)
            if segments:
                voice, language = segments[0].voice.name, segments[0].language
        except NeedsOtherWorkerError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again below, when the stream is claimed
            problem = error
            self._pass_on(job, error)
        begin = self._begin_entry(voice, language, spec)
        resume = self._begin(job, begin, self._facts(begin) | _requested(spec, len(segments)))
        if problem:
            raise problem
        job.reader_progress.begin(job.token.stand_still, self._steady_s())
        log.info("job.begin job=%s attempt=%d segments=%d voice=%s", spec.id, resume.attempt, len(segments), voice)
        job.first_pos = resume.pos
        return segments, resume

    def _begin(self, job: JobRun, begin: Begin, facts: dict[str, str | int]) -> Resume:
        """Claim the stream if this engine can continue it.

        Raises WrongEngineError if the stream began with another engine. If it began with this engine at another sample
        rate, no queue leads to a worker that can continue it: closes the stream and raises SpeechGivenUpError.
        """
        rate = self._engine.sample_rate
        try:
            return job.publisher.begin(begin, facts)
        except WrongEngineError as elsewhere:
            if elsewhere.engine != self._engine.name and is_engine_name(elsewhere.engine):
                raise
            job.publisher.begin(_as_begun(begin, elsewhere), facts)
            raise SpeechGivenUpError(
                "engine",
                f"the speech began at {elsewhere.sample_rate} Hz, but the worker that continues it has {rate} Hz; "
                "enqueue it again, and name a voice",
            ) from elsewhere

    def _pass_on(self, job: JobRun, error: Exception) -> None:
        """Leave a job to other workers if this worker cannot speak it but a live one can.

        Raises NeedsOtherWorkerError if another worker of this engine can read the language and this one cannot,
        WrongEngineError if the job was in the queue `auto` and a worker of another engine can speak it.
        """
        if not isinstance(error, InvalidJobError | MissingExtraError):
            return
        live = live_workers(self._scripts.redis, job.token.stand_still)
        able = {card.engine for card in live if card.could_speak(job.spec)}
        if isinstance(error, MissingExtraError) and self._engine.name in able:
            raise NeedsOtherWorkerError(str(error)) from error
        if engine_of(job.run.queue) != AUTO:
            return
        if others := able - {self._engine.name}:
            raise WrongEngineError(min(others - {workers.LAST} or others)) from error

    def _begin_entry(self, voice: str, language: str, spec: JobSpec | None = None) -> Begin:
        """Return the begin entry of an attempt with this engine."""
        engine = self._engine
        seed, meta = (spec.seed, spec.meta) if spec else (0, None)
        return Begin(0, engine.sample_rate, engine.name, engine.model, voice, language, seed, meta=meta)

    def _facts(self, begin: Begin) -> dict[str, str | int]:
        """Return what `status` shows about the attempt: the worker and the voice."""
        return {"worker": self._worker, "voice": begin.voice}


@contextmanager
def _ending_the_stream(publisher: Publisher) -> Iterator[None]:
    """Write a failed or cancelled entry for an error in the block, and raise the error again.

    After some errors another run continues; they leave the stream open. Unforeseen errors become SpeechGivenUpError.
    """
    try:
        yield
    except EndedEarlyError as ended:
        _close_early(ended, publisher)
        raise
    except (
        AlreadyRunningError, ClosedError, WrongEngineError, NeedsOtherWorkerError, LostWritesError, EngineLostError,
        RedisError,
    ):  # fmt: skip
        raise
    except Exception as error:
        given_up = _given_up(error)
        publisher.publish(Failed(publisher.pos, given_up.code, str(given_up), retryable=False))
        raise given_up from error


def _close_early(ended: EndedEarlyError, publisher: Publisher) -> None:
    """Close the stream of a job that ended early. The stream of a job that continues elsewhere stays open."""
    if ended.reason is Reason.CANCELLED:
        ended.by = ended.by or publisher.cancelled_by() or "a stop command"  # the worker's log names it too
        publisher.publish(Cancelled(publisher.pos, ended.by))
    elif ended.reason is Reason.TIMED_OUT:
        sentence = "the engine needed longer for the job than its time limit; split the text"
        publisher.publish(Failed(publisher.pos, "timeout", sentence, retryable=True))


def _given_up(error: Exception) -> SpeechGivenUpError:
    """Return why a job failed, in one sentence. The details of an unforeseen error are only logged."""
    if isinstance(error, VoxspoolError):
        return SpeechGivenUpError(error.code, str(error))
    if isinstance(error, SegmentError):
        return SpeechGivenUpError("engine", str(error))
    log.error("job.error", exc_info=error)
    sentence = f"the worker failed unexpectedly ({type(error).__name__}); its log has the details"
    return SpeechGivenUpError("internal", sentence)


def _earlier_outcome(job: JobRun, state: str) -> dict[str, Any]:
    """End a run whose stream an earlier run closed, with the earlier outcome: that run died before it could record it.

    Raises SpeechGivenUpError or EndedEarlyError if the earlier run failed or was cancelled.
    """
    log.info("job.closed job=%s state=%s", job.spec.id, state)
    if state == STATES["failed"]:
        raise SpeechGivenUpError("failed", "an earlier run failed; its stream says why")
    if state == STATES["cancelled"]:
        raise EndedEarlyError(Reason.CANCELLED, job.publisher.cancelled_by())
    return {"state": state}


def _requested(spec: JobSpec, segments: int) -> dict[str, str | int]:
    """Return what `status` shows about a job, and the options by which its readers know that they must acknowledge."""
    asked = {"live_s": spec.live_s, "window_s": spec.window_s}
    facts: dict[str, str | int] = {"segments": segments}
    return facts | {name: value for name, value in asked.items() if value is not None}


def _as_begun(begin: Begin, elsewhere: WrongEngineError) -> Begin:
    """Return the begin entry of an attempt that only closes the stream; it has the engine and rate of the stream."""
    return dataclasses.replace(begin, engine=elsewhere.engine, sample_rate=elsewhere.sample_rate or begin.sample_rate)
