"""The cloned voices in Redis, as a worker sees them: their names and their clips.

It knows where a producer stored them (protocol/voices, protocol/keys), not what a model makes of a clip. It only
reads, from any thread. A name is looked up when a job asks for it, so a voice that was just added, replaced or
removed is up to date; the list of all voices, for people, may be REFRESH_S old. If Redis does not answer, a voice
that was seen before is still known.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from voxspool.errors import ProtocolError, VoiceError
from voxspool.protocol import keys
from voxspool.protocol.voices import ClonedVoice, decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

log = logging.getLogger(__name__)

REFRESH_S: Final = 2.0
"""Largest age of the list of all voices, in seconds."""


class VoiceLibrary:
    """The cloned voices. Without a Redis there are none.

    Give it a client that gives up soon: with Redis gone, whoever asks waits for as long as the client tries.
    """

    def __init__(self, redis: Redis | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Mapping[str, ClonedVoice] = {}  # replaced, never changed: whoever has it may keep it
        self._fresh_until = -1.0

    def known(self) -> Mapping[str, ClonedVoice]:
        """Return all cloned voices by name, as they were at most REFRESH_S ago, or when Redis last answered."""
        with self._lock:
            if self._redis is not None and self._clock() >= self._fresh_until:
                self._refresh(self._redis)
            return self._seen

    def find(self, name: str) -> ClonedVoice | None:
        """Return a cloned voice as it is now; None where there is none of that name, or one that cannot be read.

        Raises redis-py's error where Redis does not answer and the voice was never seen: it may well exist.
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
        """Return a cloned voice's clips, encoded as they are stored (FLAC), in order: those with the SHA-256 `wanted`.

        Raises VoiceError where others lie there: the voice was replaced, removed or damaged. Raises redis-py's errors.
        """
        stored: Any = self._redis.lrange(keys.clips(name), 0, -1) if self._redis is not None else []
        if [hashlib.sha256(clip).hexdigest() for clip in stored] != list(wanted):
            raise VoiceError(
                f"voice {name} has other clips than a moment ago: it was replaced or removed, or is damaged; "
                f"enqueue the job again, or add the voice again: voxspool voices add {name} CLIP... --replace"
            )
        return list(stored)

    def _refresh(self, redis: Redis) -> None:
        """Read all descriptions. A Redis that is away is asked again as late as one that is there."""
        self._fresh_until = self._clock() + REFRESH_S
        try:
            stored: Any = redis.hgetall(keys.VOICES)
        except RedisError as error:
            log.warning("voices.away error=%s", error)
        else:
            self._seen = decode_all(stored)

    def _remember(self, name: str, stored: bytes | None) -> ClonedVoice | None:
        """Read one description, and keep it for when Redis is away."""
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
