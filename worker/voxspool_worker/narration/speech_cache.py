"""The segment store for speeches that ask for it (`reuse`): the same sentence in the same voice is spoken once.

A speech does not depend on the store: if it fails or does not answer in time, segments are spoken as without it. The
keys and seeds are those of books, so books and speeches share what was spoken.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from voxspool import background
from voxspool.errors import VoxspoolError
from voxspool_worker.engines.base import SpokenSegment
from voxspool_worker.narration import audio_checks
from voxspool_worker.narration.segment_plan import seed_of, segment_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    import numpy.typing as npt

    from voxspool_worker.engines.base import Engine, SpeechSegment
    from voxspool_worker.narration.store_handle import StoreHandle

    Pcm = npt.NDArray[np.int16]

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)

STORE_WAIT_S: Final = 2.0
"""Longest wait of a speech for the store, in seconds: a segment of the slowest engine takes longer to speak."""
PAUSE_S: Final = 30.0
"""Time for which speeches do without a store that has failed, in seconds."""


class SpeechCache:
    """Finds, reads and stores the segments of speeches. All job threads share it."""

    def __init__(
        self, engine: Engine, store_handle: StoreHandle, worker: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the parts. `worker` is the worker's name, for the store."""
        self._engine = engine
        self._store_handle = store_handle
        self._worker = worker
        self._clock = clock
        self._paused_until = float("-inf")

    def reseeded(self, segments: Iterable[SpeechSegment], seed: int) -> list[SpeechSegment]:
        """Return the segments with seeds that depend on their text and not on their position, as those of books do."""
        return [replace(one, seed=seed_of(seed, one.voice.name, one.text)) for one in segments]

    def find(self, segments: Iterable[SpeechSegment]) -> set[int]:
        """Return the indexes of the segments that need not be spoken: stored ones, and repetitions of earlier ones."""
        keys = {segment.index: segment_key(segment, self._engine) for segment in segments}
        first: dict[str, int] = {}
        for index, key in keys.items():
            first.setdefault(key, index)
        stored = self._within(lambda: [key for key in first if self._store_handle.store().find(key)]) or []
        return {index for index, key in keys.items() if key in stored or first[key] != index}

    def read(self, segment: SpeechSegment) -> tuple[Pcm, SpokenSegment] | None:
        """Return the samples of a segment, shape (n,), and how it was spoken; None if the store does not have it."""
        key = segment_key(segment, self._engine)

        def read() -> tuple[Pcm, SpokenSegment] | None:
            store = self._store_handle.store()
            found = store.find(key)
            return (store.read(key), SpokenSegment(found.seed, found.tries, found.fault)) if found else None

        return self._within(read)

    def write(self, segment: SpeechSegment, pcm: Pcm, spoken: SpokenSegment) -> None:
        """Store a segment that was spoken, samples of shape (n,), unless its audio has a fault."""
        measured = audio_checks.measure(pcm, self._engine.sample_rate)
        if spoken.fault or audio_checks.faults(measured, segment.text, segment.speed):
            return
        facts = {
            "key": segment_key(segment, self._engine), "sample_rate": self._engine.sample_rate,
            "engine": self._engine.name, "model": self._engine.model, "voice": segment.voice.name,
            "language": segment.language, "seed": spoken.seed, "tries": spoken.tries, "fault": "",
            "elapsed_s": 0.0,  # the rows of a speech overlap, so the time of one segment is not known
            "level_dbfs": measured.level_dbfs, "peak_dbfs": measured.peak_dbfs,
            "silent_share": round(measured.silent_share, 4), "worker": self._worker,
        }  # fmt: skip
        self._within(lambda: self._store_handle.store().write(pcm, **facts))

    def _within(self, act: Callable[[], _Result]) -> _Result | None:
        """Return what `act` returns; None if it fails or takes longer than STORE_WAIT_S. Then wait PAUSE_S."""
        if self._clock() < self._paused_until:
            return None
        try:
            return background.start(act).result(STORE_WAIT_S)
        except (VoxspoolError, OSError, ValueError, FutureTimeoutError) as error:
            self._paused_until = self._clock() + PAUSE_S
            why = "no answer in time" if isinstance(error, FutureTimeoutError) else str(error)
            log.warning("speech_store.failed pause_s=%g error=%s", PAUSE_S, why)
            return None
