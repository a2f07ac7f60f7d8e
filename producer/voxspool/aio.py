"""AsyncClient and AsyncSpeech: Client and Speech for asyncio.

Streams are read in the event loop, by the same dialogues as in Speech. RQ is not asynchronous, so calls that use its
queues run in a thread of the loop's pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from redis.asyncio import Redis

from voxspool.client import Client, Placed
from voxspool.connections import connection
from voxspool.errors import RedisError
from voxspool.loop_clients import LoopClients
from voxspool.protocol.stream import START, End, EntryId
from voxspool.reading import waiting
from voxspool.reading.acknowledge import Acknowledgement
from voxspool.reading.dialogue import run_async, stream_async
from voxspool.reading.follow import ask_end, ask_position, ask_state, await_job, read_entries
from voxspool.reading.queue_place import QueuePlace, ask_queue_place
from voxspool.reading.reader import raise_for
from voxspool.speech import Listener, unended

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import BinaryIO, Self

    from redis import Redis as SyncRedis
    from typing_extensions import Unpack

    from voxspool.client import SpeechOptions
    from voxspool.protocol.jobs import JobSpec
    from voxspool.protocol.stream import Entry
    from voxspool.protocol.voices import ClonedVoice
    from voxspool.queue.job_list import ListedJob
    from voxspool.queue.overview import Overview
    from voxspool.reading.reader import JobState, Received
    from voxspool.settings import Settings
    from voxspool.speech import Chunk, Speech
    from voxspool.workers import WorkerCard


class AsyncClient:
    """A connection to one Redis, for asyncio programs that enqueue speeches and read them.

    Use it as an asynchronous context manager, or call `close`. Each method is that of Client with the same name, and
    raises the same errors. One client may serve several event loops, and several calls of `asyncio.run`: each loop has
    connections of its own, which are closed by `close` or at the end of `asyncio.run`.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        redis: Callable[[], Redis] | None = None,
        sync_redis: Callable[[], SyncRedis] | None = None,
    ) -> None:
        """Prepare the client; its first call connects.

        `redis_url` defaults to the URL of `settings`, and `settings` to those of the environment.

        `redis` and `sync_redis` make the clients of redis-py instead, for Sentinel or pools of your own. Both are
        needed: RQ is not asynchronous, so calls that use its queues run in threads, with the client of `sync_redis`,
        which is called once. `redis` is called once for each event loop, when that loop first reads. See Client for
        the requirements on both.

        Raises SettingsError for an environment that cannot be used, RedisUnavailableError for a text that is not a URL,
        RedisError for a client that cannot be used.
        """
        if (redis is None) != (sync_redis is None):
            raise RedisError(
                "AsyncClient needs both redis=, which reads streams, and sync_redis=, for RQ's queues; give both",
                wrong_value=True,
            )
        self._client = Client(redis_url, settings=settings, redis=sync_redis)
        self._clients = LoopClients(
            partial(connection.made_by, redis, Redis, "redis=", self._client.settings.namespace)
            if redis
            else partial(connection.connect_async, self._client.url, self._client.settings.namespace)
        )
        self.settings = self._client.settings
        self.url = self._client.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()
        await self._clients.close()

    def enqueue(self, text: str, *, wait_s: float = 0, **options: Unpack[SpeechOptions]) -> AsyncEnqueue:
        """Enqueue a speech and return its handle at once, even if no worker is live.

        The options are those of Client.enqueue. `await` the call, or use it in `async with`, which cancels a live job
        when the block is left: `async with client.enqueue(text, live=True) as speech:`.
        """
        return AsyncEnqueue(self._enqueue(text, wait_s=wait_s, **options))

    async def _enqueue(self, text: str, *, wait_s: float, **options: Unpack[SpeechOptions]) -> AsyncSpeech:
        """Enqueue a speech in a thread, and return its handle."""
        return self._wrap(await asyncio.to_thread(self._client.enqueue, text, wait_s=wait_s, **options))

    async def enqueue_many(
        self, texts: Iterable[str], *, wait_s: float = 0, **options: Unpack[SpeechOptions]
    ) -> list[AsyncSpeech]:
        """Enqueue many texts with the same options, hundreds in one round trip; return their handles in order."""
        found = await asyncio.to_thread(self._client.enqueue_many, texts, wait_s=wait_s, **options)
        return [self._wrap(speech) for speech in found]

    async def place(self, spec: JobSpec, *, wait_s: float = 0) -> Placed[AsyncSpeech]:
        """Enqueue a speech in the queue of its engine, and return its handle, the queue and the reason for it."""
        return (await self.place_many([spec], wait_s=wait_s))[0]

    async def place_many(self, specs: Iterable[JobSpec], *, wait_s: float = 0) -> list[Placed[AsyncSpeech]]:
        """Enqueue many speeches, hundreds in one round trip; return for each what `place` returns, in order."""
        found = await asyncio.to_thread(self._client.place_many, specs, wait_s=wait_s)
        return [Placed(self._wrap(placed.speech), placed.queue, placed.why) for placed in found]

    def speech(self, job_id: str, *, wait_for_job: float = 0) -> AsyncSpeech:
        """Return the handle of a job by its id, without asking Redis. Raises InvalidJobError if it cannot be an id.

        `wait_for_job` is described at Client.speech.
        """
        return self._wrap(self._client.speech(job_id, wait_for_job=wait_for_job))

    async def workers(self) -> list[WorkerCard]:
        """Return the live workers' cards, by name."""
        return await asyncio.to_thread(self._client.workers)

    async def why_unserved(self, queue: str) -> str | None:
        """Return why no worker takes jobs from a queue, and what to do; None if a live worker serves it."""
        with connection.translated(self.url):
            return await run_async(waiting.why_unserved(self.url, queue), await self._clients.get())

    async def serving(self, queue: str) -> list[WorkerCard]:
        """Return the live workers that take jobs from a queue."""
        return await asyncio.to_thread(self._client.serving, queue)

    async def voices(self) -> dict[str, list[WorkerCard]]:
        """Return every voice that a live worker has, with those workers. Cloned voices are not among them."""
        return await asyncio.to_thread(self._client.voices)

    async def add_voice(
        self, name: str, clips: Sequence[Path | bytes], *, replace: bool = False, languages: Sequence[str] = ()
    ) -> ClonedVoice:
        """Clone a voice from recordings (files, or their bytes), for all workers at once; return what is stored."""
        return await asyncio.to_thread(self._client.add_voice, name, clips, replace=replace, languages=languages)

    async def cloned_voices(self) -> dict[str, ClonedVoice]:
        """Return every cloned voice, sorted by name, even if no live worker can speak with it."""
        return await asyncio.to_thread(self._client.cloned_voices)

    async def remove_voice(self, name: str) -> None:
        """Delete a cloned voice and its clips. Jobs that already speak with it continue. Raises UnknownVoiceError."""
        await asyncio.to_thread(self._client.remove_voice, name)

    async def overview(self) -> Overview:
        """Return the queues, the live workers and the running jobs."""
        return await asyncio.to_thread(self._client.overview)

    async def jobs(self, *kinds: str) -> list[ListedJob]:
        """Return the jobs that wait, run, failed (or were cancelled) and ended, each with its queue, age and reason."""
        return await asyncio.to_thread(self._client.jobs, *kinds)

    async def retry(self, job_id: str) -> AsyncSpeech:
        """Enqueue a job again that failed or was cancelled, under its id, and return its handle."""
        return self._wrap(await asyncio.to_thread(self._client.retry, job_id))

    async def pause(self, *words: str) -> list[str]:
        """Pause queues and return their names: their jobs wait, and running jobs continue."""
        return await asyncio.to_thread(self._client.pause, *words)

    async def resume(self, *words: str) -> list[str]:
        """Resume paused queues and return their names; workers take their jobs within a second. See `pause`."""
        return await asyncio.to_thread(self._client.resume, *words)

    async def paused(self) -> list[str]:
        """Return the names of the paused queues, sorted."""
        return await asyncio.to_thread(self._client.paused)

    def _wrap(self, speech: Speech) -> AsyncSpeech:
        """Return the asynchronous handle of a speech."""
        return AsyncSpeech(self._clients, speech, self.url)


