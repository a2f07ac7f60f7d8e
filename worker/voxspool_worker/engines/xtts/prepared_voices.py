"""A voice -> what the GPT and the vocoder need of it, in the form they need it.

    Voice ─► Conditioning: a studio speaker's, a clone's (cached, else computed), or a mix of those      any thread
          ─► PreparedVoice: keys and values of the prefix, the vocoder's constants                 the engine's thread

This module knows where conditioning comes from, and keeps what was prepared from it. `voices.cloned` finds the clips,
`voices.conditioning_cache` keeps the conditioning, `latents` computes it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from voxspool_worker.engines.base import Prepared
from voxspool_worker.engines.xtts.latents import Conditioning, mixed
from voxspool_worker.voices.conditioning_cache import conditioning_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voxspool_worker.engines.xtts.gpt import Gpt, VoicePrefix
    from voxspool_worker.engines.xtts.latents import Listening
    from voxspool_worker.engines.xtts.vocoder import Vocoder, VoiceCondition
    from voxspool_worker.voices.catalog import Part, Voice, VoiceBook
    from voxspool_worker.voices.cloned import VoiceLibrary
    from voxspool_worker.voices.conditioning_cache import ConditioningCache

K = TypeVar("K")
V = TypeVar("V")

PREPARED_KEPT: Final = 64
"""Voices whose prefix stays in memory, at 4 MB each."""
CONDITIONINGS_KEPT: Final = 256
"""Voices whose conditioning stays in memory, at 0.13 MB each: more than jobs can wait between their two halves."""
SOURCES: Final = ("built-in", "memory", "disk", "redis", "computed")
"""From fast to slow; of a mix the slowest is told."""


@dataclass(frozen=True, slots=True)
class PreparedVoice:
    """A voice, ready for a row."""

    prefix: VoicePrefix
    condition: VoiceCondition


@dataclass(frozen=True, slots=True)
class Recipe:
    """How clips become conditioning here; whatever changes the result changes the cache's key."""

    compute: Callable[[Sequence[bytes]], Conditioning]
    listening: Listening
    model: str
    """The checkpoint's fingerprint."""
    library: str
    """The library that computes, with its version."""


class PreparedVoices:
    """The voices of one engine."""

    def __init__(
        self, speakers: Mapping[str, Conditioning], book: VoiceBook, library: VoiceLibrary,
        cache: ConditioningCache[Conditioning], recipe: Recipe,
    ) -> None:  # fmt: skip
        self.book = book
        self._speakers, self._library, self._cache, self._recipe = speakers, library, cache, recipe
        self._conditionings: OrderedDict[tuple[Part, ...], Conditioning] = OrderedDict()
        self._prepared: OrderedDict[tuple[Part, ...], PreparedVoice] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, voice: Voice) -> Prepared:
        """Find a voice's conditioning. From any thread.

        Raises VoiceError for a clone that was replaced or removed meanwhile, and redis-py's errors.
        """
        began = time.perf_counter()
        found = [self._find(part) for part in voice.parts]
        weights = [part.weight for part in voice.parts]
        source = max((source for _, source in found), key=SOURCES.index)
        conditioning = found[0][0]
        if len(found) > 1:
            conditioning = mixed([(one, weight) for (one, _), weight in zip(found, weights, strict=True)])
        with self._lock:
            _keep(self._conditionings, voice.parts, conditioning, CONDITIONINGS_KEPT)
        return Prepared(source, time.perf_counter() - began)

    def ready(self, voice: Voice, gpt: Gpt, vocoder: Vocoder) -> PreparedVoice:
        """Return a voice for a row: made once (40 ms), then kept. In the engine's thread."""
        prepared = self._prepared.get(voice.parts)
        if prepared is None:
            conditioning = self._conditioning(voice)
            prepared = PreparedVoice(gpt.prefix(conditioning.latents), vocoder.voice(conditioning.speaker))
        _keep(self._prepared, voice.parts, prepared, PREPARED_KEPT)
        return prepared

    def _conditioning(self, voice: Voice) -> Conditioning:
        """Return what `prepare` found; find it again where many voices came between."""
        with self._lock:
            known = self._conditionings.get(voice.parts)
        if known is not None:
            return known
        self.prepare(voice)
        return self._conditionings[voice.parts]

    def _find(self, part: Part) -> tuple[Conditioning, str]:
        """Find the conditioning of a voice that is no mix, and say where."""
        if not part.clips:
            return self._speakers[part.name], SOURCES[0]
        recipe = self._recipe
        key = conditioning_key(part.clips, asdict(recipe.listening), recipe.model, recipe.library)
        found, prepared = self._cache.get(key, lambda: self._compute(part))
        return found, prepared.source

    def _compute(self, part: Part) -> dict[str, Any]:
        """Compute it from the clips."""
        return self._recipe.compute(self._library.clips(part.name, part.clips)).to_arrays()


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep a value as the newest, and forget the oldest ones."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
