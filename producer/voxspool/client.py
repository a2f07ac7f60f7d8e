"""Client: enqueue speeches and look after them. Speech: the handle of one job, an id and a connection, no data.

Knows RQ's queues and the worker's cards; not how a stream is read (reader) nor how a file is written (audio). Safe to
share between threads. A job that is enqueued twice under one id is one job, so enqueueing may be retried at will.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, Retry
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from voxspool import connection
from voxspool.errors import InvalidJobError, JobExistsError, RedisError, StreamError, UnknownJobError, UnknownVoiceError
from voxspool.protocol import keys
from voxspool.protocol.jobs import DEFAULT_KEEP_S, TASK, JobSpec, all_queue_names
from voxspool.protocol.near import did_you_mean
from voxspool.protocol.stream import START, Begin, Cancelled, End, EntryId, encode_data
from voxspool.reader import JobState, Reader, Received, position_after, raise_for
from voxspool.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypedDict

    from redis import Redis
    from typing_extensions import Self, Unpack

    from voxspool.protocol.jobs import Priority

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


RESCUES = 100
"""How often RQ's own cleaners (a dashboard has them) may put back the job of a dead worker before they fail it. Our
workers put such jobs back by themselves, and use none of these."""


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
class WorkerCard:
    """What a live worker says of itself."""

    name: str
    engine: str
    model: str
    device: str
    sample_rate: int
    voices: dict[str, list[str]]
    """Voice -> its languages, the default first; none: any."""
    queues: list[str]
    jobs: int
    running: int
    rows: int
    rows_in_use: int
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole system at a glance."""

    queues: dict[str, int]
    """Queue -> jobs that wait; those that exist."""
    workers: list[WorkerCard]
    running: list[JobState]


