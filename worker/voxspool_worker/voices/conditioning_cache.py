"""What a model computed from the clips of a voice: computed once, then read from memory, disk or Redis.

    memory   what `load` made of the arrays, for this process      microseconds; asks nobody
    disk     <folder>/<key>.safetensors, for this machine          milliseconds
    Redis    the same bytes, for all workers; 30 days              milliseconds

The key names everything that the value depends on, so a value never changes and nothing has to be invalidated. If a
value is in none of the three, one of all threads and processes that ask for it computes it; the others wait for it.
If Redis does not answer, or the disk is full or read-only, it is computed more often, and nothing else happens. It
handles arrays and keys: no torch, no clips, no voices.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from redis.exceptions import RedisError

from voxspool.atomic_file import write_whole
from voxspool.errors import MissingExtraError
from voxspool.hints import missing
from voxspool.protocol import keys
from voxspool_worker import lua
from voxspool_worker.voices.catalog import Prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from redis import Redis

    Arrays: TypeAlias = dict[str, NDArray[np.generic]]

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

VALUE, TURN, BUSY, ALONE = "value", "turn", "busy", "alone"
"""What whoever asks for a value is told: the first three by claim_conditioning.lua."""

MOST_VALUES: Final = 256
"""How many values memory holds: at 130 KB each (XTTS: 32 x 1024 latents, 512 of the speaker, fp32) 33 MB."""
WAIT_S: Final = 60.0
"""How long to wait for another process to compute a value, in seconds, before computing it here."""
LOOK_S: Final = 0.05
"""How often who waits looks, in seconds: computing takes seconds."""
BEAT_S: Final = keys.CONDITIONING_LOCK_TTL_S / 3
"""How often who computes renews its lock, in seconds."""

_HASH: Final = "blake2s"
"""The name under which a file's metadata holds the hash of its arrays."""


def conditioning_key(
    clips: Sequence[str], parameters: Mapping[str, object], model_fingerprint: str, library_version: str
) -> str:
    """Return the key of what a model makes of clips, in hexadecimal: all that the value depends on, and nothing else.

    `clips` are SHA-256 in the order in which the model hears them, `parameters` what JSON can say.
    """
    said = json.dumps([list(clips), dict(parameters), model_fingerprint, library_version], sort_keys=True)
    return hashlib.blake2s(said.encode()).hexdigest()


