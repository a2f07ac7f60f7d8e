"""Place speeches: choose the queue of each, check its voice, and enqueue it, one or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voxspool.errors import UnknownJobError, UnknownVoiceError
from voxspool.protocol import voices
from voxspool.protocol.jobs import AUTO, JobSpec, queue_name
from voxspool.queue.enqueuer import Enqueuer, NewJob, Reply, taken
from voxspool.queue.routing import route
from voxspool.queue.stored_job import read_spec
from voxspool.queue.stored_voices import read_voices
from voxspool.reading.dialogue import run
from voxspool.reading.follow import ask_state
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from voxspool.protocol.narration import ChapterSpec
    from voxspool.protocol.voices import ClonedVoice, VoiceName
    from voxspool.workers import WorkerCard

KNOWN = "a job with this id exists already"


class ChosenQueue(NamedTuple):
    """Where a job is."""

    queue: str
    why: str
    """The rule that chose the queue, as text for people."""
    new: bool
    """False if its id had this speech already."""


class Placer:
    """Places jobs on one Redis. Threads may share it. Its methods raise redis.RedisError."""

    def __init__(self, redis: Redis, max_waiting: int) -> None:
        """`max_waiting` is the largest number of jobs that may wait in a queue."""
        self._redis = redis
        self._enqueuer = Enqueuer(redis, max_waiting)

    def live_workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, as they are now."""
        return self._enqueuer.live_workers()

    def place(self, specs: Sequence[JobSpec], wait_s: float) -> list[ChosenQueue]:
        """Enqueue speeches, waiting for room up to `wait_s` seconds; see Client.place_many."""
        live = self._live_for(specs)
        cloned = self._clones_for(specs, live)
        routes = [route(spec, live, cloned) for spec in specs]
        queues = [queue_name(chosen.engine, spec.priority) for spec, chosen in zip(specs, routes, strict=True)]
        for spec, queue in zip(specs, queues, strict=True):
            check_voice(spec, [card for card in live if queue in card.queues], cloned)
        jobs = [(NewJob.speech(spec), queue) for spec, queue in zip(specs, queues, strict=True)]
        replies = self._enqueuer.put_many(jobs, wait_s)
        return [
            ChosenQueue(queue, chosen.why, new=True) if reply is Reply.ENQUEUED else self._known(spec, reply)
            for spec, queue, chosen, reply in zip(specs, queues, routes, replies, strict=True)
        ]

    def place_chapter(self, chapter: ChapterSpec) -> bool:
        """Enqueue a chapter of a book; return False if its id has this chapter already.

        Raises BusyError, and JobExistsError if the id belongs to something else.
        """
        (reply,) = self._enqueuer.put_many([(NewJob.chapter(chapter), chapter.speech.queue)])
        if reply is Reply.OTHER or (reply is Reply.UNKNOWN and read_spec(self._redis, chapter.speech.id) != chapter):
            raise taken(chapter.speech.id)
        return reply is Reply.ENQUEUED

    def place_again(self, job: str) -> None:
        """Enqueue a job again that is over, from its record. Raises UnknownJobError if there is none."""
        found = read_spec(self._redis, job)
        if found is None:
            raise UnknownJobError(f"RQ has no record of job {job!r} any more; enqueue its text again")
        if isinstance(found, JobSpec):
            self.place([found], wait_s=0)
        else:
            self.place_chapter(found)

    def _known(self, spec: JobSpec, reply: Reply) -> ChosenQueue:
        """Return where the job is that has this id already. Raises JobExistsError if it is another speech."""
        if reply is Reply.UNKNOWN:
            there = read_spec(self._redis, spec.id)
            reply = Reply.SAME if isinstance(there, JobSpec) and spec.says_the_same(there) else Reply.OTHER
        if reply is Reply.OTHER:
            raise taken(spec.id)
        return ChosenQueue(run(ask_state(spec.id), self._redis).queue, KNOWN, new=False)

    def _live_for(self, specs: Sequence[JobSpec]) -> list[WorkerCard]:
        """Return the cards that routing needs: read now if a voice must be checked, else at most RECENT_S ago."""
        if any(spec.voice is not None for spec in specs):
            return self._enqueuer.live_workers()
        if any(spec.engine == AUTO for spec in specs):
            return self._enqueuer.recent_workers()
        return []

    def _clones_for(self, specs: Sequence[JobSpec], live: list[WorkerCard]) -> dict[str, ClonedVoice]:
        """Return the cloned voices, as Redis has them now, if a job's voice may be one of them; else nothing."""
        own = {voice for card in live for voice in card.voices}
        if all(spec.voice is None or spec.voice in own for spec in specs):
            return {}
        return read_voices(self._redis)


def check_voice(spec: JobSpec, serving: list[WorkerCard], cloned: Mapping[str, ClonedVoice]) -> None:
    """Check that a worker of the job's queue has its voice. Without any worker the job waits, unchecked.

    Raises UnknownVoiceError, and InvalidJobError for a mix of voices that cannot be parsed.
    """
    if spec.voice is None or not serving or any(spec.voice in card.voices for card in serving):
        return
    wanted = voices.parse(spec.voice)
    for card in serving:
        if card.clones and all(name in card.voices or name in cloned for name, _ in wanted.parts):
            return
    raise _unknown_voice(spec.voice, wanted, serving, cloned)


def _unknown_voice(
    asked: str, wanted: VoiceName, serving: list[WorkerCard], cloned: Mapping[str, ClonedVoice]
) -> UnknownVoiceError:
    """Return the error that names the unknown part of a voice, or says that no live worker mixes or clones voices."""
    own = {voice for card in serving for voice in card.voices}
    for name, _ in wanted.parts:
        if name not in own and name not in cloned:
            hint = did_you_mean(name, {*own, *cloned})
            return UnknownVoiceError(
                f"no live worker has a voice {name!r}{hint}; `voxspool voices` lists them{voices.how_to_get(name)}"
            )
    return UnknownVoiceError(
        f"voice {asked!r} is {'a mix' if wanted.mixed else 'cloned'}, and no live worker that takes the job can "
        f"speak it; start one: voxspool-worker run --engine {voices.CLONING_ENGINE}"
    )
