"""Client: enqueue speeches and look after them. Speech: the handle of one job, an id and a connection, no data.

It uses RQ's queues, the workers' cards and the cloned voices. `reading` reads a stream, `audio` writes files and
checks clips. Threads may share a client. A job that is enqueued twice under one id is one job, so enqueueing may be
retried freely.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, ResponseError
from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus, Retry
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from voxspool import admission, connection, workers
from voxspool.admission import Pressure
from voxspool.errors import (
    BusyError,
    InvalidJobError,
    JobExistsError,
    RedisError,
    StreamError,
    UnknownJobError,
    UnknownVoiceError,
    VoiceExistsError,
    VoxspoolError,
)
from voxspool.protocol import keys, narration, voices
from voxspool.protocol.jobs import AUTO, DEFAULT_KEEP_S, TASK, JobSpec, all_queue_names, queue_name, queues_named
from voxspool.protocol.stream import START, Begin, Cancelled, End, EntryId, encode_data, position_after
from voxspool.protocol.voices import ClonedVoice
from voxspool.reading.reader import JobState, Reader, Readers, Received, raise_for
from voxspool.reading.waiting import Watch, why_unserved
from voxspool.routing import route
from voxspool.settings import Settings
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self, TypedDict

    from redis import Redis
    from typing_extensions import Unpack

    from voxspool.protocol.jobs import Priority
    from voxspool.protocol.narration import ChapterSpec
    from voxspool.protocol.voices import VoiceName
    from voxspool.workers import WorkerCard

    class SpeechOptions(TypedDict, total=False):
        """What may be said of a speech beside its text; see JobSpec for each."""

        id: str
        voice: str | None
        language: str | None
        engine: str
        speed: float
        seed: int
        priority: Priority
        keep_s: int
        live_s: int | None
        window_s: int | None


RESCUES = 100
"""How often RQ's own cleaners (a dashboard has them) may put back the job of a dead worker before they fail it. Our
workers put such jobs back by themselves, and use none of these."""

WAITING = {JobStatus.QUEUED, JobStatus.DEFERRED, JobStatus.SCHEDULED}
"""What RQ says of a job that no worker has taken, and that has not ended."""
RECENT_S = 1.0
"""For how long a job may be routed by cards that were read before, in seconds: to read eight takes three times as long
as to enqueue. A worker's own word is up to 3 s old, and a job for one that has gone is let go by the others."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of audio, as it was published."""

    id: str
    """The entry's id: give the last one to `chunks(after=…)` to come back."""
    pos: int
    """Its first sample in the speech."""
    sample_rate: int
    pcm: bytes
    """Samples, signed 16-bit little-endian, mono."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A speech that was enqueued: where it lies, and why there."""

    speech: Speech
    queue: str
    why: str


@dataclass(frozen=True, slots=True)
class NarrationRecord:
    """What Redis holds of a book's narration: where its command ran last, and what it enqueued."""

    title: str
    host: str
    folder: str
    """An absolute path on that host."""
    jobs: tuple[str, ...]
    """Of the chapters that were not whole then."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole system at a glance."""

    queues: dict[str, int]
    """Queue -> jobs that wait; those that exist."""
    workers: list[WorkerCard]
    running: list[JobState]
    paused: list[str]
    """The queues that somebody paused."""