class ConditioningCache(Generic[T]):
    """Values by key, through three tiers. From any thread."""

    def __init__(
        self, load: Callable[[Arrays], T], *, folder: Path, redis: Redis | None, most: int = MOST_VALUES
    ) -> None:
        """Prepare. `load` makes of arrays what memory holds; without `redis` each machine computes for itself.

        Give it a client that gives up soon. Raises MissingExtraError without safetensors.
        """
        check_installed()
        self._load = load
        self._disk = _Disk(folder)
        self._shared = _Shared(redis) if redis is not None else None
        self._most = most
        self._memory: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def get(self, key: str, compute: Callable[[], Arrays]) -> tuple[T, Prepared]:
        """Return the value of a key, and where it came from. Raises what `compute` and `load` raise."""
        started = time.perf_counter()
        value, source = self._remembered(key), "memory"
        if value is None:
            with self._turn(key):
                value = self._remembered(key)  # another thread may have had the turn before
                if value is None:
                    arrays, source = self._obtain(key, compute)
                    value = self._load(arrays)
                    self._remember(key, value)
        prepared = Prepared(source, time.perf_counter() - started)
        _say(key, prepared)
        return value, prepared

    def _obtain(self, key: str, compute: Callable[[], Arrays]) -> tuple[Arrays, str]:
        """Return a value that is not in memory, and store it in the tiers that lack it."""
        if (found := self._disk.read(key)) is not None:
            return found, "disk"
        with self._shared.turn(key) if self._shared else contextlib.nullcontext() as found:
            arrays = compute() if found is None else found
            data = encode(arrays)
            if found is None and self._shared:
                self._shared.write(key, data)
            self._disk.write(key, data)
        return arrays, "computed" if found is None else "redis"

    def _remembered(self, key: str) -> T | None:
        """Look into memory; what is found is the last to be forgotten."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
            return self._memory.get(key)

    def _remember(self, key: str, value: T) -> None:
        """Keep a value; forget what was not asked for longest."""
        with self._lock:
            self._memory[key] = value
            if len(self._memory) > self._most:
                self._memory.popitem(last=False)

    @contextlib.contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """Hold a key alone within this process; the lock lives as long as somebody holds or awaits it."""
        with self._lock:
            lock = self._turns.setdefault(key, threading.Lock())
        with lock:
            yield


class _Disk:
    """The tier of this machine: a file a value. What goes wrong with it is said, and never raised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()

    def read(self, key: str) -> Arrays | None:
        """Return a value; None where there is none, or a file that is not whole."""
        path = self._path(key)
        try:
            found = decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("conditioning.unreadable file=%s error=%s", path, error)
            return None
        if found is None:
            log.warning("conditioning.damaged file=%s; it is made again", path)
        return found

    def write(self, key: str, data: bytes) -> None:
        """Store a value: the file appears under its name when it is whole, over a damaged one too."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), data, sync=False)
        except OSError as error:
            log.warning("conditioning.unwritable folder=%s error=%s", self._folder, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


class _Shared:
    """The tier of all workers, and whose turn it is to compute. What goes wrong with it is said, and never raised."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = lua.load(redis, "claim_conditioning")
        self._hold = lua.load(redis, "hold_conditioning")
        self._away = False

    @contextlib.contextmanager
    def turn(self, key: str) -> Iterator[Arrays | None]:
        """Wait until a value is there, and give it; or until it is this caller's turn to compute, and give None.

        The turn lasts as long as the block. It goes to another when its holder dies or is silent for
        CONDITIONING_LOCK_TTL_S, and is not waited for beyond WAIT_S.
        """
        token = secrets.token_hex(16)
        said, found = self._await(key, token)
        if said != TURN:
            yield found
            return
        done = threading.Event()
        beat = threading.Thread(target=self._keep, args=(key, token, done), name="voice-turn", daemon=True)
        beat.start()
        try:
            yield None
        finally:
            done.set()
            beat.join()
            self._set_turn(key, token, ttl_s=0)

    def write(self, key: str, data: bytes) -> None:
        """Store a value for all workers."""
        if not self._away:  # it was asked a moment ago, and who waits for the voice need not wait for it again
            self._try(lambda: self._redis.set(keys.conditioning(key), data, ex=keys.CONDITIONING_TTL_S))

    def _await(self, key: str, token: str) -> tuple[str, Arrays | None]:
        """Return VALUE and a value, or TURN, or ALONE: nobody can be asked, or nobody answers in time."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            said, found = self._try(lambda: self._ask(key, token)) or (ALONE, None)
            if said != BUSY:
                return said, found
            time.sleep(LOOK_S)
        log.warning("conditioning.awaited_in_vain key=%s seconds=%g", key, WAIT_S)
        return ALONE, None

    def _ask(self, key: str, token: str) -> tuple[str, Arrays | None]:
        """Ask once: VALUE and a value, TURN, or BUSY."""
        lock_ms = keys.CONDITIONING_LOCK_TTL_S * 1000
        said, *values = self._claim(
            keys=[keys.conditioning(key), keys.conditioning_lock(key)], args=[token, lock_ms, keys.CONDITIONING_TTL_S]
        )
        if not values:
            return said.decode(), None
        found = decode(values[0])
        if found is None:
            log.warning("conditioning.damaged key=%s in Redis; it is made again", key)
            self._redis.delete(keys.conditioning(key))
            return BUSY, None
        return VALUE, found

    def _keep(self, key: str, token: str, done: threading.Event) -> None:
        """Renew the turn while its holder computes."""
        while not done.wait(BEAT_S):
            self._set_turn(key, token, ttl_s=keys.CONDITIONING_LOCK_TTL_S)

    def _set_turn(self, key: str, token: str, ttl_s: int) -> None:
        """Let the turn last so long from now on, if it is still the token's."""
        self._try(lambda: self._hold(keys=[keys.conditioning_lock(key)], args=[token, ttl_s * 1000]))

    def _try(self, work: Callable[[], R]) -> R | None:
        """Do something with Redis; where it is away, give None, and say so the first time."""
        try:
            done = work()
        except RedisError as error:
            if not self._away:
                log.warning("conditioning.alone error=%s", error)
            self._away = True
            return None
        self._away = False
        return done


def check_installed() -> None:
    """Raises MissingExtraError without safetensors."""
    if importlib.util.find_spec("safetensors") is None:
        raise MissingExtraError(missing("a cache of voices", "safetensors", "voxspool-worker", "xtts"))


def encode(arrays: Arrays) -> bytes:
    """Return arrays as safetensors, with a hash of them: safetensors notices a short file, not a wrong one."""
    from safetensors.numpy import save

    # safetensors 0.8 writes an array's memory as it lies: of a transposed one, other values than it has
    arrays = {name: array.copy(order="C") for name, array in arrays.items()}
    return save(arrays, {_HASH: _hash(arrays)})


def decode(data: bytes) -> Arrays | None:
    """Read what `encode` gave; None for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: Arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        stated = json.loads(data[8 : 8 + size])["__metadata__"][_HASH]
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None
    return arrays if stated == _hash(arrays) else None


def _hash(arrays: Arrays) -> str:
    """Return a hash of arrays: names, types, shapes and values."""
    digest = hashlib.blake2s()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _say(key: str, prepared: Prepared) -> None:
    """Log where a value came from; what memory had is nothing new."""
    if prepared.source == "computed":
        log.info("voice.computed key=%s seconds=%.3f", key, prepared.seconds)
    else:
        level = logging.DEBUG if prepared.source == "memory" else logging.INFO
        log.log(level, "voice.cached key=%s source=%s seconds=%.4f", key, prepared.source, prepared.seconds)
