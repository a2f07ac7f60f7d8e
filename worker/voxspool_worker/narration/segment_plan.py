"""A chapter of a book, cut into segments, each with the key under which its audio is stored.

A chapter gives the same plan on every worker with the same engine, model and voices. Helpers speak by their own plan,
and its digest shows that it equals the owner's. The key and the seed of a segment depend on what it says and how it
sounds, not on its place: an edit elsewhere changes neither. It works on text, voices and hashes; it does not use
Redis.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import MissingExtraError, UnknownLanguageError
from voxspool.protocol.narration import BETWEEN
from voxspool.store.segments import key_of
from voxspool_worker import text
from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.narration import audio_checks
from voxspool_worker.speech.pipeline import check_engine
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voxspool.protocol.narration import ChapterSpec, Passage
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.voices.catalog import Voice

_KEY: Final = "voxspool segment 1"
"""What a key is a key of; it changes when a key's parts do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A chapter's segments in order, and the key of each in the store."""

    segments: list[SpeechSegment]
    """Their spans count in the chapter's text; what follows in silence is in the last one's pause."""
    keys: list[str]
    store: str
    """Which store the keys are of."""

    @property
    def digest(self) -> str:
        """What two workers compare: where it is the same, so is everything that either would speak."""
        return key_of(self.store, self.keys)


def plan(chapter: ChapterSpec, engine: Engine, run: str) -> Plan:
    """Cut a chapter for an engine; `run` is who speaks it, as in `SpeechSegment.job`.

    Raises UnknownEngineError, UnknownVoiceError, UnknownLanguageError, InvalidJobError or MissingExtraError.
    """
    check_engine(chapter.speech, engine)
    segments: list[SpeechSegment] = []
    spoken = _Voiced(chapter, engine)
    start = 0
    for passage in chapter.passages:
        cut = list(_cut(passage, start, len(segments), spoken, run))
        if cut:
            segments += [*cut[:-1], replace(cut[-1], pause_s=cut[-1].pause_s + passage.pause_s)]
        elif segments:
            segments[-1] = replace(segments[-1], pause_s=segments[-1].pause_s + passage.pause_s)
        start += len(passage.text) + len(BETWEEN)
    return Plan(segments, [_key(segment, engine) for segment in segments], chapter.store)


def seed_of(seed: int, voice: str, said: str, again: int = 0) -> int:
    """Derive a segment's seed from its chapter's, 32 bits, for the first time that it is spoken, or `again`."""
    digest = hashlib.blake2s(f"{seed}/{again}/{voice}/{said}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


class _Voiced:
    """The voices of a chapter's passages, each looked for once: a cloned one may change meanwhile."""

    def __init__(self, chapter: ChapterSpec, engine: Engine) -> None:
        self.speech = chapter.speech
        self.engine = engine
        self._found: dict[tuple[str | None, str | None], tuple[Voice, str]] = {}

    def of(self, passage: Passage) -> tuple[Voice, str]:
        """Return a passage's voice and language."""
        asked = (passage.voice or self.speech.voice, passage.language or self.speech.language)
        if asked not in self._found:
            self._found[asked] = self._find(*asked, foreign=passage.language is not None)
        return self._found[asked]

    def _find(self, name: str | None, language: str | None, *, foreign: bool) -> tuple[Voice, str]:
        """Find a voice, and what it speaks. A `foreign` paragraph that it cannot speak is spoken as the rest is.

        A line of French in an English book is no reason to leave it out.
        """
        voice = catalog.find(name, self.engine.voices, self.engine.name, language)
        try:
            return voice, voice.language(language)
        except (UnknownLanguageError, MissingExtraError):
            if not foreign:
                raise
            return voice, voice.language(self.speech.language)


def _cut(passage: Passage, start: int, index: int, spoken: _Voiced, run: str) -> Iterator[SpeechSegment]:
    """Cut one passage, which begins at `start` in the chapter's text, into segments from `index` on."""
    voice, language = spoken.of(passage)
    limits = spoken.engine.limits(language)
    limits = replace(limits, first_max_chars=limits.max_chars)  # nobody waits for the first sound of a paragraph
    for place, piece in enumerate(text.split(passage.text, language, limits), index):
        seed = seed_of(spoken.speech.seed, voice.name, piece.text)
        yield SpeechSegment(
            run, place, piece.text, start + piece.start, start + piece.end, piece.pause_s,
            voice, language, spoken.speech.speed, seed,
        )  # fmt: skip


def _key(segment: SpeechSegment, engine: Engine) -> str:
    """Return the key of a segment: a hash of everything that determines its sound."""
    voice: list[Any] = [segment.voice.name, [list(part) for part in segment.voice.parts], engine.digest(segment.voice)]
    return key_of(
        _KEY, audio_checks.VERSION, segment.text, voice, engine.name, engine.model, engine.sample_rate,
        segment.language, float(segment.speed), segment.seed,
    )  # fmt: skip
