"""Read the cloned voices in Redis: their names and their clips.

Producers store them there (protocol/voices, protocol/keys). Any thread may read. A voice is looked up in Redis when a
job needs it, so a change by a producer takes effect at once; the list of all voices may be REFRESH_S old. If Redis does
not answer, voices that were read before are still found.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError, ResponseError

from voxspool.errors import ProtocolError, VoiceError
from voxspool.protocol import keys
from voxspool.protocol.voices import ClonedVoice, decode_all
from voxspool.recordings import MOST_CLIPS, MOST_TOTAL_BYTES
from voxspool_worker import lua

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

log = logging.getLogger(__name__)

REFRESH_S: Final = 2.0
"""Largest age of the list of all voices, in seconds."""


class VoiceLibrary:
    """The cloned voices in Redis; without a client there are none.

    The client needs short timeouts: if Redis does not answer, each call waits until the client gives up.
    """

    def __init__(self, redis: Redis | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._read_clips = lua.load(redis, "clips") if redis is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Mapping[str, ClonedVoice] = {}  # replaced, never changed: callers keep it without the lock
        self._fresh_until = -1.0

    def known(self) -> Mapping[str, ClonedVoice]:
        """Return all cloned voices by name, as they were at most REFRESH_S ago, or when Redis last answered."""
        with self._lock:
            if self._redis is not None and self._clock() >= self._fresh_until:
                self._refresh(self._redis)
            return self._seen

    def find(self, name: str) -> ClonedVoice | None:
        """Return a cloned voice in its present state; None if there is none of this name, or if it cannot be read.

        If Redis does not answer, return the voice as it was last read. Raises redis-py's error if it was never read: it
        may exist.
        """
        if self._redis is None:
            return None
        try:
            stored: Any = self._redis.hget(keys.VOICES, name)
        except RedisError as error:
            with self._lock:
                if name not in self._seen:
                    raise
                log.warning("voices.away voice=%s error=%s", name, error)
                return self._seen[name]
        return self._remember(name, stored)

    def clips(self, name: str, wanted: Sequence[str]) -> list[bytes]:
        """Return a cloned voice's clips in order, encoded as they are stored (FLAC); `wanted` has their SHA-256.

        Raises VoiceError if Redis has other clips: the voice was replaced, removed or damaged. Passes on redis-py's
        errors.
        """
        stored: Any = self._stored_clips(name)
        if [hashlib.sha256(clip).hexdigest() for clip in stored] != list(wanted):
            raise VoiceError(
                f"the clips of voice {name} have changed: it was replaced or removed, or is damaged; "
                f"enqueue the job again, or add the voice again: voxspool voices add {name} CLIP... --replace"
            )
        return list(stored)

    def _stored_clips(self, name: str) -> list[bytes]:
        """Return what Redis has as the clips of a voice. Raises VoiceError if they are too many, or too large."""
        if self._read_clips is None:
            return []
        try:
            stored: Any = self._read_clips(keys=[keys.clips(name)], args=[MOST_CLIPS, MOST_TOTAL_BYTES])
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            stored = []
        if isinstance(stored, int):
            raise VoiceError(
                f"voice {name} has more than {MOST_CLIPS} clips, or clips of more than {MOST_TOTAL_BYTES} bytes; "
                f"add the voice again: voxspool voices add {name} CLIP... --replace"
            )
        return list(stored)

    def _refresh(self, redis: Redis) -> None:
        """Read all descriptions; keep the old ones if Redis does not answer. The next refresh is due in REFRESH_S."""
        self._fresh_until = self._clock() + REFRESH_S
        try:
            stored: Any = redis.hgetall(keys.VOICES)
        except RedisError as error:
            log.warning("voices.away error=%s", error)
        else:
            self._seen = decode_all(stored)

    def _remember(self, name: str, stored: bytes | None) -> ClonedVoice | None:
        """Decode a description and return the voice; keep it for the time when Redis does not answer."""
        voice = None
        if stored is not None:
            try:
                voice = ClonedVoice.decode(name, stored)
            except ProtocolError as error:
                log.warning("voice.unreadable voice=%s error=%s", name, error)
        with self._lock:
            others = {known: kept for known, kept in self._seen.items() if known != name}
            self._seen = others if voice is None else others | {name: voice}
        return voice