class Client:
    """A producer's and consumer's side of one Redis."""

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """Prepare; the first call connects. Without a URL, the environment names it."""
        self.settings = settings or Settings.from_env()
        self.url = redis_url or self.settings.redis_url
        self._redis = connection.connect(self.url)
        self._queues: dict[str, Queue] = {}

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
        what cannot be spoken, JobExistsError where the id says something else already, RedisUnavailableError.
        """
        options.setdefault("engine", self.settings.engine)
        options.setdefault("voice", self.settings.voice)
        spec = JobSpec(text, **options)
        with connection.translated(self.url):
            self._check_voice(spec)
            try:
                self._queue(spec.queue).enqueue_call(
                    TASK,
                    args=(spec.encode(),),
                    job_id=spec.id,
                    description=f"speech {spec.id}",  # RQ's own would hold the text
                    timeout=spec.timeout_s,
                    result_ttl=spec.keep_s,
                    failure_ttl=spec.keep_s,
                    retry=Retry(max=RESCUES),
                    unique=True,
                )
            except DuplicateJobError:
                self._check_same(spec)
        return Speech(self._redis, spec.id, self.url)

    def speech(self, job_id: str) -> Speech:
        """Give the handle of a job by its id. Nothing is asked yet."""
        return Speech(self._redis, JobSpec("", id=job_id).id, self.url)

    def workers(self) -> list[WorkerCard]:
        """Give the live workers' cards; forget those that died without a word."""
        with connection.translated(self.url):
            members: set[Any] = self._redis.smembers(keys.WORKERS)
            names = sorted(name.decode(errors="surrogateescape") for name in members)
            with self._redis.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.hgetall(keys.worker(name))
                cards = dict(zip(names, pipeline.execute(), strict=True))
        found = [_card(name, card) for name, card in cards.items() if card]
        return [card for card in found if card]

    def serving(self, queue: str) -> list[WorkerCard]:
        """Give the live workers that take jobs from a queue."""
        return [card for card in self.workers() if queue in card.queues]

    def voices(self) -> dict[str, list[WorkerCard]]:
        """Give every voice that a live worker has, with those workers."""
        found: dict[str, list[WorkerCard]] = {}
        for card in self.workers():
            for voice in card.voices:
                found.setdefault(voice, []).append(card)
        return found

    def overview(self) -> Overview:
        """Give the queues, the live workers and the running jobs."""
        names = all_queue_names()
        with connection.translated(self.url), self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(Queue.redis_queue_namespace_prefix + name)
                pipeline.zrange(StartedJobRegistry.key_template.format(name), 0, -1)
            replies = pipeline.execute()
        waiting = {name: count for name, count in zip(names, replies[::2], strict=True) if count}
        runs = [entry.decode(errors="replace") for entries in replies[1::2] for entry in entries]
        ids = [run.rpartition(":")[0] for run in runs]
        running = []
        for job in dict.fromkeys(ids):
            # It ended between the two questions, or it is nobody's: anybody may write to Redis.
            with contextlib.suppress(UnknownJobError, InvalidJobError):
                running.append(self.speech(job).status())
        return Overview(waiting, self.workers(), running)

    def _queue(self, name: str) -> Queue:
        """Give a queue; RQ asks the server's version once for each."""
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return self._queues[name]

    def _check_voice(self, spec: JobSpec) -> None:
        """Refuse a voice that no live worker of the queue has. With no worker there is nobody to ask: the job waits."""
        if spec.voice is None:
            return
        known = [voice for card in self.serving(spec.queue) for voice in card.voices]
        if known and spec.voice not in known:
            raise UnknownVoiceError(
                f"no live worker has a voice {spec.voice!r}{did_you_mean(spec.voice, known)}; "
                "`voxspool voices` lists them"
            )

    def _check_same(self, spec: JobSpec) -> None:
        """Accept a job that is there already if it says the same."""
        there = Speech(self._redis, spec.id, self.url).spec()
        if there is None or not spec.says_the_same(there):
            raise JobExistsError(
                f"job id {spec.id!r} is taken by another text, voice or setting; "
                "choose another id, or wait until it expires"
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
        """Give the stream's entries as they come, to the terminal one. See Reader.read."""
        with connection.translated(self._url):
            yield from Reader(self._redis, self.id).read(EntryId.parse(after), timeout_s=timeout_s, on_wait=on_wait)

    def chunks(self, after: str = str(START), *, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Give the audio as it is made, each sample once, from the start or after the id of the last chunk you had.

        Raises SpeechFailedError or SpeechCancelledError where the speech ends so, and what `entries` raises.
        """
        listener = self.listener(after)
        for received in self.entries(after, timeout_s=timeout_s):
            if chunk := listener.hear(received):
                yield chunk

    def listener(self, after: str = str(START)) -> Listener:
        """Give a listener that has heard everything up to an entry: what `chunks` listens with.

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

        The file appears under its name when it is whole. Raises OutputError, and what `chunks` raises.
        """
        from voxspool.audio import Recorder

        with Recorder(Path(path)) as recorder:
            for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                recorder.add(received.entry)
                if isinstance(received.entry, End):
                    return received.entry
        raise unended(self.id)

    def play(self, *, timeout_s: float | None = None) -> None:
        """Play the speech as it is made. Raises MissingExtraError without sounddevice, and what `chunks` raises."""
        from voxspool.audio import play

        play(_checked(self.entries(timeout_s=timeout_s)))

    def wait(self, *, timeout_s: float | None = None) -> End:
        """Wait for the end, without keeping the audio; give the end entry. Raises what `chunks` raises."""
        for received in self.entries(timeout_s=timeout_s):
            raise_for(received.entry)
            if isinstance(received.entry, End):
                return received.entry
        raise unended(self.id)

    def status(self) -> JobState:
        """Say where the job is. Raises UnknownJobError."""
        with connection.translated(self._url):
            return Reader(self._redis, self.id).state()

    def spec(self) -> JobSpec | None:
        """Give what was asked for; None where RQ has forgotten it or it is not ours."""
        try:
            with connection.translated(self._url):
                job = Job.fetch(self.id, connection=self._redis, serializer=JSONSerializer)
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
        """Take a job that nobody will run out of RQ's queue."""
        with contextlib.suppress(NoSuchJobError, InvalidJobOperation):
            job = Job.fetch(self.id, connection=self._redis, serializer=JSONSerializer)
            job.cancel()
            job.cleanup(ttl=keep_s, remove_from_queue=False)


class Listener:
    """Entries -> chunks: each sample once, across attempts."""

    def __init__(self, heard_samples: int = 0, sample_rate: int = 0) -> None:
        from voxspool.audio import Playhead

        self._playhead = Playhead(heard_samples)
        self._sample_rate = sample_rate

    def hear(self, received: Received) -> Chunk | None:
        """Give what is new in an entry. Raises SpeechFailedError or SpeechCancelledError for a bad end."""
        raise_for(received.entry)
        if isinstance(received.entry, Begin):
            self._sample_rate = received.entry.sample_rate
        pos = self._playhead.given_samples
        pcm = self._playhead.feed(received.entry)
        return Chunk(str(received.id), pos, self._sample_rate, pcm) if pcm else None


def unended(job_id: str) -> UnknownJobError:
    """Make the error for a stream in which no end came."""
    return UnknownJobError(f"the stream of job {job_id} ended before its end could be read; read it from the start")


def _checked(entries: Iterator[Received]) -> Iterator[Any]:
    """Give bare entries; raise for those that end a speech badly."""
    for received in entries:
        raise_for(received.entry)
        yield received.entry


def _card(name: str, raw: dict[bytes, bytes]) -> WorkerCard | None:
    """Read a worker's card; None for one of another version, or of anybody's making: it must not spoil the others."""
    try:
        card = {field.decode(): value.decode() for field, value in raw.items()}
        return WorkerCard(
            name=name,
            engine=card["engine"],
            model=card["model"],
            device=card["device"],
            sample_rate=int(card["sample_rate"]),
            voices=dict(json.loads(card["voices"])),
            queues=card["queues"].split(","),
            jobs=int(card["jobs"]),
            running=int(card["running"]),
            rows=int(card["rows"]),
            rows_in_use=int(card["rows_in_use"]),
            host=card["host"],
            pid=int(card["pid"]),
        )
    except (KeyError, ValueError, TypeError):
        return None
