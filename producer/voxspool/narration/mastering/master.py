"""Tracks -> the samples of all files of a book, with the gain applied, in blocks. File formats are not known here."""

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
"""Most samples at once: a pause may be as long as its author likes."""


PresetName = Literal["podcast", "ebu", "acx"]


@dataclass(frozen=True, slots=True)
class Gain:
    """What is done to every sample of a book."""

    preset: PresetName
    db: float
    ceiling_dbfs: float
    """What the limiter lets nothing pass."""


def master(track: Track, store: Store, gain: Gain | None) -> Iterator[NDArray[np.int16]]:
    """Yield a chapter's samples in order, shape (n,), as many as the track has. Without a gain they are as spoken.

    Each chapter by itself: it sounds the same in every file that it is in. Raises StoreError.
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