class AsyncEnqueue(Coroutine[Any, Any, "AsyncSpeech"]):
    """A call of AsyncClient.enqueue: a coroutine that returns an AsyncSpeech, and in `async with` that AsyncSpeech."""

    def __init__(self, call: Coroutine[Any, Any, AsyncSpeech]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, AsyncSpeech]:
        return self._call.__await__()

    def send(self, value: Any) -> Any:  # noqa: ANN401 - as Python's own coroutines
        """Resume the call with a value, as an event loop does."""
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:  # noqa: ANN401 - as above
        """Resume the call with an error, as an event loop does."""
        return self._call.throw(*error)

    def close(self) -> None:
        """End the call."""
        self._call.close()

    async def __aenter__(self) -> AsyncSpeech:
        self._speech = await self._call
        return await self._speech.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._speech.__aexit__(*error)


class AsyncSpeech:
    """One job, for asyncio: its audio while it is made, its state, its end.

    Iterating over it with `async for` yields its chunks from the start. Each method is that of Speech with the same
    name, and raises the same errors. `async with` does what `with` does there.
    """

    def __init__(self, clients: LoopClients, speech: Speech, url: str) -> None:
        self.id = speech.id
        self._clients = clients
        self._speech = speech
        self._url = url
        self._wait_for_job = speech._wait_for_job  # noqa: SLF001 - the same handle
        self._blocks: list[AbstractAsyncContextManager[None]] = []

    def __repr__(self) -> str:
        return f"AsyncSpeech({self.id!r})"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self.chunks()

    async def __aenter__(self) -> Self:
        """Keep the job until the block is left; see `keep`."""
        block = self.keep()
        await block.__aenter__()
        self._blocks.append(block)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the job if it is not over, this handle enqueued it, and it is live; otherwise it goes on."""
        await self._blocks.pop().__aexit__(None, None, None)
        await asyncio.to_thread(self._speech._leave)  # noqa: SLF001 - the same handle

    async def entries(
        self,
        after: str = str(START),
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[JobState], None] | None = None,
    ) -> AsyncIterator[Received]:
        """Yield the entries of the stream as they come, up to and including the one that ends it."""
        with connection.translated(self._url):
            redis, reporter = await self._clients.get(), await self._clients.reporter()
            ack, answered = Acknowledgement(self.id), partial(connection.has_answered, redis)
            entries = read_entries(
                ack, self._url, EntryId.parse(after), timeout_s=timeout_s, on_wait=on_wait, answered=answered
            )
            with reporter.reporting(ack):
                if self._wait_for_job:
                    await run_async(await_job(self.id, self._wait_for_job), redis)
                async for received in stream_async(entries, redis):
                    yield received

    @asynccontextmanager
    async def keep(self) -> AsyncIterator[None]:
        """Count as a reader of the job in a `with` block, without reading its stream."""
        with connection.translated(self._url):
            reporter = await self._clients.reporter()
        with reporter.reporting(Acknowledgement(self.id)):
            yield

    async def chunks(self, after: str = str(START), *, timeout_s: float | None = None) -> AsyncIterator[Chunk]:
        """Yield the audio as it is made, each sample once, from the start or after the id of the last chunk you had."""
        listener = await self.listener(after)
        async for received in self.entries(after, timeout_s=timeout_s):
            if chunk := listener.hear(received):
                yield chunk

    async def listener(self, after: str = str(START)) -> Listener:
        """Return a listener that continues after an entry; `chunks` uses it to turn entries into chunks."""
        entry_id = EntryId.parse(after)
        if entry_id == START:
            return Listener()
        with connection.translated(self._url):
            return Listener(*await run_async(ask_position(self.id, entry_id), await self._clients.get()))

    async def save(self, path: str | Path, *, timeout_s: float | None = None) -> End:
        """Write the speech to a file as it is made, and return the end entry. The suffix chooses the format."""
        from voxspool.audio.recorder import Recorder

        with Recorder(Path(path)) as recorder:
            async for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                await asyncio.to_thread(recorder.add, received.entry)
                if isinstance(received.entry, End):
                    return received.entry
        raise unended(self.id)

    @overload
    def encode(self, format: str, *, to: None = None, timeout_s: float | None = None) -> AsyncIterator[bytes]: ...
    @overload
    def encode(self, format: str, *, to: BinaryIO, timeout_s: float | None = None) -> Awaitable[End]: ...
    def encode(
        self,
        format: str,  # noqa: A002 - the usual word
        *,
        to: BinaryIO | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[bytes] | Awaitable[End]:
        """Encode the speech as it is made: yield bytes, or write them to a file object and return the end entry.

        Use it as `async for data in speech.encode("mp3")`, or as `await speech.encode("mp3", to=file)`. Encoding and
        `to.write` run in a thread of the loop's pool.
        """
        from voxspool.audio.stream_encoder import check_format

        check_format(format)
        encoded = self._encoded(format, timeout_s)
        if to is not None:
            return self._written(encoded, to)
        return (data async for _, data in encoded if data)

    async def _encoded(self, name: str, timeout_s: float | None) -> AsyncIterator[tuple[Entry, bytes]]:
        """Yield each entry to the end, with the bytes that it completes."""
        from voxspool.audio.stream_encoder import StreamEncoder

        end = await self.end()
        with StreamEncoder(name, end.pos if end else None) as encoder:
            async for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                yield received.entry, await asyncio.to_thread(encoder.add, received.entry)

    async def _written(self, encoded: AsyncIterator[tuple[Entry, bytes]], to: BinaryIO) -> End:
        """Write the bytes of a speech; return the end entry."""
        async for entry, data in encoded:
            await asyncio.to_thread(to.write, data)
            if isinstance(entry, End):
                return entry
        raise unended(self.id)

    async def play(self, *, timeout_s: float | None = None) -> None:
        """Play the speech on the default loudspeaker as it is made; return when it has been heard."""
        await asyncio.to_thread(self._speech.play, timeout_s=timeout_s)

    async def wait(self, *, timeout_s: float | None = None) -> End:
        """Wait for the end, without keeping the audio; return the end entry."""
        async for received in self.entries(timeout_s=timeout_s):
            raise_for(received.entry)
            if isinstance(received.entry, End):
                return received.entry
        raise unended(self.id)

    async def status(self) -> JobState:
        """Return the state of the job. Raises UnknownJobError."""
        with connection.translated(self._url):
            return await run_async(ask_state(self.id), await self._clients.get())

    async def why_unserved(self, queue: str) -> str | None:
        """Return why no worker takes jobs from a queue, and what to do; None if a live worker serves it."""
        with connection.translated(self._url):
            return await run_async(waiting.why_unserved(self._url, queue), await self._clients.get())

    async def end(self) -> End | None:
        """Return the end entry, with the times of the job; None if the speech has not ended. It does not wait."""
        with connection.translated(self._url):
            return await run_async(ask_end(self.id), await self._clients.get())

    async def spec(self) -> JobSpec | None:
        """Return what was enqueued; None if RQ has no record of the job, or one that is not voxspool's."""
        return await asyncio.to_thread(self._speech.spec)

    async def cancel(self, by: str = "client") -> str:
        """Cancel the job, queued or running; a running one stops at its next chunk."""
        return await asyncio.to_thread(self._speech.cancel, by)

    async def delete(self, by: str = "client") -> None:
        """Delete every trace of the job: its audio, its state, and RQ's record with the text."""
        await asyncio.to_thread(self._speech.delete, by)

    async def queue_place(self) -> QueuePlace | None:
        """Return how many jobs are ahead of a waiting job, and an estimate of its wait; None if it does not wait."""
        with connection.translated(self._url):
            return await run_async(ask_queue_place(self.id), await self._clients.get())
