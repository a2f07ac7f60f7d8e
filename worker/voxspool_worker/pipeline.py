"""One job, start to end: its spec -> segments -> chunks in text order -> entries.

Runs in the job's own thread and waits there; the engine computes elsewhere. Knows the order of things and nothing of
RQ, leases or Lua. Every way out of `speak` but a lost claim leaves a terminal entry in the stream.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from redis.exceptions import RedisError

from voxspool.errors import InvalidJobError, UnknownEngineError, VoxspoolError
from voxspool.protocol.jobs import AUTO, DEFAULT_KEEP_S
from voxspool.protocol.stream import STATES, Audio, Begin, Cancelled, End, Failed, Mark
from voxspool_worker import text, voices
from voxspool_worker.engines.base import Chunk, Segment, SegmentError
from voxspool_worker.publisher import ClosedError, HeldError, LostWritesError, Publisher, Scripts
from voxspool_worker.scheduler import EngineLostError
from voxspool_worker.token import EndedEarlyError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from redis import Redis

    from voxspool.protocol.jobs import JobSpec
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.runs import Run
    from voxspool_worker.scheduler import Lane, Scheduler
    from voxspool_worker.token import Token

log = logging.getLogger(__name__)

MAX_ENTRY_S: Final = 1.0
"""Longest audio in one entry, in seconds: 48 KB at 24 kHz. A reader that stops has at most this much too much."""
LOOK_S: Final = 1.0
"""How often a waiting job looks at its token though nobody woke it, in seconds."""


class SpeechGivenUpError(VoxspoolError):
    """The job failed in a way that its stream has been told; the message is the sentence that stands there."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(slots=True)
class _Speaking:
    """One run of one job, and what it has measured so far."""

    spec: JobSpec
    run: Run
    worker: str
    token: Token
    publisher: Publisher
    started: float = field(default_factory=time.monotonic)
    first_chunk_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started


