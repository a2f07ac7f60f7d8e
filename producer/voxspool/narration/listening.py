"""The stream of a chapter -> a stream like that of a speech: before each mark comes its audio, read from the store.

Everything that reads a speech (Recorder, Listener, play) can then read a chapter too, while it is narrated or later.
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
"""Maximum number of samples in an entry, a second at the lowest sample rate. Playing can be interrupted between two."""
_LONGEST_SAMPLES: Final = 3600 * 48_000
"""Maximum length of a mark: an hour at 48 kHz. A segment lasts seconds and its pause at most a minute, but anybody may
have written the stream, and endless silence would fill a disk."""


def voiced(received: Iterable[Received], place: str, given_samples: int = 0) -> Iterator[Received]:
    """Yield the entries of a job, and for a chapter the audio of each mark before it: its segment, then silence.

    The entries of a speech are yielded as they are; the store at `place` is opened only for a chapter. `given_samples`
    is the position of the first entry. Raises StoreError if a segment is missing from the store, or is longer than its
    mark.
    """
    store = functools.cache(lambda: _store(place))
    for one in received:
        if isinstance(one.entry, Mark) and _is_mute(one.entry, given_samples):
            for audio in _audio(one.entry, store()):
                yield Received(one.id, audio)
        yield one
        given_samples = position_after(one.entry)


def _is_mute(mark: Mark, given_samples: int) -> bool:
    """Return whether the audio of a mark is not in the stream because the job is a chapter."""
    return mark.end_pos > given_samples and bool(mark.key or mark.fault)


def _audio(mark: Mark, store: Store) -> Iterator[Audio]:
    """Yield the audio of a mark from the store, in chunks, and silence for the rest of it."""
    said = store.read(mark.key).astype("<i2").tobytes() if mark.key else b""
    length = mark.end_pos - mark.pos
    if not len(said) // SAMPLE_BYTES <= length <= _LONGEST_SAMPLES:
        raise StoreError(
            f"segment {mark.key or mark.segment} has {len(said) // SAMPLE_BYTES} samples in the store, but {length} in "
            "the chapter; narrate the book again"
        )
    silent = bytes(CHUNK_SAMPLES * SAMPLE_BYTES)
    for start in range(0, length, CHUNK_SAMPLES):
        stop = min(start + CHUNK_SAMPLES, length)
        pcm = said[start * SAMPLE_BYTES : stop * SAMPLE_BYTES]
        yield Audio(mark.pos + start, pcm + silent[: (stop - start) * SAMPLE_BYTES - len(pcm)])


def _store(place: str) -> Store:
    """Open a store. Its libraries are imported only here, so that reading a speech does not wait for them."""
    from voxspool.store.segments import Store

    return Store(place)
