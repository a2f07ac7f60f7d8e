"""Client and Speech for asyncio: the same stream, read by the same rules (reader.Cursor and reader.judge).

RQ is not asynchronous, so calls that use its queues run in a thread of the loop's pool; following a stream is native.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis import asyncio as redis_asyncio

from voxspool import connection
from voxspool.client import Chunk, Client, unended
from voxspool.protocol import keys
from voxspool.protocol.stream import START, End, EntryId, position_after
from voxspool.reading import acknowledge
from voxspool.reading.acknowledge import Acknowledgement
from voxspool.reading.reader import (
    COUNT,
    Cursor,
    Received,
    ask,
    block_ms,
    ended_without_entry,
    judge,
    raise_for,
    silent_too_long,
)
from voxspool.reading.waiting import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self

    from typing_extensions import Unpack

    from voxspool.client import Overview, Speech, SpeechOptions
    from voxspool.reading.reader import JobState
    from voxspool.settings import Settings
    from voxspool.workers import WorkerCard


REPLY_S: Final = 60.0
"""How long a reply may take, with all of redis-py's retries, in seconds: a restart of Redis is shorter."""

T = TypeVar("T")


class AsyncClient:
    """A producer's and consumer's side of one Redis, for asyncio."""

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """Prepare; the first call connects. Without a URL, the environment names it."""
        self._client = Client(redis_url, settings=settings)
        self._redis = connection.connect_async(self._client.url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()
        await self._redis.aclose()

    async def enqueue(self, text: str, **options: Unpack[SpeechOptions]) -> AsyncSpeech:
        """Enqueue a speech; see Client.enqueue."""
        return self._wrap(await asyncio.to_thread(self._client.enqueue, text, **options))

    def speech(self, job_id: str) -> AsyncSpeech:
        """Return the handle of a job by its id. Nothing is asked yet."""
        return self._wrap(self._client.speech(job_id))

    async def workers(self) -> list[WorkerCard]:
        """Return the live workers' cards."""
        return await asyncio.to_thread(self._client.workers)

    async def voices(self) -> dict[str, list[WorkerCard]]:
        """Return every voice that a live worker has, with those workers."""
        return await asyncio.to_thread(self._client.voices)

    async def pause(self, *words: str) -> list[str]:
        """Let queues wait; see Client.pause."""
        return await asyncio.to_thread(self._client.pause, *words)

    async def resume(self, *words: str) -> list[str]:
        """Let paused queues go on; see Client.resume."""
        return await asyncio.to_thread(self._client.resume, *words)

    async def overview(self) -> Overview:
        """Return the queues, the live workers and the running jobs."""
        return await asyncio.to_thread(self._client.overview)

    def _wrap(self, speech: Speech) -> AsyncSpeech:
        """Return the asynchronous handle of a speech."""
        return AsyncSpeech(self._redis, speech, self._client.url)


class AsyncSpeech:
    """One job, for asyncio. Holds an id and a connection, no data."""

    def __init__(self, redis: redis_asyncio.Redis, speech: Speech, url: str) -> None:
        self.id = speech.id
        self._redis = redis
        self._speech = speech
        self._url = url

    def __repr__(self) -> str:
        return f"AsyncSpeech({self.id!r})"

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self.chunks()

    async def entries(
        self,
        after: str = str(START),
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[JobState], None] | None = None,
    ) -> AsyncIterator[Received]:
        """Yield the stream's entries as they come, to the terminal one; see Speech.entries."""
        cursor, ack, watch = Cursor(EntryId.parse(after)), Acknowledgement(self.id), Watch()
        heard = time.monotonic()
        while not cursor.closed:
            await self._acknowledge(ack)
            with connection.translated(self._url):
                stream: Any = {keys.audio(self.id): str(cursor.after)}
                block = block_ms(timeout_s, time.monotonic() - heard)
                received = cursor.take(await bounded(self._redis.xread(stream, count=COUNT, block=block)))
            for one in received:
                yield one
                ack.pos = position_after(one.entry)
                await self._acknowledge(ack)
            if received:
                heard = time.monotonic()
                watch.heard()
                continue
            state = await self.status()
            with connection.translated(self._url):
                if state.over and not await self._more_after(cursor.after):
                    ended_without_entry(state, cursor, there=bool(await self._redis.exists(keys.audio(self.id))))
                    return
            silent_too_long(state, time.monotonic() - heard, timeout_s)
            if watch.due(state.state):
                watch.warn(await asyncio.to_thread(self._speech.why_unserved, state.queue))
            if on_wait:
                on_wait(state)

    async def chunks(self, after: str = str(START), *, timeout_s: float | None = None) -> AsyncIterator[Chunk]:
        """Yield the audio as it is made, each sample once; see Speech.chunks, for `timeout_s` too."""
        listener = await asyncio.to_thread(self._speech.listener, after)
        async for received in self.entries(after, timeout_s=timeout_s):
            if chunk := listener.hear(received):
                yield chunk

    async def save(self, path: str | Path, *, timeout_s: float | None = None) -> End:
        """Write the speech to a file as it is made; see Speech.save."""
        from voxspool.audio.recorder import Recorder

        with Recorder(Path(path)) as recorder:
            async for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                await asyncio.to_thread(recorder.add, received.entry)
                if isinstance(received.entry, End):
                    return received.entry
        raise unended(self.id)

    async def play(self, *, timeout_s: float | None = None) -> None:
        """Play the speech as it is made, from a thread of the loop's pool; see Speech.play."""
        await asyncio.to_thread(self._speech.play, timeout_s=timeout_s)

    async def wait(self, *, timeout_s: float | None = None) -> End:
        """Wait for the end, without keeping the audio; return the end entry. See Speech.wait."""
        async for received in self.entries(timeout_s=timeout_s):
            raise_for(received.entry)
            if isinstance(received.entry, End):
                return received.entry
        raise unended(self.id)

    async def status(self) -> JobState:
        """Return the state of the job. Raises UnknownJobError."""
        with connection.translated(self._url):
            async with self._redis.pipeline(transaction=False) as pipeline:
                ask(pipeline, self.id)
                return judge(self.id, await bounded(pipeline.execute()))

    async def end(self) -> End | None:
        """Return the end entry of a speech that has ended; see Speech.end."""
        return await asyncio.to_thread(self._speech.end)

    async def cancel(self, by: str = "client") -> str:
        """Cancel the job; see Speech.cancel."""
        return await asyncio.to_thread(self._speech.cancel, by)

    async def _acknowledge(self, ack: Acknowledgement) -> None:
        """Report how far the reader is; see Reader."""
        if not ack.due:
            return
        with connection.translated(self._url):
            try:
                call: Any = self._redis.register_script(acknowledge.script())(**ack.call)
                ack.heard(await bounded(call))
            except redis.ResponseError:
                ack.forbidden()

    async def _more_after(self, entry_id: EntryId) -> Any:  # noqa: ANN401 - truthy where there is an entry
        """Whether the stream goes on."""
        return await self._redis.xrange(keys.audio(self.id), f"({entry_id}", count=1)


async def bounded(work: Awaitable[T]) -> T:
    """Wait for a reply, but not for ever; cancelled, be cancelled at once.

    redis-py's own timeout waits by asyncio.wait_for, which before Python 3.12 now and then swallows a cancellation.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=REPLY_S)
        if not done:
            raise redis.TimeoutError(f"no reply within {REPLY_S:g} s")
        return task.result()
    finally:
        task.cancel()
