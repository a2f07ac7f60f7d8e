"""Find a voice by its name, or raise an error that says what to do.

This module handles names and languages, not models: an engine lists its voices, and finds its own data by the name of a
voice. An engine that can clone has a VoiceBook: its built-in voices, the cloned voices, and every mix of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple, Protocol

from voxspool.errors import InvalidJobError, MissingExtraError, UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.languages import meant
from voxspool.protocol.voices import CLONING_ENGINE, how_to_get, parse
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from voxspool.protocol.voices import ClonedVoice, VoiceName


class VoicePart(NamedTuple):
    """One voice of a mix, with its weight. A voice that is not a mix has one part."""

    name: str
    weight: float
    """The weights of all parts of a voice add up to 1."""
    clips: tuple[str, ...] = ()
    """SHA-256 of the clips that the voice was cloned from, in order; empty for a built-in voice.

    They are fixed when a job is planned: a voice that is replaced meanwhile does not change in the middle of a job.
    """


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of an engine."""

    name: str
    languages: tuple[str, ...]
    """Tags such as `en` or `en-us`, the default first; empty: the voice speaks any language (those of `tone` do)."""
    parts: tuple[VoicePart, ...] = ()
    """The clips from which a cloning engine makes the voice; empty if the engine knows the voice by its name."""
    lacking: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Language -> error message with the install command, for each language whose package is missing."""

    def language(self, wanted: str | None) -> str:
        """Return the voice's tag for the wanted language; None: its default language.

        `en` means any English: the result is the voice's first tag of that language. Raises MissingExtraError if a
        package for the language is not installed, and UnknownLanguageError if the voice does not speak it.
        """
        if wanted is None:
            return self.languages[0] if self.languages else "en"
        if spoken := meant(wanted, self.languages):
            return spoken
        if self.lacking and (lacking := meant(wanted, tuple(self.lacking))):
            raise MissingExtraError(self.lacking[lacking])
        raise UnknownLanguageError(
            f"voice {self.name} does not speak {wanted}{did_you_mean(wanted, self.languages)}; choose another voice"
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """How a voice was prepared: where its data came from, and how long that took."""

    source: str = "built-in"
    """`built-in`, `memory`, `disk`, `redis` or `computed`."""
    seconds: float = 0.0


class Clones(Protocol):
    """The interface to the cloned voices that a VoiceBook needs. Any thread may call it."""

    def known(self) -> Mapping[str, ClonedVoice]:
        """Return all cloned voices by name; the list may be a few seconds old."""

    def find(self, name: str) -> ClonedVoice | None:
        """Return a cloned voice in its present state; None if there is none of this name."""


class VoiceBook(Mapping[str, Voice]):
    """All voices of an engine that can clone: the built-in ones, then the cloned ones. Mixes can be looked up, too.

    Any thread may use it. Built-in voices and mixes of them are found without a call of `clones`. The methods of the
    mapping use the list of cloned voices, which may be a few seconds old; `resolve`, which jobs use, reads the present
    state of a cloned voice.
    """

    def __init__(
        self, names: Iterable[str], languages: tuple[str, ...], clones: Clones, lacking: Mapping[str, str] | None = None
    ) -> None:
        """Store the names of the built-in voices and the languages that all of them speak, the defaults first.

        `lacking` is as in `Voice`.
        """
        self._languages = languages
        self._lacking = lacking or {}
        self.built_in = {name: Voice(name, languages, (VoicePart(name, 1.0),), self._lacking) for name in names}
        self._clones = clones

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from (
            name for name, clone in self._clones.known().items() if name not in self.built_in and self._spoken(clone)
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Voice:
        try:
            return self._resolve(name, lambda part: self._clones.known().get(part))
        except (InvalidJobError, MissingExtraError) as error:
            raise KeyError(name) from error

    def resolve(self, name: str) -> Voice:
        """Return a voice by its name, or a mix of voices.

        Raises UnknownVoiceError with similar names, InvalidJobError for a malformed mix, and UnknownLanguageError or
        MissingExtraError if the engine speaks none of the voice's languages.
        """
        return self._resolve(name, self._clones.find)

    def _resolve(self, name: str, look: Callable[[str], ClonedVoice | None]) -> Voice:
        """Return a voice or a mix; `look` returns a cloned voice by its name."""
        if name in self.built_in:
            return self.built_in[name]
        wanted = parse(name)
        voices = [self.built_in.get(part) or self._cloned(part, look(part)) for part, _ in wanted.parts]
        return replace(voices[0] if len(voices) == 1 else _mixed(wanted, voices), lacking=self._lacking)

    def _cloned(self, name: str, clone: ClonedVoice | None) -> Voice:
        """Return the voice of a cloned voice, for this engine; `clone` is None if there is none of this name."""
        if clone is None:
            hint = did_you_mean(name, self)
            raise UnknownVoiceError(f"there is no voice {name!r}{hint}; `voxspool voices` lists them{how_to_get(name)}")
        spoken = self._spoken(clone)
        if not spoken:
            if lacking := next((self._lacking[one] for one in clone.languages if one in self._lacking), None):
                raise MissingExtraError(lacking)
            raise UnknownLanguageError(
                f"voice {name} speaks {'/'.join(clone.languages)}, but this engine does not; choose another voice"
            )
        return Voice(name, spoken, (VoicePart(name, 1.0, tuple(clip.sha256 for clip in clone.clips)),))

    def _spoken(self, clone: ClonedVoice) -> tuple[str, ...]:
        """Return the languages of a cloned voice that this engine speaks."""
        return _common((clone.languages or self._languages, self._languages))


def find(name: str | None, voices: Mapping[str, Voice], engine: str, language: str | None = None) -> Voice:
    """Return a voice of an engine by name; if the engine can clone, this includes cloned voices and mixes.

    Without a name, return the engine's first voice that speaks the language, else its first voice. Raises
    UnknownVoiceError with similar names, and InvalidJobError for a malformed mix.
    """
    if name is None:
        first = next(iter(voices.values()), None)
        if first is None:
            raise UnknownVoiceError(f"engine {engine} has no voice yet; clone one: voxspool voices add NAME CLIP...")
        fitting = (voice for voice in voices.values() if language is None or meant(language, voice.languages))
        return next(fitting, first)
    if isinstance(voices, VoiceBook):
        return voices.resolve(name)
    try:
        return voices[name]
    except KeyError:
        hint = did_you_mean(name, voices)
        raise UnknownVoiceError(
            f"engine {engine} has no voice {name!r}{hint}; `voxspool voices` lists them "
            f"(cloned voices and mixes need engine {CLONING_ENGINE}){how_to_get(name)}"
        ) from None


def built_in(voices: Mapping[str, Voice]) -> Mapping[str, Voice]:
    """Return the voices without the cloned ones, which are the same for all workers."""
    return voices.built_in if isinstance(voices, VoiceBook) else voices


def _mixed(wanted: VoiceName, voices: list[Voice]) -> Voice:
    """Return a mix, which speaks the languages common to all its parts. Raises UnknownLanguageError if it has none."""
    languages = _common(voice.languages for voice in voices)
    if not languages:
        spoken = ", ".join(f"{voice.name}: {'/'.join(voice.languages)}" for voice in voices)
        raise UnknownLanguageError(f"the voices of {wanted.canonical} have no language in common ({spoken})")
    shares = zip(voices, wanted.parts, strict=True)
    return Voice(
        wanted.canonical, languages, tuple(voice.parts[0]._replace(weight=weight) for voice, (_, weight) in shares)
    )


def _common(languages: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the tags that all tuples contain, in the order of the first tuple."""
    return reduce(lambda ours, theirs: tuple(tag for tag in ours if tag in theirs), languages)
