"""Prepares voices for the GPT and the vocoder, in two stages, and keeps the results in memory.

    Voice ─► Conditioning: of a built-in speaker, of a clone, or a mix of several     in any thread
          ─► PreparedVoice: KV cache of the prefix, constants of the vocoder          in the engine's thread

`voices.cloned` finds the clips of a clone, `latents` computes the conditioning, and `voices.conditioning_cache` stores
it on disk and in Redis.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from cachetools import LRUCache

from voxspool_worker.engines.base import Prepared
from voxspool_worker.engines.xtts.latents import Conditioning, mix
from voxspool_worker.voices.conditioning_format import conditioning_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voxspool_worker.engines.xtts.gpt import Gpt, VoicePrefix
    from voxspool_worker.engines.xtts.latents import ConditioningParameters
    from voxspool_worker.engines.xtts.vocoder import SpeakerCondition, Vocoder
    from voxspool_worker.voices.catalog import Voice, VoiceBook, VoicePart
    from voxspool_worker.voices.cloned import VoiceLibrary
    from voxspool_worker.voices.conditioning_cache import ConditioningCache

MAX_PREPARED: Final = 64
"""Number of prepared voices that stay in memory, at 4 MB each."""
MAX_CONDITIONINGS: Final = 256
"""Number of voices whose conditioning stays in memory, at 0.13 MB each.

More than the jobs that can be between the two stages, so that `ready` need not fetch it again.
"""
SOURCES: Final = ("built-in", "memory", "disk", "redis", "computed")
"""Where conditioning may come from, from fast to slow. `prepare` reports the slowest source of a mix."""


@dataclass(frozen=True, slots=True)
class PreparedVoice:
    """A voice in the form in which a row needs it."""

    prefix: VoicePrefix
    condition: SpeakerCondition


@dataclass(frozen=True, slots=True)
class ConditioningMethod:
    """How conditioning is computed from clips. The cache key contains everything that can change the result."""

    compute: Callable[[Sequence[bytes]], Conditioning]
    """Returns the conditioning from encoded audio files."""
    parameters: ConditioningParameters
    model: str
    """Fingerprint of the checkpoint."""
    library: str
    """Name and version of the library that computes."""


class PreparedVoices:
    """The voices of one engine: `book` lists them, `prepare` and `ready` are the two stages."""

    def __init__(
        self, speakers: Mapping[str, Conditioning], book: VoiceBook, library: VoiceLibrary,
        cache: ConditioningCache[Conditioning], method: ConditioningMethod,
    ) -> None:  # fmt: skip
        self.book = book
        self._speakers, self._library, self._cache, self._method = speakers, library, cache, method
        self._conditionings: LRUCache[tuple[VoicePart, ...], Conditioning] = LRUCache(MAX_CONDITIONINGS)
        self._prepared: LRUCache[tuple[VoicePart, ...], PreparedVoice] = LRUCache(MAX_PREPARED)
        self._lock = threading.Lock()

    def prepare(self, voice: Voice) -> Prepared:
        """Fetch or compute the conditioning of a voice and keep it for `ready`. Any thread may call it.

        Raises VoiceError if a clone was replaced or removed meanwhile, and the errors of redis-py.
        """
        started = time.perf_counter()
        found = [self._find(part) for part in voice.parts]
        source = max((source for _, source in found), key=SOURCES.index)
        conditioning = found[0][0]
        if len(found) > 1:
            conditioning = mix([(one, part.weight) for (one, _), part in zip(found, voice.parts, strict=True)])
        with self._lock:
            self._conditionings[voice.parts] = conditioning
        return Prepared(source, time.perf_counter() - started)

    def ready(self, voice: Voice, gpt: Gpt, vocoder: Vocoder) -> PreparedVoice:
        """Return a voice for a row; the first time takes 40 ms. Only the engine's thread may call it."""
        prepared = self._prepared.get(voice.parts)
        if prepared is None:
            conditioning = self._conditioning(voice)
            prepared = PreparedVoice(gpt.prefix(conditioning.latents), vocoder.condition(conditioning.speaker))
            self._prepared[voice.parts] = prepared
        return prepared

    def _conditioning(self, voice: Voice) -> Conditioning:
        """Return the conditioning of `prepare`; prepare the voice again if it was dropped from memory meanwhile."""
        with self._lock:
            known = self._conditionings.get(voice.parts)
        if known is not None:
            return known
        self.prepare(voice)
        with self._lock:
            return self._conditionings[voice.parts]

    def _find(self, part: VoicePart) -> tuple[Conditioning, str]:
        """Return the conditioning of one part of a voice, and its source."""
        if not part.clips:
            return self._speakers[part.name], SOURCES[0]
        method = self._method
        key = conditioning_key(part.clips, asdict(method.parameters), method.model, method.library)
        found, prepared = self._cache.get(key, lambda: self._compute(part))
        return found, prepared.source

    def _compute(self, part: VoicePart) -> dict[str, Any]:
        """Compute the conditioning of a clone from its clips."""
        return self._method.compute(self._library.clips(part.name, part.clips)).to_arrays()
