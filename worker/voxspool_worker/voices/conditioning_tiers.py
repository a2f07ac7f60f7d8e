"""Store conditioning outside the process: in a folder for this machine, and in Redis for all workers.

An error of the disk or of Redis is logged and never raised: the value is then computed more often. Both are places
that others can write to, so a value is checked before it is used or copied. A bad one is logged and computed again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from redis.exceptions import LockError, RedisError, ResponseError

from voxspool.files.atomic_file import write_whole
from voxspool.files.private_files import FILE_MODE, make_private
from voxspool.files.regular_file import read_regular
from voxspool.protocol import keys
from voxspool_worker.voices.conditioning_format import MAX_VALUE_BYTES, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis
    from redis.lock import Lock

    from voxspool_worker.voices.conditioning_format import Arrays

    FaultOf: TypeAlias = Callable[[Arrays], str]

log = logging.getLogger(__name__)
R = TypeVar("R")

MAX_WAIT_S: Final = 60.0
"""Longest wait for another process to compute a value, in seconds; after it the value is computed here."""
POLL_S: Final = 0.05
"""Polling interval of a process that waits for a value, in seconds. Computing one takes seconds."""
RENEWAL_S: Final = keys.CONDITIONING_LOCK_TTL_S / 3
"""Interval between two renewals of the lock by the process that computes, in seconds."""


def _any(arrays: Arrays) -> str:
    """Find no fault in any arrays."""
    del arrays
    return ""


class DiskTier:
    """The values that this machine has: one file for each."""

    def __init__(self, folder: Path, fault_of: FaultOf = _any) -> None:
        """Create the tier. `fault_of` returns why the model cannot use arrays; empty if it can."""
        self._folder = folder.expanduser()
        self._fault_of = fault_of

    def read(self, key: str) -> Arrays | None:
        """Return a value, or None if there is no file with one that the model can use."""
        path = self._path(key)
        try:
            data = read_regular(path, MAX_VALUE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("conditioning.unreadable file=%s error=%s; it is computed again", path, error)
            return None
        found, fault = _checked(data, self._fault_of)
        if found is None:
            log.warning("conditioning.damaged file=%s fault=%r; it is computed again", path, fault)
        return found

    def write(self, key: str, data: bytes) -> None:
        """Write a value. Its file appears when it is complete, and replaces a damaged one."""
        try:
            make_private(self._folder)
            write_whole(self._path(key), data, sync=False, mode=FILE_MODE)
        except OSError as error:
            log.warning("conditioning.unwritable folder=%s error=%s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


class RedisTier:
    """The values that all workers share, and a lock for each key: only one process at a time computes a value."""

    def __init__(self, redis: Redis, fault_of: FaultOf = _any) -> None:
        """Create the tier. `fault_of` returns why the model cannot use arrays; empty if it can."""
        self._redis = redis
        self._fault_of = fault_of
        self._unreachable = False

    @contextlib.contextmanager
    def value_or_lock(self, key: str) -> Iterator[Arrays | None]:
        """Wait for a value and yield it, or yield None: the caller computes the value and writes it within the block.

        The lock of the key is held during the block. If its holder dies, it expires after CONDITIONING_LOCK_TTL_S.
        The value is None without a lock if Redis does not answer, or another process takes longer than MAX_WAIT_S.
        """
        lock = self._redis.lock(
            keys.conditioning_lock(key), timeout=keys.CONDITIONING_LOCK_TTL_S, thread_local=False
        )  # another thread renews it
        found, locked = self._try(lambda: self._wait(key, lock)) or (None, False)
        with self._renewed(lock) if locked else contextlib.nullcontext():
            yield found

    def write(self, key: str, data: bytes) -> None:
        """Store a value for all workers, unless Redis has just not answered: the caller must not wait for it again."""
        if not self._unreachable:
            self._try(lambda: self._redis.set(keys.conditioning(key), data, ex=keys.CONDITIONING_TTL_S))

    def _wait(self, key: str, lock: Lock) -> tuple[Arrays | None, bool]:
        """Wait for a value or for the lock. Return the value if there is one, and whether the lock is held."""
        deadline = time.monotonic() + MAX_WAIT_S
        while time.monotonic() < deadline:
            if (found := self._read(key)) is not None:
                return found, False
            if lock.acquire(blocking=False):
                return self._read_again(key, lock)
            time.sleep(POLL_S)
        log.warning("conditioning.awaited_in_vain key=%s seconds=%g", key, MAX_WAIT_S)
        return None, False

    def _read_again(self, key: str, lock: Lock) -> tuple[Arrays | None, bool]:
        """Read a value once more under the lock: its last holder may have written it after the first look."""
        if (found := self._read(key)) is None:
            return None, True
        _release(lock)
        return found, False

    def _read(self, key: str) -> Arrays | None:
        """Return a value and extend its lifetime; delete one that the model cannot use and return None."""
        name = keys.conditioning(key)
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.getrange(name, 0, MAX_VALUE_BYTES)  # one byte more than a value has at most
            pipeline.expire(name, keys.CONDITIONING_TTL_S)
            data, _ = pipeline.execute(raise_on_error=False)
        if data == b"":  # there is none
            return None
        found, fault = _of_redis(data, self._fault_of)
        if found is None:
            log.warning("conditioning.damaged key=%s in=redis fault=%r; it is computed again", key, fault)
            self._redis.delete(name)
        return found

    @contextlib.contextmanager
    def _renewed(self, lock: Lock) -> Iterator[None]:
        """Renew a lock from a thread during the block, and release it afterwards."""
        done = threading.Event()
        thread = threading.Thread(target=self._renew, args=(lock, done), name="conditioning-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._try(lambda: _release(lock))

    def _renew(self, lock: Lock, done: threading.Event) -> None:
        """Renew a lock until the computation is done."""
        while not done.wait(RENEWAL_S):
            self._try(lambda: _extend(lock))

    def _try(self, act: Callable[[], R]) -> R | None:
        """Return the result of `act`, or None if Redis does not answer; only the first time in a row is logged."""
        try:
            result = act()
        except RedisError as error:
            if not self._unreachable:
                log.warning("conditioning.alone error=%s", error)
            self._unreachable = True
            return None
        self._unreachable = False
        return result


def _of_redis(reply: bytes | Exception, fault_of: FaultOf) -> tuple[Arrays | None, str]:
    """Return the arrays in a reply of Redis, or None and why the model cannot use them. Raises Redis's other errors."""
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None, "it is not a string"
    if isinstance(reply, Exception):
        raise reply
    return _checked(reply, fault_of)


def _checked(data: bytes, fault_of: FaultOf) -> tuple[Arrays | None, str]:
    """Return the arrays in a stored value, or None and why the model cannot use them."""
    if len(data) > MAX_VALUE_BYTES:
        return None, f"it is longer than {MAX_VALUE_BYTES} bytes"
    found = decode(data)
    if found is None:
        return None, "it is not what was written"
    fault = fault_of(found)
    return (None, fault) if fault else (found, "")


def _extend(lock: Lock) -> None:
    """Set the lifetime of a lock back to its whole length, unless it has expired: another process may hold it."""
    with contextlib.suppress(LockError):
        lock.reacquire()  # extend() would do the same with PTTL, which the worker's user in Redis may not call


def _release(lock: Lock) -> None:
    """Release a lock, unless it has expired: another process may hold it."""
    with contextlib.suppress(LockError):
        lock.release()
