"""The stream of a chapter -> the stream that a speech has: before each mark comes its audio, read from the store.

With it everything that follows a speech (Recorder, Listener, play) can follow a chapter, during the narration or
later.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from voxspool.errors import StoreError
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Mark, position_after
from voxspool.reading.reader import Received

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from voxspool.store.segments import Store

CHUNK_SAMPLES: Final = 8_000
"""The most audio in one entry: a second at the lowest rate. Who plays it can be interrupted between two."""
_LONGEST_SAMPLES: Final = 3600 * 48_000
"""An hour at 48 kHz: what a mark may last. A segment lasts seconds and its pause a minute, but anybody may have written
the stream, and silence without end would fill a disk."""


def voiced(received: Iterable[Received], place: str, given_samples: int = 0) -> Iterator[Received]:
    """Yield a chapter's entries as a speech has them: before each mark the audio of its key, then silence to its end.

    The entries of a speech are given as they are: the store at the place is opened where a chapter asks for it.
    `given_samples` is where the first entry goes on. Raises StoreError where the store has lost a segment, or has
    another than the one that was marked.
    """
    store = functools.cache(lambda: _store(place))
    for one in received:
        if isinstance(one.entry, Mark) and _is_mute(one.entry, given_samples):
            for audio in _audio(one.entry, store()):
                yield Received(one.id, audio)
        yield one
        given_samples = position_after(one.entry)


def _is_mute(mark: Mark, given_samples: int) -> bool:
    """Whether a mark's audio does not stand before it, as it does in a speech, and not because it was lost there."""
    return mark.end_pos > given_samples and bool(mark.key or mark.fault)


def _audio(mark: Mark, store: Store) -> Iterator[Audio]:
    """Yield what the store has for a mark, in chunks, and silence for the rest of it."""
    said = store.read(mark.key).astype("<i2").tobytes() if mark.key else b""
    length = mark.end_pos - mark.pos
    if not len(said) // SAMPLE_BYTES <= length <= _LONGEST_SAMPLES:
        raise StoreError(
            f"segment {mark.key or mark.segment} lasts {len(said) // SAMPLE_BYTES} samples in the store, and {length} "
            "in the chapter; narrate again"
        )
    silent = bytes(CHUNK_SAMPLES * SAMPLE_BYTES)
    for start in range(0, length, CHUNK_SAMPLES):
        stop = min(start + CHUNK_SAMPLES, length)
        pcm = said[start * SAMPLE_BYTES : stop * SAMPLE_BYTES]
        yield Audio(mark.pos + start, pcm + silent[: (stop - start) * SAMPLE_BYTES - len(pcm)])


def _store(place: str) -> Store:
    """Open a store; its libraries are loaded where a chapter is heard."""
    from voxspool.store.segments import Store

    return Store(place)
