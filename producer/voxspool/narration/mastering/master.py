"""A track -> the samples of its files, with the gain of the book, in blocks. It does not know file formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from voxspool.narration.mastering.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from voxspool.narration.track import Track
    from voxspool.store.segments import Store

_BLOCK_SAMPLES: Final = 65_536
"""Maximum size of a block: the author of a book sets the length of a pause."""


PresetName = Literal["podcast", "ebu", "acx"]


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain and the ceiling for all samples of a book."""

    preset: PresetName
    db: float
    ceiling_dbfs: float
    """The limiter's ceiling."""


def master(track: Track, store: Store, gain: Gain | None) -> Iterator[NDArray[np.int16]]:
    """Yield the samples of a chapter in order, shape (n,), as many as the track has; without a gain, as spoken.

    A chapter is limited by itself, so it sounds the same in every file that contains it. Raises StoreError.
    """
    blocks = _blocks(track, store)
    if gain is None:
        yield from blocks
        return
    limiter = Limiter(track.sample_rate, gain_db=gain.db, ceiling_dbfs=gain.ceiling_dbfs)
    for pcm in blocks:
        yield limiter.feed(pcm)
    yield limiter.finish()


def _blocks(track: Track, store: Store) -> Iterator[NDArray[np.int16]]:
    for pcm in track.audio(store):
        for start in range(0, len(pcm), _BLOCK_SAMPLES):
            yield pcm[start : start + _BLOCK_SAMPLES]