class Pipeline:
    """Speaks jobs with one engine. Shared by all job threads; holds no job's state."""

    def __init__(self, engine: Engine, scheduler: Scheduler, redis: Redis) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._scripts = Scripts(redis)

    def speak(self, spec: JobSpec, run: Run, worker: str, token: Token) -> dict[str, Any]:
        """Speak a job to its end, from wherever an earlier run left it; give a summary.

        Raises HeldError where another run holds the job,
        EndedEarlyError where it was cancelled, handed back or fenced off, SpeechGivenUpError where it failed, and
        whatever Redis raises when it is not there: then nothing is decided and the job is brought back later.
        """
        publisher = Publisher(self._scripts, run, spec.keep_s)
        try:
            return self._speak(_Speaking(spec, run, worker, token, publisher))
        except ClosedError as closed:
            return _as_it_ended(spec.id, str(closed))
        except EndedEarlyError as ended:
            _close_early(ended, publisher)
            raise
        except (HeldError, LostWritesError, EngineLostError, RedisError):
            raise
        except Exception as error:
            given_up = _given_up(error)
            publisher.publish(Failed(publisher.pos, given_up.code, str(given_up), retryable=False))
            raise given_up from error

    def refuse(self, run: Run, worker: str, error: InvalidJobError) -> None:
        """Close the stream of a job that cannot even be read, so that whoever follows it learns why."""
        publisher = Publisher(self._scripts, run, DEFAULT_KEEP_S)
        begin = self._begin_entry("", "", 0)
        try:
            publisher.begin(begin, self._facts(worker, begin, 0))
        except ClosedError:
            return
        publisher.publish(Failed(publisher.pos, error.code, str(error), retryable=False))

    def _speak(self, at: _Speaking) -> dict[str, Any]:
        """Claim, say, end."""
        spec, problem = at.spec, None
        segments: list[Segment] = []
        voice, language = spec.voice or "", spec.language or ""
        try:
            segments = self.plan(spec, at.run.id)
            if segments:
                voice, language = segments[0].voice.name, segments[0].language
        except Exception as error:  # noqa: BLE001 - raised again below: only the owner of the stream may say so there
            problem = error
        begin = self._begin_entry(voice, language, spec.seed)
        resume = at.publisher.begin(begin, self._facts(at.worker, begin, len(segments)))
        if problem:
            raise problem
        log.info("job.begin job=%s attempt=%d segments=%d", spec.id, resume.attempt, len(segments))
        self._say(at, segments[resume.segment :])
        return self._end(at, resume.pos, len(segments))

    def plan(self, spec: JobSpec, run: str) -> list[Segment]:
        """Cut a job into segments; none where there is nothing to say.

        Raises UnknownEngineError, UnknownVoiceError or UnknownLanguageError.
        """
        if spec.engine not in (AUTO, self._engine.name):
            raise UnknownEngineError(f"this worker speaks with {self._engine.name}, not {spec.engine}")
        voice = voices.find(spec.voice, self._engine.voices, self._engine.name)
        language = voice.language(spec.language)
        pieces = text.split(spec.text, language, self._engine.limits(language))
        return [
            Segment(
                run, index, piece.text, piece.start, piece.end, piece.pause_s,
                voice, language, spec.speed, segment_seed(spec.seed, index),
            )
            for index, piece in enumerate(pieces)
        ]  # fmt: skip

    def _say(self, at: _Speaking, segments: list[Segment]) -> None:
        """Publish the audio of these segments in the order of the text, with a mark behind each."""
        publisher = at.publisher
        lane = self._scheduler.submit(at.run.id, at.spec.priority, segments)
        at.token.on_end(lane.wake)
        try:
            chunks = in_order(_heard(lane, at.token), [segment.index for segment in segments])
            for segment in segments:
                start = publisher.pos
                for chunk in chunks:
                    self._publish_audio(at, chunk.pcm)
                    if chunk.last:
                        break
                silence = np.zeros(round(segment.pause_s * self._engine.sample_rate), np.int16)
                self._publish_audio(at, silence)
                publisher.publish(Mark(start, publisher.pos, segment.index, segment.start, segment.end, segment.seed))
        finally:
            at.token.on_end(lambda: None)
            self._scheduler.drop(at.run.id)

    def _publish_audio(self, at: _Speaking, pcm: npt.NDArray[np.int16]) -> None:
        """Publish samples, shape (n,), in entries of at most MAX_ENTRY_S."""
        most = round(MAX_ENTRY_S * self._engine.sample_rate)
        for first in range(0, len(pcm), most):
            part = pcm[first : first + most]
            at.publisher.publish(Audio(at.publisher.pos, part.astype("<i2", copy=False).tobytes()))
            if at.first_chunk_s is None:
                at.first_chunk_s = at.elapsed_s

    def _end(self, at: _Speaking, first_pos: int, segments: int) -> dict[str, Any]:
        """Close the stream and say what it took."""
        rate, pos = self._engine.sample_rate, at.publisher.pos
        said_s = (pos - first_pos) / rate
        factor = at.elapsed_s / said_s if said_s else None
        at.publisher.publish(End(pos, pos / rate, segments, at.first_chunk_s, factor))
        log.info(
            "job.end job=%s seconds=%.2f elapsed=%.2f first_chunk=%s real_time_factor=%s characters=%d",
            at.spec.id, pos / rate, at.elapsed_s, _short(at.first_chunk_s), _short(factor), len(at.spec.text),
        )  # fmt: skip
        return {"state": STATES[End.type], "duration_s": pos / rate, "segments": segments}

    def _begin_entry(self, voice: str, language: str, seed: int) -> Begin:
        """Describe an attempt with this engine."""
        engine = self._engine
        return Begin(0, engine.sample_rate, engine.name, engine.model, voice, language, seed)

    def _facts(self, worker: str, begin: Begin, segments: int) -> dict[str, str | int]:
        """Say what `status` shows of a running job."""
        return {
            "worker": worker,
            "engine": begin.engine,
            "voice": begin.voice,
            "sample_rate": begin.sample_rate,
            "segments": segments,
        }


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
    """Tell the stream of a job that ended early; a job that goes on elsewhere is not over and says nothing."""
    if ended.reason is Reason.CANCELLED:
        publisher.publish(Cancelled(publisher.pos, ended.by or publisher.cancelled_by() or "a stop command"))
    elif ended.reason is Reason.TIMED_OUT:
        sentence = "the job took longer than its time limit; split the text, or start more workers"
        publisher.publish(Failed(publisher.pos, "timeout", sentence, retryable=True))


def _heard(lane: Lane, token: Token) -> Iterator[Chunk]:
    """Give chunks as the engine makes them; end as the token or the engine says."""
    while True:
        heard = lane.get(min(LOOK_S, token.remaining_s))
        token.check()
        if isinstance(heard, Exception):
            raise heard
        if heard is not None:
            yield heard


def in_order(chunks: Iterator[Chunk], order: list[int]) -> Iterator[Chunk]:
    """Give chunks in the order of their segments, holding back those of later ones."""
    held: dict[int, list[Chunk]] = {index: [] for index in order}
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


def _short(value: float | None) -> str:
    """Write a measurement for a log line."""
    return "-" if value is None else f"{value:.3f}"
