"""Store, read and delete cloned voices in Redis. Functions raise redis.RedisError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voxspool.errors import UnknownVoiceError, VoiceExistsError
from voxspool.protocol import keys, voices
from voxspool.queue.ending import script
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis import Redis

    from voxspool.protocol.voices import ClonedVoice
    from voxspool.workers import WorkerCard


def check_free(name: str, having: Iterable[WorkerCard]) -> None:
    """Raise VoiceExistsError if a live worker has a voice of this name: jobs would be spoken with that voice."""
    for card in having:
        raise VoiceExistsError(
            f"{name} is a voice of the engine {card.engine} (worker {card.name}); choose another name"
        )


def store_voice(redis: Redis, voice: ClonedVoice, clips: Sequence[bytes], *, replace: bool) -> None:
    """Store a voice and its clips in one step. Raises VoiceExistsError if the name is taken and not to be replaced."""
    said: bytes = script(redis, "add_voice")(
        keys=[keys.VOICES, keys.clips(voice.name)],
        args=[voice.name, "1" if replace else "", voice.encode(), *clips],
    )
    if said == b"exists":
        raise VoiceExistsError(
            f"the cloned voice {voice.name} exists already; choose another name, or replace it (voxspool voices add "
            "--replace)"
        )


def read_voices(redis: Redis) -> dict[str, ClonedVoice]:
    """Return every cloned voice, sorted by name."""
    stored: Any = redis.hgetall(keys.VOICES)
    return voices.decode_all(stored)


def delete_voice(redis: Redis, name: str) -> None:
    """Delete a cloned voice and its clips. Raises UnknownVoiceError."""
    # Asked before: the counts of a deletion that is sent again, because its reply was lost, are 0.
    known = redis.hget(keys.VOICES, name) is not None or redis.exists(keys.clips(name))
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.hdel(keys.VOICES, name)
        pipeline.delete(keys.clips(name))
        pipeline.execute()
    if not known:
        hint = did_you_mean(name, read_voices(redis))
        raise UnknownVoiceError(f"there is no cloned voice {name!r}{hint}; `voxspool voices` lists them")
