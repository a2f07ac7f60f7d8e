"""Split a chapter of a book into segments, each with the key under which its audio is stored.

A chapter has the same plan on every worker with the same engine, model and voices. Workers that help with a chapter
make their own plan, and its digest shows that it equals the owner's. The key and the seed of a segment depend on its
text and its sound, not on its position: an edit elsewhere changes neither.
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
from voxspool_worker.speech.speech_job import check_engine
from voxspool_worker.voices import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voxspool.protocol.narration import ChapterSpec, Passage
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.voices.catalog import Voice

_KEY: Final = "voxspool segment 1"
"""First part of every key; it changes when the parts of a key do."""


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """The segments of a chapter in order, and the key of each in the store."""

    segments: list[SpeechSegment]
    """Spans count characters of the chapter's text. The pause of a passage is added to that of its last segment."""
    keys: list[str]
    store: str
    """The id of the store that the keys belong to."""

    @property
    def digest(self) -> str:
        """A hash of the store and the keys: two workers with the same digest would speak the same audio."""
        return key_of(self.store, self.keys)


def plan_chapter(chapter: ChapterSpec, engine: Engine, job: str) -> SegmentPlan:
    """Split a chapter into segments for an engine; `job` is their `SpeechSegment.job`.

    Raises UnknownEngineError, UnknownVoiceError, UnknownLanguageError, InvalidJobError or MissingExtraError.
    """
    check_engine(chapter.speech, engine)
    segments: list[SpeechSegment] = []
    voices = _PassageVoices(chapter, engine)
    start = 0
    for passage in chapter.passages:
        segments += _split(passage, start, len(segments), voices, job)
        if segments:  # silence before the first segment is left out
            segments[-1] = replace(segments[-1], pause_s=segments[-1].pause_s + passage.pause_s)
        start += len(passage.text) + len(BETWEEN)
    return SegmentPlan(segments, [segment_key(segment, engine) for segment in segments], chapter.store)


def segment_key(segment: SpeechSegment, engine: Engine) -> str:
    """Return the key of a segment: a hash of everything that determines its sound."""
    voice: list[Any] = [segment.voice.name, [list(part) for part in segment.voice.parts], engine.digest(segment.voice)]
    return key_of(
        _KEY, audio_checks.VERSION, segment.text, voice, engine.name, engine.model, engine.sample_rate,
        segment.language, float(segment.speed), segment.seed,
    )  # fmt: skip


def seed_of(seed: int, voice: str, said: str, again: int = 0) -> int:
    """Return the seed of a segment, 32 bits, from its chapter's; `again` counts attempts to speak it, from 0."""
    digest = hashlib.blake2s(f"{seed}/{again}/{voice}/{said}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "little")


class _PassageVoices:
    """The voices of a chapter's passages. Each is looked up once: a cloned voice may be replaced meanwhile."""

    def __init__(self, chapter: ChapterSpec, engine: Engine) -> None:
        self.speech = chapter.speech
        self.engine = engine
        self._found: dict[tuple[str | None, str | None], tuple[Voice, str]] = {}

    def of(self, passage: Passage) -> tuple[Voice, str]:
        """Return the voice and the language of a passage."""
        wanted = (passage.voice or self.speech.voice, passage.language or self.speech.language)
        if wanted not in self._found:
            self._found[wanted] = self._find(*wanted, own_language=passage.language is not None)
        return self._found[wanted]

    def _find(self, name: str | None, language: str | None, *, own_language: bool) -> tuple[Voice, str]:
        """Return a voice and the language that it speaks.

        A passage with a language of its own that the voice does not speak gets the chapter's: a line of French in an
        English book is spoken, not left out.
        """
        voice = catalog.find(name, self.engine.voices, self.engine.name, language)
        try:
            return voice, voice.language(language)
        except (UnknownLanguageError, MissingExtraError):
            if not own_language:
                raise
            return voice, voice.language(self.speech.language)


def _split(passage: Passage, start: int, index: int, voices: _PassageVoices, job: str) -> Iterator[SpeechSegment]:
    """Yield the segments of a passage, which begins at `start` in the chapter's text; the first has number `index`."""
    voice, language = voices.of(passage)
    limits = voices.engine.limits(language)
    limits = replace(limits, first_max_chars=limits.max_chars)  # no listener waits for a passage's first sound
    for number, piece in enumerate(text.split(passage.text, language, limits), index):
        seed = seed_of(voices.speech.seed, voice.name, piece.text)
        yield SpeechSegment(
            job, number, piece.text, start + piece.start, start + piece.end, piece.pause_s,
            voice, language, voices.speech.speed, seed,
        )  # fmt: skip
