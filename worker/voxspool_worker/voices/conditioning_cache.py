"""Values that a model computes from the clips of a voice: each is computed once, then read from memory, disk or Redis.

    memory   the result of `load`, for this process               microseconds; no input or output
    disk     <folder>/<key>.safetensors, for this machine         milliseconds
    Redis    the same bytes, for all workers; 30 days             milliseconds

The key is a hash of everything that the value depends on, so a value never changes and is never invalidated. If a
value is in none of the three, one of all threads and processes that ask for it computes it, and the others wait. If
Redis does not answer, or the disk is full or read-only, values are only computed more often. This module handles
arrays and keys; it does not import torch, and reads no clips and no voices.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from cachetools import LRUCache

from voxspool_worker.voices.catalog import Prepared
from voxspool_worker.voices.conditioning_format import UnfitConditioningError, check_installed, encode
from voxspool_worker.voices.conditioning_tiers import DiskTier, RedisTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from voxspool_worker.voices.conditioning_format import Arrays

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_VALUES: Final = 256
"""Number of values in memory: 130 KB each (XTTS: 32 x 1024 latents and 512 of the speaker, fp32), 33 MB in all."""


class ConditioningCache(Generic[T]):
    """Conditioning by key, in three tiers. Any thread may use it."""

    def __init__(
        self, load: Callable[[Arrays], T], *, folder: Path, redis: Redis | None, max_values: int = MAX_VALUES
    ) -> None:
        """Create the cache. `load` turns arrays into the value that memory holds.

        It raises UnfitConditioningError or KeyError for arrays that the model cannot use. Such a value in Redis or on
        the disk counts as damaged; a computed one is stored nowhere.
        Without `redis` each machine computes for itself. The client must give up soon if Redis does not answer. Raises
        MissingExtraError if safetensors is not installed.
        """
        check_installed()
        self._load = load
        self._disk = DiskTier(folder, self._fault_of)
        self._shared = RedisTier(redis, self._fault_of) if redis is not None else None
        self._memory: LRUCache[str, T] = LRUCache(max_values)
        self._lock = threading.Lock()
        self._key_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def get(self, key: str, compute: Callable[[], Arrays]) -> tuple[T, Prepared]:
        """Return the value of a key, and its source. Raises the errors of `compute` and `load`."""
        started = time.perf_counter()
        value, source = self._in_memory(key), "memory"
        if value is None:
            with self._key_lock(key):
                value = self._in_memory(key)  # another thread may have loaded it meanwhile
                if value is None:
                    arrays, source = self._read_or_compute(key, compute)
                    value = self._load(arrays)  # arrays that fit; a computed value was checked before it was stored
                    with self._lock:
                        self._memory[key] = value
        prepared = Prepared(source, time.perf_counter() - started)
        _log(key, prepared)
        return value, prepared

    def _read_or_compute(self, key: str, compute: Callable[[], Arrays]) -> tuple[Arrays, str]:
        """Return a value that is not in memory, and its source; store it in the tiers that lack it."""
        if (found := self._disk.read(key)) is not None:
            return found, "disk"
        with self._shared.value_or_lock(key) if self._shared else contextlib.nullcontext() as found:
            arrays = compute() if found is None else found
            if found is None:
                self._load(arrays)  # raises before a value that does not fit is stored
            data = encode(arrays)
            if found is None and self._shared:
                self._shared.write(key, data)
            self._disk.write(key, data)
        return arrays, "computed" if found is None else "redis"

    def _fault_of(self, arrays: Arrays) -> str:
        """Return why the model cannot use arrays; empty if it can."""
        try:
            self._load(arrays)
        except KeyError as error:
            return f"it has no array {error}"
        except UnfitConditioningError as error:
            return str(error)
        return ""

    def _in_memory(self, key: str) -> T | None:
        """Return a value from memory, if it is there."""
        with self._lock:
            return self._memory.get(key)

    @contextlib.contextmanager
    def _key_lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a key within this process; the lock exists while a thread holds it or waits for it."""
        with self._lock:
            lock = self._key_locks.setdefault(key, threading.Lock())
        with lock:
            yield


def _log(key: str, prepared: Prepared) -> None:
    """Log where a value came from; one from memory at debug level."""
    if prepared.source == "computed":
        log.info("voice.computed key=%s seconds=%.3f", key, prepared.seconds)
    else:
        level = logging.DEBUG if prepared.source == "memory" else logging.INFO
        log.log(level, "voice.cached key=%s source=%s seconds=%.4f", key, prepared.source, prepared.seconds)
