"""The handle of one job: Speech reads, saves, plays, watches and cancels it; Chunk is a piece of its audio.

A handle holds an id and a connection, and no data: any process can make one from the id (`Client.speech`).
`reading` reads the stream, `audio` writes files and plays.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, overload

from voxspool.connections import connection
from voxspool.errors import RedisUnavailableError, UnknownJobError
from voxspool.protocol.jobs import DEFAULT_KEEP_S, JobSpec
from voxspool.protocol.narration import ChapterSpec
from voxspool.protocol.stream import START, Begin, End, EntryId
from voxspool.queue.ending import cancel, delete
from voxspool.queue.stored_job import read_spec
from voxspool.reading import waiting
from voxspool.reading.acknowledge import Acknowledgement, Reporter
from voxspool.reading.dialogue import run, stream
from voxspool.reading.follow import ask_end, ask_position, ask_state, await_job, read_entries
from voxspool.reading.queue_place import QueuePlace, ask_queue_place
from voxspool.reading.reader import JobState, Received, raise_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO, Self

    import numpy as np
    from numpy.typing import NDArray
    from redis import Redis

    from voxspool.protocol.stream import Entry

LEFT: Final = "its listener, who left"
"""Who cancelled a job whose `with` block was left, as its cancelled entry says."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of audio, as the worker published it: some 50 ms."""

    id: str
    """The id of its entry in the stream. `chunks(after=…)` continues after it."""
    pos: int
    """The position of its first sample in the speech."""
    sample_rate: int
    """In Hz; the same for all chunks of a speech."""
    pcm: bytes
    """The samples: signed 16-bit little-endian, mono."""

    def as_int16(self) -> NDArray[np.int16]:
        """Return the samples as a NumPy array of int16, shape (n,). It is read-only and shares the memory of `pcm`."""
        import numpy as np

        return np.frombuffer(self.pcm, "<i2").astype(np.int16, copy=False)

    def as_float32(self) -> NDArray[np.float32]:
        """Return the samples as a new NumPy array of float32, shape (n,), from -1 to below 1."""
        import numpy as np

        return self.as_int16().astype(np.float32) / np.float32(2**15)


