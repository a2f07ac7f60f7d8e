"""The entries of a job's stream become an audio file.

A recorder applies the rules of a stream: positions have no gap, a mark completes a segment, a later attempt replaces
the samples that no mark has completed. It does not use Redis and does not wait. Its caller handles `failed` and
`cancelled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool.audio.files import Writer, check_output
from voxspool.errors import ProtocolError, StreamGapError
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Begin, End, Entry, Mark

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

NO_BEGIN: Final = "audio came before any begin: the start of the stream is missing; enqueue the job again"


class Recorder:
    """Writes a speech to a partial file, chunk by chunk, and renames it to its final name at the end.

    Use it as a context manager, and `add` every entry of the stream in order. After the `end` entry the file is there,
    synced to the disk, with the permissions of any new file. If it is left before that, nothing remains, and an
    existing file of that name stays as it was. A later attempt may replace samples since the last mark, so those
    stay in memory: seconds of speech.

    Raises OutputError if the file cannot be written, StreamGapError if samples are missing, ProtocolError if entries
    contradict each other.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self._path = path
        self._held = bytearray()  # s16le samples [written, samples): their segment has no mark yet
        self._written = 0
        self._sample_rate: int | None = None
        self._writer: Writer | None = None
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.discard()

    @property
    def samples(self) -> int:
        """The number of samples so far, including those still held in memory."""
        return self._written + len(self._held) // SAMPLE_BYTES

    @property
    def sample_rate(self) -> int | None:
        """The sample rate of the speech in Hz (an Opus file may have another); None before the first `begin`."""
        return self._sample_rate

    def add(self, entry: Entry) -> None:
        """Record the next entry of the stream. `failed` and `cancelled` change nothing."""
        if self._done:
            raise ProtocolError(f"{self._path} is finished, and yet a {entry.type} follows the end")
        match entry:
            case Begin():
                self._begin(entry)
            case Audio():
                self._hold(entry)
            case Mark():
                self._write_until(entry.end_pos)
            case End():
                self._finish(entry)
            case _:
                pass

    def _begin(self, begin: Begin) -> None:
        """Start, or drop the samples that this attempt will repeat."""
        if begin.pos > self.samples:
            raise gap(begin.pos, self.samples)
        if begin.pos < self._written:
            raise ProtocolError(
                f"an attempt begins at sample {begin.pos}, within what a mark closed at {self._written}"
            )
        if self._sample_rate not in (None, begin.sample_rate):
            raise ProtocolError(
                f"an attempt speaks at {begin.sample_rate} Hz, the one before at {self._sample_rate} Hz"
            )
        self._sample_rate = begin.sample_rate
        del self._held[(begin.pos - self._written) * SAMPLE_BYTES :]
        if self._writer is None:
            self._writer = Writer(self._path, begin.sample_rate)

    def _hold(self, audio: Audio) -> None:
        self._begun()
        if audio.pos != self.samples:
            raise gap(audio.pos, self.samples)
        self._held += audio.pcm

    def _write_until(self, end_pos: int) -> None:
        """Write the held samples before `end_pos`: no attempt will replace them."""
        writer = self._begun()
        if end_pos > self.samples:
            raise gap(end_pos, self.samples)
        size_bytes = max(0, end_pos - self._written) * SAMPLE_BYTES
        if size_bytes:
            writer.write(np.frombuffer(bytes(self._held[:size_bytes]), "<i2").astype(np.int16, copy=False))
            del self._held[:size_bytes]
            self._written = end_pos

    def _finish(self, end: End) -> None:
        writer = self._begun()
        if end.pos != self.samples:
            raise gap(end.pos, self.samples)
        self._write_until(end.pos)
        writer.finish()
        self._done = True

    def _begun(self) -> Writer:
        if self._writer is None:
            raise StreamGapError(NO_BEGIN)
        return self._writer


def gap(pos: int, have: int) -> StreamGapError:
    """Return the error for a stream that continues at sample `pos` although `have` samples have come."""
    return StreamGapError(
        f"the stream goes on at sample {pos} and {have} have come: audio is missing or doubled; enqueue the job again"
    )
