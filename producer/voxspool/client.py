"""Client: enqueue speeches, read the state of queues and workers, add and remove cloned voices.

Threads may share a client. A job that is enqueued twice under one id is one job, so enqueueing may be retried.
`speech` has the handle of a job, `placing` chooses the queues of jobs and enqueues them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict, TypeVar

from redis import Redis

from voxspool.connections import connection
from voxspool.errors import (
    InvalidJobError,
    RedisError,
)
from voxspool.protocol import keys, voices
from voxspool.protocol.jobs import JobSpec, queues_named
from voxspool.protocol.voices import ClonedVoice
from voxspool.queue.job_list import read_jobs
from voxspool.queue.overview import Overview, known_engines, read_overview
from voxspool.queue.placing import Placer
from voxspool.queue.stored_voices import check_free, delete_voice, read_voices, store_voice
from voxspool.reading import waiting
from voxspool.reading.acknowledge import Reporter
from voxspool.reading.dialogue import run
from voxspool.settings import Settings
from voxspool.speech import Speech

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import Self

    from typing_extensions import Unpack

    from voxspool.protocol.jobs import Priority
    from voxspool.queue.job_list import ListedJob
    from voxspool.workers import WorkerCard

S = TypeVar("S")

LIVE_S: Final = 10
"""`live_s` of a job that is enqueued with `live=True`, in seconds.