class Speech:
    """One job: its audio while it is made, its state, its end.

    Iterating over it yields its chunks from the start. Threads may share a Speech.

    `with client.enqueue(text, live=True) as speech:` cancels the job when the block is left before its end. This holds
    for each job with `live`, `live_s` or `window_s` that this handle enqueued. Other jobs go on.
    """

    def __init__(
        self, redis: Redis, job_id: str, url: str, reporter: Reporter | None = None, *, wait_for_job: float = 0,
        owned: bool = False,
    ) -> None:  # fmt: skip
        """Make a handle. `reporter` sends the reports of its readers; an `owned` job ends with the `with` block."""
        self.id = job_id
        self._redis = redis
        self._url = url
        self._wait_for_job = wait_for_job
        self._reporter = reporter or Reporter(redis)
        self._owned = owned
        self._blocks: list[AbstractContextManager[None]] = []

    def __repr__(self) -> str:
        return f"Speech({self.id!r})"

    def __iter__(self) -> Iterator[Chunk]:
        return self.chunks()

    def __enter__(self) -> Self:
        """Keep the job until the block is left; see `keep`."""
        block = self.keep()
        block.__enter__()
        self._blocks.append(block)
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel the job if it is not over, this handle enqueued it, and it is live; otherwise it goes on."""
        self._blocks.pop().__exit__(None, None, None)
        self._leave()

    def _leave(self) -> None:
        """Cancel the job if this handle enqueued it and it is live. Without Redis, its `live_s` ends it."""
        if self._owned:
            with contextlib.suppress(UnknownJobError, RedisUnavailableError):
                self.cancel(LEFT)

    def entries(
        self,
        after: str = str(START),
        *,
        timeout_s: float | None = None,
        on_wait: Callable[[JobState], None] | None = None,
    ) -> Iterator[Received]:
        """Yield the entries of the stream as they come, up to and including the one that ends it.

        `after` is the id of the last entry that you had. `timeout_s` is the longest silence to accept, in seconds;
        without it the wait lasts as long as the job lives. `on_wait` is called with the job's state after each second
        of silence. If no worker takes the job, a NoWorkerWarning is issued after two seconds. If Redis goes away while
        it is read, a RedisAwayWarning is issued, and the reader waits until Redis is back or `timeout_s` has passed.

        Until the iterator is closed it counts as a reader of a live job, however slowly it is read; see `keep`.

        Raises UnknownJobError if the job or its stream is gone, StreamGapError if entries are missing, ProtocolError if
        one cannot be read, DeadlineError after `timeout_s` of silence, RedisUnavailableError. The entries `failed` and
        `cancelled` are yielded, not raised; if the job failed or was cancelled without such an entry,
        SpeechFailedError or SpeechCancelledError is raised.
        """
        ack, answered = Acknowledgement(self.id), partial(connection.has_answered, self._redis)
        entries = read_entries(
            ack, self._url, EntryId.parse(after), timeout_s=timeout_s, on_wait=on_wait, answered=answered
        )
        with connection.translated(self._url), self._reporter.reporting(ack):
            if self._wait_for_job:
                run(await_job(self.id, self._wait_for_job), self._redis)
            yield from stream(entries, self._redis)

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Count as a reader of the job in a `with` block, without reading its stream.

        A live job ends when nobody reads it. Use this where a program holds the job for a listener who comes later, or
        reads the stream in a way of its own. A job with a window still waits for a reader whose position moves.
        """
        with self._reporter.reporting(Acknowledgement(self.id)):
            yield

    def chunks(self, after: str = str(START), *, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Yield the audio as it is made, each sample once, from the start or after the id of the last chunk you had.

        `timeout_s` is the longest silence to accept, in seconds; without it the wait lasts as long as the job lives.
        Raises SpeechFailedError or SpeechCancelledError if the speech failed or was cancelled, StreamError if there is
        no entry `after`, and what `entries` raises.
        """
        listener = self.listener(after)
        for received in self.entries(after, timeout_s=timeout_s):
            if chunk := listener.hear(received):
                yield chunk

    def listener(self, after: str = str(START)) -> Listener:
        """Return a listener that continues after an entry; `chunks` uses it to turn entries into chunks.

        Raises StreamError if the stream has no such entry, UnknownJobError if it is gone.
        """
        entry_id = EntryId.parse(after)
        if entry_id == START:
            return Listener()
        with connection.translated(self._url):
            return Listener(*run(ask_position(self.id, entry_id), self._redis))

    def save(self, path: str | Path, *, timeout_s: float | None = None) -> End:
        """Write the speech to a file as it is made, and return the end entry. The suffix chooses the format.

        The suffixes are .wav, .flac, .mp3, .ogg and .opus. The file appears under its name when it is complete.
        `timeout_s` is the longest silence to accept, in seconds. Raises OutputError if the file cannot be written, and
        what `chunks` raises; then there is no file.
        """
        from voxspool.audio.recorder import Recorder

        with Recorder(Path(path)) as recorder:
            for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                recorder.add(received.entry)
                if isinstance(received.entry, End):
                    return received.entry
        raise unended(self.id)

    @overload
    def encode(self, format: str, *, to: None = None, timeout_s: float | None = None) -> Iterator[bytes]: ...
    @overload
    def encode(self, format: str, *, to: BinaryIO, timeout_s: float | None = None) -> End: ...
    def encode(
        self,
        format: str,  # noqa: A002 - the usual word
        *,
        to: BinaryIO | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[bytes] | End:
        """Encode the speech as it is made: yield bytes, or write them to a file object and return the end entry.

        `format` is wav, flac, mp3, ogg (Vorbis) or opus. Without `to` this is an iterator; `b"".join(…)` gives all
        bytes. With `to`, a file object that is open for writing bytes, they are written to it as they come.

        Bytes come with each chunk of audio, 50 ms (FLAC: 200 ms, Vorbis: 2 s). While a speech is made its
        length is not known: a WAV then has sizes of 0xFFFFFFFF, as FFmpeg writes to a pipe, and a FLAC a count of 0
        samples. If the speech has ended when `encode` begins to read, both have the true length. An MP3 has a constant
        bit rate, and begins with up to 0.1 s of silence.

        `timeout_s` is the longest silence to accept, in seconds. Raises OutputError at once for an unknown format, and
        later if encoding fails; what `to.write` raises; and what `chunks` raises.
        """
        from voxspool.audio.stream_encoder import check_format

        check_format(format)
        encoded = self._encoded(format, timeout_s)
        if to is None:
            return (data for _, data in encoded if data)
        for entry, data in encoded:
            to.write(data)
            if isinstance(entry, End):
                return entry
        raise unended(self.id)

    def _encoded(self, name: str, timeout_s: float | None) -> Iterator[tuple[Entry, bytes]]:
        """Yield each entry to the end, with the bytes that it completes."""
        from voxspool.audio.stream_encoder import StreamEncoder

        end = self.end()
        with StreamEncoder(name, end.pos if end else None) as encoder:
            for received in self.entries(timeout_s=timeout_s):
                raise_for(received.entry)
                yield received.entry, encoder.add(received.entry)

    def play(self, *, timeout_s: float | None = None) -> None:
        """Play the speech on the default loudspeaker as it is made; return when it has been heard.

        `timeout_s` is the longest silence of its stream to accept, in seconds. Raises MissingExtraError without
        sounddevice, OutputError if the loudspeaker fails, and what `chunks` raises.
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
            return run(ask_state(self.id), self._redis)

    def why_unserved(self, queue: str) -> str | None:
        """Return why no worker takes jobs from a queue, and what to do; None if a live worker serves it."""
        with connection.translated(self._url):
            return run(waiting.why_unserved(self._url, queue), self._redis)

    def end(self) -> End | None:
        """Return the end entry, with the times of the job; None if the speech has not ended. It does not wait.

        Raises ProtocolError if the last entry of the stream cannot be read.
        """
        with connection.translated(self._url):
            return run(ask_end(self.id), self._redis)

    def spec(self) -> JobSpec | None:
        """Return what was enqueued; None if RQ has no record of the job, or one that is not voxspool's."""
        with connection.translated(self._url):
            found = read_spec(self._redis, self.id)
        return found.speech if isinstance(found, ChapterSpec) else found

    def cancel(self, by: str = "client") -> str:
        """Cancel the job, queued or running; a running one stops at its next chunk.

        `by` is shown to the readers of the stream. Returns `cancelled`, `asked` (it runs and will stop), or, if the
        job had ended before, its state. Raises UnknownJobError.
        """
        self.status()
        spec = self.spec()
        with connection.translated(self._url):
            return cancel(self._redis, self.id, by, spec.keep_s if spec else DEFAULT_KEEP_S)

    def delete(self, by: str = "client") -> None:
        """Delete every trace of the job: its audio, its state, and RQ's record with the text.

        A job that is not over is cancelled first, by `by`; its readers get that, and later readers an UnknownJobError.
        Returns when it is gone: within a moment, or in 12 s if its worker does not answer. Raises UnknownJobError.
        """
        with connection.translated(self._url):
            if not delete(self._redis, self.id, by):
                raise UnknownJobError(f"there is no job {self.id!r}, or it has expired")

    def queue_place(self) -> QueuePlace | None:
        """Return how many jobs are ahead of a waiting job, and an estimate of its wait; None if it does not wait."""
        with connection.translated(self._url):
            return run(ask_queue_place(self.id), self._redis)


class Listener:
    """Turns entries into chunks, with each sample once: a new attempt repeats samples of an earlier one."""

    def __init__(self, heard_samples: int = 0, sample_rate: int = 0) -> None:
        from voxspool.audio.playback import Playhead

        self._playhead = Playhead(heard_samples)
        self._sample_rate = sample_rate

    @property
    def heard_samples(self) -> int:
        """The number of samples of the speech that have been heard so far."""
        return self._playhead.given_samples

    def hear(self, received: Received) -> Chunk | None:
        """Return the new samples of an entry as a chunk; None if it has none.

        Raises SpeechFailedError for a `failed` entry, SpeechCancelledError for a `cancelled` one, StreamGapError if
        samples are missing before the entry.
        """
        raise_for(received.entry)
        if isinstance(received.entry, Begin):
            self._sample_rate = received.entry.sample_rate
        pos = self._playhead.given_samples
        pcm = self._playhead.feed(received.entry)
        return Chunk(str(received.id), pos, self._sample_rate, pcm) if pcm else None


def unended(job_id: str) -> UnknownJobError:
    """Return the error for a stream that ended without an end entry."""
    return UnknownJobError(f"the stream of job {job_id} ended before its end could be read; read it from the start")


def _checked(entries: Iterator[Received]) -> Iterator[Entry]:
    """Yield the entries without their ids. Raises SpeechFailedError or SpeechCancelledError for such an entry."""
    for received in entries:
        raise_for(received.entry)
        yield received.entry