class Client:
    """A producer's and consumer's side of one Redis."""

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """Prepare; the first call connects. Without a URL, the environment names it."""
        self.settings = settings or Settings.from_env()
        self.url = redis_url or self.settings.redis_url
        self._redis = connection.connect(self.url, first_answer=True)
        self._queues: dict[str, Queue] = {}
        self._seen: tuple[float, list[WorkerCard]] = (-RECENT_S, [])
        """When the workers' cards were read last, and what they said. Replaced as a whole: threads share it."""
        self._pressures: dict[str, tuple[float, Pressure]] = {}
        """Queue -> when Redis was asked how full it is, and what it said."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def enqueue(self, text: str, **options: Unpack[SpeechOptions]) -> Speech:
        """Enqueue a speech; give its handle at once, whether or not a worker is there.

        With an `id` of yours, the same speech enqueued again is the same job. Raises InvalidJobError and its kin for
        what cannot be spoken, JobExistsError where the id says something else already, BusyError where there is no room
        for another job now, RedisUnavailableError.
        """
        options.setdefault("engine", self.settings.engine)
        options.setdefault("voice", self.settings.voice)
        return self.place(JobSpec(text, **options)).speech

    def place(self, spec: JobSpec) -> Placed:
        """Enqueue a speech in its engine's queue, which for `auto` is chosen now; give its handle and say why there.

        See `enqueue`, and `routing.route` for the choice.
        """
        live = self._live_for(spec)
        cloned = self._clones_for(spec, live)
        chosen = route(spec, live, cloned)
        queue, why = queue_name(chosen.engine, spec.priority), chosen.why
        with connection.translated(self.url):
            check_voice(spec, [card for card in live if queue in card.queues], cloned)
            if not self._put(TASK, spec.encode(), spec, queue):
                self._check_same(spec)
                queue, why = self.speech(spec.id).status().queue, "it is there already"
        return Placed(Speech(self._redis, spec.id, self.url), queue, why)

    def place_chapter(self, chapter: ChapterSpec) -> bool:
        """Enqueue a chapter of a book in its engine's batch queue; False where there is a job of its id already.

        Raises BusyError, RedisUnavailableError.
        """
        spec = chapter.speech
        with connection.translated(self.url):
            return self._put(narration.TASK, chapter.encode(), spec, spec.queue, narration.TIMEOUT_S)

    def read_all(self, jobs: Sequence[str]) -> Iterator[tuple[str, Received | VoxspoolError] | None]:
        """Yield the entries of several jobs as they come. See Readers.read."""
        with connection.translated(self.url):
            yield from Readers(self._redis, jobs).read()

    def record_narration(self, name: str, record: NarrationRecord) -> None:
        """Let a narration be found by its name, for a week."""
        fields = {"title": record.title, "host": record.host, "folder": record.folder, "jobs": json.dumps(record.jobs)}
        with connection.translated(self.url), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(keys.narration(name), mapping=fields)  # type: ignore[arg-type] # its dict is invariant
            pipeline.expire(keys.narration(name), keys.NARRATION_TTL_S)
            pipeline.execute()

    def narration(self, name: str) -> NarrationRecord:
        """Find a narration by its name. Raises UnknownJobError."""
        JobSpec("", id=name)  # a name is of the characters of an id
        with connection.translated(self.url):
            found: Any = self._redis.hgetall(keys.narration(name))
        try:
            fields = {field.decode(): value.decode() for field, value in found.items()}
            jobs = tuple(str(job) for job in json.loads(fields["jobs"]))
            return NarrationRecord(fields["title"], fields["host"], fields["folder"], jobs)
        except (KeyError, ValueError, TypeError):
            raise UnknownJobError(
                f"there is no narration {name!r}, or it is older than a week; run the same voxspool narrate again"
            ) from None

    def _put(self, task: str, argument: dict[str, Any], spec: JobSpec, queue: str, timeout_s: int = 0) -> bool:
        """Put a job into a queue; False where its id is there already. Raises BusyError."""
        self._admit(spec, queue)
        try:
            self._queue(queue).enqueue_call(
                task,
                args=(argument,),
                job_id=spec.id,
                description=f"speech {spec.id}",  # RQ's own would hold the text
                timeout=timeout_s or spec.timeout_s,
                result_ttl=spec.keep_s,
                failure_ttl=spec.keep_s,
                retry=Retry(max=RESCUES),
                unique=True,
            )
        except DuplicateJobError:
            return False
        except ResponseError as error:
            if not connection.is_full(error):
                raise
            raise BusyError("Redis is at its memory's limit", admission.UNKNOWN_S) from error
        return True

    def cancel_narration(self, name: str) -> list[str]:
        """Cancel the chapters of a narration that are not over; give their jobs. Raises UnknownJobError."""
        stopped = []
        for job in self.narration(name).jobs:
            with contextlib.suppress(UnknownJobError):
                if self.speech(job).cancel("voxspool cancel") in ("asked", "cancelled"):
                    stopped.append(job)
        return stopped

    def speech(self, job_id: str) -> Speech:
        """Return the handle of a job by its id. Nothing is asked yet."""
        return Speech(self._redis, JobSpec("", id=job_id).id, self.url)

    def workers(self) -> list[WorkerCard]:
        """Return the live workers' cards; forget those that died without a word."""
        with connection.translated(self.url):
            found = workers.live(self._redis)
        self._seen = (time.monotonic(), found)
        return found

    def why_unserved(self, queue: str) -> str | None:
        """Return why nobody takes jobs from a queue, and what to do; None where a live worker serves it."""
        return why_unserved(self._redis, self.url, queue)

    def serving(self, queue: str) -> list[WorkerCard]:
        """Return the live workers that take jobs from a queue."""
        return [card for card in self.workers() if queue in card.queues]

    def voices(self) -> dict[str, list[WorkerCard]]:
        """Return every voice that a live worker has, with those workers."""
        found: dict[str, list[WorkerCard]] = {}
        for card in self.workers():
            for voice in card.voices:
                found.setdefault(voice, []).append(card)
        return found

    def add_voice(
        self, name: str, clips: Sequence[Path | bytes], *, replace: bool = False, languages: Sequence[str] = ()
    ) -> ClonedVoice:
        """Clone a voice from recordings (files, or their bytes), for every worker, at once; give what is stored.

        Of each recording the first 30 s are kept, 60 s in all. Without `languages` it speaks every language that can be
        cloned. Raises VoiceError for a name that cannot be, ClipError for a recording that is no good, VoiceExistsError
        where the name is taken, UnknownLanguageError. Then nothing is stored.
        """
        from voxspool.audio import voice_clips as recordings

        voices.check_name(name)
        spoken = voices.check_languages(languages)
        read = recordings.read(clips)
        added = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        voice = ClonedVoice(name, spoken, added, tuple(clip.about for clip in read))
        self._check_free(name)
        with connection.translated(self.url):
            arguments = [name, "1" if replace else "", voice.encode(), *(clip.flac for clip in read)]
            said: bytes = self._add_voice_script(keys=[keys.VOICES, keys.clips(name)], args=arguments)
        if said == b"exists":
            raise VoiceExistsError(
                f"there is a voice {name} already; choose another name, or replace it (voxspool voices add --replace)"
            )
        return voice

    def cloned_voices(self) -> dict[str, ClonedVoice]:
        """Return every cloned voice, sorted by name, whether or not a worker is there to speak it."""
        with connection.translated(self.url):
            stored: Any = self._redis.hgetall(keys.VOICES)
        return voices.decode_all(stored)

    def remove_voice(self, name: str) -> None:
        """Forget a cloned voice and its clips. Jobs that speak with it now go on. Raises UnknownVoiceError."""
        with connection.translated(self.url), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hdel(keys.VOICES, name)
            pipeline.delete(keys.clips(name))
            removed = pipeline.execute()
        if not any(removed):
            hint = did_you_mean(name, self.cloned_voices())
            raise UnknownVoiceError(f"there is no cloned voice {name!r}{hint}; `voxspool voices` lists them")

    def overview(self) -> Overview:
        """Return the queues, the live workers and the running jobs."""
        live = self.workers()
        names = all_queue_names(self._engines(live))
        with connection.translated(self.url), self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(Queue.redis_queue_namespace_prefix + name)
                pipeline.zrange(StartedJobRegistry.key_template.format(name), 0, -1)
            replies = pipeline.execute()
        waiting = {name: count for name, count in zip(names, replies[::2], strict=True) if count}
        runs = [entry.decode(errors="replace") for entries in replies[1::2] for entry in entries]
        ids = [run.rpartition(":")[0] for run in runs]
        running: list[JobState] = []
        for job in dict.fromkeys(ids):
            # It ended between the two questions, or it is nobody's: anybody may write to Redis.
            with contextlib.suppress(UnknownJobError, InvalidJobError):
                running.append(self.speech(job).status())
        return Overview(waiting, live, running, self.paused())

    def pause(self, *words: str) -> list[str]:
        """Let the jobs of queues wait; what runs goes on. Give the names of the queues.

        A word is an engine, `auto`, a priority or a queue's name; without any, all queues. Raises UnknownQueueError.
        """
        names = queues_named(words, self._engines(self.workers()))
        with connection.translated(self.url):
            self._redis.sadd(keys.PAUSED, *names)
        return names

    def resume(self, *words: str) -> list[str]:
        """Let the jobs of paused queues be taken again, within a second. See `pause`."""
        names = queues_named(words, self._engines(self.workers()))
        with connection.translated(self.url):
            self._redis.srem(keys.PAUSED, *names)
        return names

    def paused(self) -> list[str]:
        """Name the queues that somebody paused."""
        with connection.translated(self.url):
            members: Any = self._redis.smembers(keys.PAUSED)
        return sorted(name.decode(errors="replace") for name in members)

    def _engines(self, live: list[WorkerCard]) -> list[str]:
        """Return the engines that have queues: those that jobs may wait for, then others of the live workers."""
        with connection.translated(self.url):
            known = workers.engines(self._redis)
        return list(dict.fromkeys((*known, *sorted(card.engine for card in live))))

    def _admit(self, spec: JobSpec, queue: str) -> None:
        """Let a job in, if there is room. Raises BusyError."""
        pressure = self._pressure(queue)
        serving = [card for card in self._seen[1] if queue in card.queues]
        if pressure and (busy := admission.turned_away(pressure, spec.priority, serving)):
            raise BusyError(busy.why, busy.retry_after_s)

    def _pressure(self, queue: str) -> Pressure | None:
        """Ask Redis how full it and a queue are, at most once a second; None where we may not ask."""
        asked_at, pressure = self._pressures.get(queue, (-RECENT_S, None))
        if time.monotonic() - asked_at < RECENT_S:
            return pressure
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.info("memory")
                pipeline.info("keyspace")
                pipeline.llen(Queue.redis_queue_namespace_prefix + queue)
                pressure = Pressure.read(*pipeline.execute())
        except NoPermissionError:
            return None
        self._pressures[queue] = time.monotonic(), pressure
        return pressure

    def _live_for(self, spec: JobSpec) -> list[WorkerCard]:
        """Return the cards that decide on a job: as they are now for a voice that may be refused, else recent ones."""
        if spec.voice is not None:
            return self.workers()
        if spec.engine != AUTO:
            return []
        read_at, found = self._seen
        return found if time.monotonic() - read_at < RECENT_S else self.workers()

    @cached_property
    def _add_voice_script(self) -> Any:  # noqa: ANN401 - redis-py's Script, whose reply is untyped
        return self._redis.register_script((files("voxspool.lua") / "add_voice.lua").read_text(encoding="utf-8"))

    def _queue(self, name: str) -> Queue:
        """Return a queue; RQ asks the server's version once for each."""
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return self._queues[name]

    def _clones_for(self, spec: JobSpec, live: list[WorkerCard]) -> dict[str, ClonedVoice]:
        """Return the cloned voices, where a job's voice may be one: Redis knows one that was added a moment ago."""
        if spec.voice is None or any(spec.voice in card.voices for card in live):
            return {}
        return self.cloned_voices()

    def _check_free(self, name: str) -> None:
        """Refuse the name of a voice that a live worker brought with it: that one would be heard."""
        for card in self.voices().get(name, []):
            raise VoiceExistsError(
                f"{name} is a voice of the engine {card.engine} (worker {card.name}); choose another name"
            )

    def _check_same(self, spec: JobSpec) -> None:
        """Accept a job that is there already if it says the same."""
        there = Speech(self._redis, spec.id, self.url).spec()
        if there is None or not spec.says_the_same(there):
            raise JobExistsError(
                f"job id {spec.id!r} is taken by another text, voice or setting; "
                "choose another id, or wait until it expires"
            )