A reader that notices after 5 s that its connection is broken (connection.TIMEOUT_S) is back before.
"""


class SpeechOptions(TypedDict, total=False):
    """The options of a speech; Client.enqueue describes them."""

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
    reuse: bool
    meta: dict[str, Any] | None
    live: bool


@dataclass(frozen=True, slots=True)
class Placed(Generic[S]):
    """A speech that was enqueued, and its queue."""

    speech: S
    """A Speech, or an AsyncSpeech if an AsyncClient enqueued it."""
    queue: str
    why: str
    """The rule that chose the queue, as text for people."""


class Client:
    """A connection to one Redis, for programs that enqueue speeches and read them.

    Use it as a context manager, or call `close`. Methods raise RedisUnavailableError if Redis cannot be used.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        redis: Callable[[], Redis] | None = None,
    ) -> None:
        """Prepare the client; its first call connects.

        `redis_url` defaults to the URL of `settings`, and `settings` to those of the environment.

        `redis` makes the client of redis-py instead, for Sentinel or a pool of your own. It is called once, and `close`
        closes what it made. The client must not decode replies, and its socket_timeout must be None or at least 2 s.
        Threads share it, and each reader that waits holds a connection.

        Raises SettingsError for an environment that cannot be used, RedisUnavailableError for a text that is not a URL,
        RedisError for a client that cannot be used.
        """
        self.settings = settings or Settings.from_env()
        self._redis, self.url = _connect(redis_url, self.settings, redis)
        self._placer = Placer(self._redis, self.settings.max_waiting)
        self._reporter = Reporter(self._redis)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def enqueue(self, text: str, *, wait_s: float = 0, **options: Unpack[SpeechOptions]) -> Speech:
        """Enqueue a speech and return its handle at once, even if no worker is live.

        With an `id` of your own it may be called again: the same speech with the same id is one job. If there is no
        room for another job, it waits for room up to `wait_s` seconds.

        Args:
            text: The text to speak, at most 100,000 characters. A text without a letter is a valid, empty speech.
            id: The job's id, 1 to 128 letters, digits, `_` and `-`. Default: a random one.
            voice: A name from `voices` or `cloned_voices`, or a mix of XTTS's voices such as `clara(2)+john(1)`; at
                most 200 characters. Default: that of the settings (VOXSPOOL_VOICE), else None, the engine's own.
            language: A language tag such as `en` or `pt-br`. Default: None, the voice's own language.
            engine: The name of an engine, such as `piper` or `xtts`, or `auto`, which leaves the choice to the routing
                table. Default: that of the settings (VOXSPOOL_ENGINE), else `auto`.
            speed: The rate of speech, 0.5 (half) to 2.0 (double). Default: 1.0.
            seed: A number from 0 to 4,294,967,295. The same job with the same seed gives the same samples on the same
                machine; another seed gives another reading. Default: 0.
            priority: `interactive`, or `batch`, which workers take later. Default: `interactive`.
            keep_s: How long the audio stays in Redis after the end, 1 to 2,592,000 seconds (30 days). Default: 3,600.
            live_s: Cancel the job if nobody has read it for this long, 1 to 86,400 seconds. Below 10 it may end when
                its reader loses the connection. Default: None, never; if there is a `window_s`, 600.
            window_s: Speak at most this far ahead of the reader, 1 to 3,600 seconds. Default: None, no limit.
            reuse: Take segments from the worker's segment store if it has them, and store the others: the same sentence
                in the same voice is spoken once, in this job and in all others with this option. The seed of a segment
                then depends on its text, not on its position. Default: False.
            meta: Data of your own, which comes back in the `begin` and `end` entries and in `jobs`: a JSON object of at
                most 1,024 bytes. It does not change the speech. Default: None.
            live: True for a job that somebody listens to now: it has a `live_s` of 10, unless you give one. Use it
                with the handle as a context manager, which cancels the job when its block is left. Default: False.

        Raises:
            InvalidJobError: The job cannot be spoken as it is. UnknownVoiceError, UnknownEngineError and
                JobExistsError (the id belongs to another speech) are subclasses.
            BusyError: There is no room for another job now; the error says when to try again.
            RedisUnavailableError: Redis cannot be used.
        """
        return self.place(self._spec(text, options), wait_s=wait_s).speech

    def enqueue_many(
        self, texts: Iterable[str], *, wait_s: float = 0, **options: Unpack[SpeechOptions]
    ) -> list[Speech]:
        """Enqueue many texts with the same options, hundreds in one round trip; return their handles in order.

        Each gets a random id; for ids or options of their own, give JobSpecs to `place_many`. It raises what
        `place_many` raises.
        """
        if "id" in options:
            raise InvalidJobError(
                "enqueue_many gives each text an id; for ids of your own, give JobSpecs to place_many"
            )
        placed = self.place_many([self._spec(text, options) for text in texts], wait_s=wait_s)
        return [one.speech for one in placed]

    def place(self, spec: JobSpec, *, wait_s: float = 0) -> Placed[Speech]:
        """Enqueue a speech in the queue of its engine, and return its handle, the queue and the reason for it.

        For the engine `auto` the queue is chosen now, by the table in docs/routing.md. `wait_s` and the errors are
        those of `enqueue`.
        """
        return self.place_many([spec], wait_s=wait_s)[0]

    def place_many(self, specs: Iterable[JobSpec], *, wait_s: float = 0) -> list[Placed[Speech]]:
        """Enqueue many speeches, hundreds in one round trip; return for each what `place` returns, in order.

        Nothing is enqueued if a voice is unknown. A BusyError says in `enqueued` how many of the first speeches are in
        their queues; with `wait_s` it is raised when there was not enough room for all within that time. If the id of
        one belongs to another speech, JobExistsError is raised when the others are enqueued. Calling it again with the
        same specs is safe.
        """
        jobs = list(specs)
        with connection.translated(self.url):
            routes = self._placer.place(jobs, wait_s)
        return [
            Placed(self._handle(spec, new=route.new), route.queue, route.why)
            for spec, route in zip(jobs, routes, strict=True)
        ]

    def speech(self, job_id: str, *, wait_for_job: float = 0) -> Speech:
        """Return the handle of a job by its id, without asking Redis. Raises InvalidJobError if it cannot be an id.

        With `wait_for_job` the id may be read before it is enqueued, as a web page does that opens the audio at once: a
        reader then waits this long for the job, in seconds, before it raises UnknownJobError. An id whose job failed or
        was cancelled is read as it is, until it is enqueued again.
        """
        return Speech(self._redis, JobSpec("", id=job_id).id, self.url, self._reporter, wait_for_job=wait_for_job)

    def workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, by name."""
        with connection.translated(self.url):
            return self._placer.live_workers()

    def why_unserved(self, queue: str) -> str | None:
        """Return why no worker takes jobs from a queue, and what to do; None if a live worker serves it."""
        with connection.translated(self.url):
            return run(waiting.why_unserved(self.url, queue), self._redis)

    def serving(self, queue: str) -> list[WorkerCard]:
        """Return the live workers that take jobs from a queue."""
        return [card for card in self.workers() if queue in card.queues]

    def voices(self) -> dict[str, list[WorkerCard]]:
        """Return every voice that a live worker has, with those workers. Cloned voices are not among them."""
        found: dict[str, list[WorkerCard]] = {}
        for card in self.workers():
            for voice in card.voices:
                found.setdefault(voice, []).append(card)
        return found

    def add_voice(
        self, name: str, clips: Sequence[Path | bytes], *, replace: bool = False, languages: Sequence[str] = ()
    ) -> ClonedVoice:
        """Clone a voice from recordings (files, or their bytes), for all workers at once; return what is stored.

        The first 30 s of each recording are kept, and they may have 60 s in all. Without `languages` the voice speaks
        every language that can be cloned. With `replace` a cloned voice of this name is replaced. Raises VoiceError for
        a name that cannot be one, ClipError for a recording that cannot be used, VoiceExistsError if the name is taken,
        UnknownLanguageError. Then nothing is stored.
        """
        from voxspool.audio import voice_clips as recordings

        voices.check_name(name)
        spoken = voices.check_languages(languages)
        read = recordings.read(clips)
        check_free(name, self.voices().get(name, []))
        added = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        voice = ClonedVoice(name, spoken, added, tuple(clip.about for clip in read))
        with connection.translated(self.url):
            store_voice(self._redis, voice, [clip.flac for clip in read], replace=replace)
        return voice

    def cloned_voices(self) -> dict[str, ClonedVoice]:
        """Return every cloned voice, sorted by name, even if no live worker can speak with it."""
        with connection.translated(self.url):
            return read_voices(self._redis)

    def remove_voice(self, name: str) -> None:
        """Delete a cloned voice and its clips. Jobs that already speak with it continue. Raises UnknownVoiceError."""
        with connection.translated(self.url):
            delete_voice(self._redis, name)

    def overview(self) -> Overview:
        """Return the queues, the live workers and the running jobs."""
        with connection.translated(self.url):
            return read_overview(self._redis, lambda job: self.speech(job).status())

    def jobs(self, *kinds: str) -> list[ListedJob]:
        """Return the jobs that wait, run, failed (or were cancelled) and ended, each with its queue, age and reason.

        `kinds` chooses from "waiting", "running", "failed" and "ended". Jobs of which RQ has no record any more are
        left out. Raises InvalidJobError for another kind.
        """
        with connection.translated(self.url):
            return read_jobs(self._redis, kinds)

    def retry(self, job_id: str) -> Speech:
        """Enqueue a job again that failed or was cancelled, under its id, and return its handle.

        Raises UnknownJobError if RQ has no record of it any more, InvalidJobError if it waits, runs or has ended, and
        what `enqueue` raises.
        """
        speech = self.speech(job_id)
        state = speech.status().state
        if state not in ("failed", "cancelled"):
            raise InvalidJobError(f"job {job_id} is {state}; only a job that failed or was cancelled can be retried")
        with connection.translated(self.url):
            self._placer.place_again(job_id)
        return speech

    def pause(self, *words: str) -> list[str]:
        """Pause queues and return their names: their jobs wait, and running jobs continue.

        A word is an engine, `auto`, a priority or a queue's name; without any word, all queues are paused. Raises
        UnknownQueueError.
        """
        names = queues_named(words, self._engines(self.workers()))
        with connection.translated(self.url):
            self._redis.sadd(keys.PAUSED, *names)
        return names

    def resume(self, *words: str) -> list[str]:
        """Resume paused queues and return their names; workers take their jobs within a second. See `pause`."""
        names = queues_named(words, self._engines(self.workers()))
        with connection.translated(self.url):
            self._redis.srem(keys.PAUSED, *names)
        return names

    def paused(self) -> list[str]:
        """Return the names of the paused queues, sorted."""
        with connection.translated(self.url):
            members: Any = self._redis.smembers(keys.PAUSED)
        return sorted(name.decode(errors="replace") for name in members)

    def _engines(self, live: list[WorkerCard]) -> list[str]:
        """Return the engines that have queues: those that jobs may wait for, then others of the live workers."""
        with connection.translated(self.url):
            return known_engines(self._redis, live)[0]

    def _spec(self, text: str, options: SpeechOptions) -> JobSpec:
        """Return the job of a text with the options of `enqueue`."""
        fields: dict[str, Any] = {"engine": self.settings.engine, "voice": self.settings.voice} | dict(options)
        if fields.pop("live", False) and fields.get("live_s") is None:
            fields["live_s"] = LIVE_S
        return JobSpec(text, **fields)

    def _handle(self, spec: JobSpec, *, new: bool) -> Speech:
        """Return the handle of a job that was placed. A live job that is new belongs to its handle."""
        owned = new and spec.unread_limit_s is not None
        return Speech(self._redis, spec.id, self.url, self._reporter, owned=owned)


def _connect(redis_url: str | None, settings: Settings, factory: Callable[[], Redis] | None) -> tuple[Redis, str]:
    """Return a client of redis-py and the address of its server. Raises RedisError."""
    if factory is None:
        url = redis_url or settings.redis_url
        return connection.connect(url, first_answer=True, namespace=settings.namespace), url
    if redis_url is not None:
        raise RedisError("give either a Redis URL or redis=, which makes the connection, not both", wrong_value=True)
    client = connection.made_by(factory, Redis, "redis=", settings.namespace)
    return client, connection.address(client)