def _unknown_voice(
    asked: str, wanted: VoiceName, serving: list[WorkerCard], cloned: Mapping[str, ClonedVoice]
) -> UnknownVoiceError:
    """Return the error for a voice: the unknown part, or that no live worker mixes or clones voices."""
    own = {voice for card in serving for voice in card.voices}
    for name, _ in wanted.parts:
        if name not in own and name not in cloned:
            hint = did_you_mean(name, {*own, *cloned})
            return UnknownVoiceError(
                f"no live worker has a voice {name!r}{hint}; `voxspool voices` lists them{voices.how_to_get(name)}"
            )
    return UnknownVoiceError(
        f"voice {asked!r} is {'a mix' if wanted.mixed else 'cloned'}, and no live worker that takes the job speaks "
        f"those; start one: voxspool-worker run --engine {voices.CLONING_ENGINE}"
    )


class Speech:
    """One job: its audio while it is made, its state, its end. Holds an id and a connection, no data."""

    def __init__(self, redis: Redis, job_id: str, url: str) -> None:
        self.id = job_id
        self._redis = redis
        self._url = url

    def __repr__(self) -> str:
        return f"Speech({self.id!r})"

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks()

    def entries(
        self,
        after: str = str(START),
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[JobState], None] | None = None,
    ) -> Iterator[Received]:
        """Yield the stream's entries as they come, to the terminal one.

        `timeout_s` is the longest silence to accept, in seconds; without it a reader waits as long as the job lives.
        `on_wait` is called with the job's state after each second of silence. A job that waits for a worker that is
        not there gives a NoWorkerWarning after two. Raises DeadlineError, and what Reader.read raises.
        """
        watch = Watch()

        def waited(state: JobState) -> None:
            if watch.due(state.state):
                watch.warn(self.why_unserved(state.queue))
            if on_wait:
                on_wait(state)

        with connection.translated(self._url):
            for received in Reader(self._redis, self.id).read(
                EntryId.parse(after), timeout_s=timeout_s, on_wait=waited
            ):
                watch.heard()
                yield received

    def chunks(self, after: str = str(START), *, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Yield the audio as it is made, each sample once, from the start or after the id of the last chunk you had.

        `timeout_s` is the longest silence to accept, in seconds; without it the wait lasts as long as the job lives.
        Raises SpeechFailedError or SpeechCancelledError where the speech ends so, and what `entries` raises.
        """
        listener = self.listener(after)
        for received in self.entries(after, timeout_s=timeout_s):
            if chunk := listener.hear(received):
                yield chunk

    def listener(self, after: str = str(START)) -> Listener:
        """Return a listener that has heard everything up to an entry: what `chunks` listens with.

        Raises StreamError where the stream has no such entry, UnknownJobError where it is gone.
        """
        entry_id = EntryId.parse(after)
        if entry_id == START:
            return Listener()
        reader = Reader(self._redis, self.id)
        with connection.translated(self._url):
            last, begin = reader.entry(entry_id), reader.begin_of(entry_id.attempt)
            if last is None or begin is None:
                reader.state()  # says so if the whole job is gone
                raise StreamError(f"job {self.id} has no entry {after} to come back to; read it from the start")
        return Listener(position_after(last), begin.sample_rate)

    def save(self, path: str | Path, *, timeout_s: float | None = None) -> End:
        """Write the speech to a file as it is made: WAV, FLAC, MP3, Ogg or Opus, by suffix.

        The file appears under its name when it is whole. `timeout_s` is the longest silence to accept, in seconds.
        Raises OutputError, and what `chunks` raises.
        """
        from voxspool.audio.recorder import Recorder

        with Recorder(Path(path)) as recorder:
            for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                recorder.add(received.entry)
                if isinstance(received.entry, End):
                    return received.entry
        raise unended(self.id)

    def play(self, *, timeout_s: float | None = None) -> None:
        """Play the speech as it is made. `timeout_s` is the longest silence of its stream to accept, in seconds.

        Raises MissingExtraError without sounddevice, and what `chunks` raises.
        """
        from voxspool.audio.playback import play

        play(_checked(self.entries(timeout_s=timeout_s)))

    def wait(self, *, timeout_s: float | None = None) -> End:
        """Wait for the end, without keeping the audio; return the end entry.

        `timeout_s` is the longest silence to accept, in seconds: not the time that the whole speech may take. Raises
        what `chunks` raises.
        """
        for received in self.entries(timeout_s=timeout_s):
            raise_for(received.entry)
            if isinstance(received.entry, End):
                return received.entry
        raise unended(self.id)

    def status(self) -> JobState:
        """Return the state of the job. Raises UnknownJobError."""
        with connection.translated(self._url):
            return Reader(self._redis, self.id).state()

    def why_unserved(self, queue: str) -> str | None:
        """Return why nobody takes jobs from a queue, and what to do; None where a live worker serves it."""
        return why_unserved(self._redis, self._url, queue)

    def end(self) -> End | None:
        """Return the end entry of a speech that has ended, with what it took; None where it has not. Waits for nothing.

        Raises ProtocolError where the stream's last entry cannot be read.
        """
        with connection.translated(self._url):
            return Reader(self._redis, self.id).end()

    def spec(self) -> JobSpec | None:
        """Return what was asked for; None where RQ has forgotten it or it is not ours."""
        try:
            with connection.translated(self._url):
                job = Job.fetch(self.id, connection=self._redis, serializer=JSONSerializer)
            if job.func_name == narration.TASK:
                return narration.ChapterSpec.decode(job.args[0]).speech
            return JobSpec.decode(job.args[0])
        except RedisError:
            raise
        except Exception:  # noqa: BLE001 - anybody may have written that hash, and RQ's parsers raise what they like
            return None

    def cancel(self, by: str = "client") -> str:
        """Cancel the job, queued or running; a running one stops at its next chunk.

        Gives `cancelled`, `asked` (it is running and will stop), or the state in which it had ended before. Raises
        UnknownJobError.
        """
        self.status()
        spec = self.spec()
        by = by.encode(errors="replace").decode()
        data = encode_data(Cancelled(0, by))
        keep_s = spec.keep_s if spec else DEFAULT_KEEP_S
        with connection.translated(self._url):
            said: str = self._cancel_script(
                keys=[keys.audio(self.id), keys.control(self.id)], args=[by, data, keep_s]
            ).decode()
            if said == "asked":
                self._hurry()
            elif said == "cancelled":
                self._take_off_queue(keep_s)
        return said

    @cached_property
    def _cancel_script(self) -> Any:  # noqa: ANN401 - redis-py's Script, whose reply is untyped
        return self._redis.register_script((files("voxspool.lua") / "cancel.lua").read_text(encoding="utf-8"))

    def _hurry(self) -> None:
        """Send the worker RQ's stop command: it stops sooner; without it, at its next publish."""
        with contextlib.suppress(NoSuchJobError, InvalidJobOperation):
            send_stop_job_command(self._redis, self.id, serializer=JSONSerializer)

    def _take_off_queue(self, keep_s: int) -> None:
        """Take a job that waits out of RQ's queue; one that a worker has taken finds its stream closed, and says so."""
        with contextlib.suppress(NoSuchJobError, InvalidJobOperation):
            job = Job.fetch(self.id, connection=self._redis, serializer=JSONSerializer)
            if job.get_status() in WAITING:
                job.cancel()
                job.cleanup(ttl=keep_s, remove_from_queue=False)


class Listener:
    """Entries -> chunks: each sample once, across attempts."""

    def __init__(self, heard_samples: int = 0, sample_rate: int = 0) -> None:
        from voxspool.audio.playback import Playhead

        self._playhead = Playhead(heard_samples)
        self._sample_rate = sample_rate

    @property
    def heard_samples(self) -> int:
        """How many samples of the speech have been heard so far."""
        return self._playhead.given_samples

    def hear(self, received: Received) -> Chunk | None:
        """Return what is new in an entry. Raises SpeechFailedError or SpeechCancelledError for a bad end."""
        raise_for(received.entry)
        if isinstance(received.entry, Begin):
            self._sample_rate = received.entry.sample_rate
        pos = self._playhead.given_samples
        pcm = self._playhead.feed(received.entry)
        return Chunk(str(received.id), pos, self._sample_rate, pcm) if pcm else None


def unended(job_id: str) -> UnknownJobError:
    """Make the error for a stream in which no end came."""
    return UnknownJobError(f"the stream of job {job_id} ended before its end could be read; read it from the start")


def check_voice(spec: JobSpec, serving: list[WorkerCard], cloned: Mapping[str, ClonedVoice]) -> None:
    """Refuse a voice that none of the workers can speak that serve the job's queue. With no worker, the job waits.

    Raises UnknownVoiceError, and InvalidJobError for a mix that is none.
    """
    if spec.voice is None or not serving or any(spec.voice in card.voices for card in serving):
        return
    wanted = voices.parse(spec.voice)
    for card in serving:
        if card.clones and all(name in card.voices or name in cloned for name, _ in wanted.parts):
            return
    raise _unknown_voice(spec.voice, wanted, serving, cloned)


def _checked(entries: Iterator[Received]) -> Iterator[Any]:
    """Yield bare entries; raise for those that end a speech badly."""
    for received in entries:
        raise_for(received.entry)
        yield received.entry
