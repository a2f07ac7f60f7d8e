"""The name of a voice -> the voice, or an error that helps.

It knows names and languages, not models: an engine says which voices it has, and finds its own data by the name. An
engine that can clone has a VoiceBook: its own voices, the cloned ones, and every mix of both.
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
    """SHA-256 of the clips it was cloned from, in order; empty: it is one of the engine's own.

    They are fixed when a job is planned: a voice that is replaced meanwhile does not change in the middle of a speech.
    """


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that an engine has."""

    name: str
    languages: tuple[str, ...]
    """Tags such as `en` or `en-us`, the default first; empty: any language (a tone has none)."""
    parts: tuple[VoicePart, ...] = ()
    """The clips from which a cloning engine makes the voice; empty if the engine knows the voice by its name."""
    lacking: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Language -> what to install on this machine, for those that the voice would speak if a package were there."""

    def language(self, wanted: str | None) -> str:
        """Return the language to speak: the one that was asked for, or the voice's own.

        `en` asks for any English: it takes the voice's first tag of that language. Raises UnknownLanguageError, or
        MissingExtraError where this machine lacks what the language is read with.
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
    """A voice is ready to be spoken with; where its data came from, and how long that took."""

    source: str = "built-in"
    """`built-in`, `memory`, `disk`, `redis` or `computed`."""
    seconds: float = 0.0


class Clones(Protocol):
    """The interface of the cloned voices that a VoiceBook needs. Called from any thread."""

    def known(self) -> Mapping[str, ClonedVoice]:
        """All of them by name, as they were a moment ago."""

    def find(self, name: str) -> ClonedVoice | None:
        """One of them as it is now; None where there is no such voice."""


class VoiceBook(Mapping[str, Voice]):
    """All voices of an engine that can clone: its own, then the cloned ones; any mix of them can be looked up.

    From any thread. Its own voices and their mixes are found without asking anybody. As a mapping it gives the cloned
    ones as they were a moment ago; `resolve`, by which a job finds its voice, as they are now.
    """

    def __init__(
        self, names: Iterable[str], languages: tuple[str, ...], clones: Clones, lacking: Mapping[str, str] | None = None
    ) -> None:
        """Take the engine's own voices, the default first, and what all of them speak, the default first.

        `lacking` has the languages that are not read here, as in `Voice`.
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
        """Return a voice by its name, or a mix.

        Raises UnknownVoiceError with the near names, InvalidJobError for a mix that is none, UnknownLanguageError,
        MissingExtraError.
        """
        return self._resolve(name, self._clones.find)

    def _resolve(self, name: str, look: Callable[[str], ClonedVoice | None]) -> Voice:
        """Return a voice or a mix, with a way to look for a cloned one."""
        if name in self.built_in:
            return self.built_in[name]
        wanted = parse(name)
        voices = [self.built_in.get(part) or self._cloned(part, look(part)) for part, _ in wanted.parts]
        return replace(voices[0] if len(voices) == 1 else _mixed(wanted, voices), lacking=self._lacking)

    def _cloned(self, name: str, clone: ClonedVoice | None) -> Voice:
        """Make a voice of a cloned one."""
        if clone is None:
            hint = did_you_mean(name, self)
            raise UnknownVoiceError(f"there is no voice {name!r}{hint}; `voxspool voices` lists them{how_to_get(name)}")
        spoken = self._spoken(clone)
        if not spoken:
            if lacking := next((self._lacking[one] for one in clone.languages if one in self._lacking), None):
                raise MissingExtraError(lacking)
            raise UnknownLanguageError(
                f"voice {name} speaks {'/'.join(clone.languages)}, and this engine does not; choose another voice"
            )
        return Voice(name, spoken, (VoicePart(name, 1.0, tuple(clip.sha256 for clip in clone.clips)),))

    def _spoken(self, clone: ClonedVoice) -> tuple[str, ...]:
        """Return what a cloned voice speaks here: of the languages that it was given, those of the engine."""
        return _common((clone.languages or self._languages, self._languages))


def find(name: str | None, voices: Mapping[str, Voice], engine: str, language: str | None = None) -> Voice:
    """Find a voice by name, a cloned one and a mix where the engine has such.

    Without a name, the engine's first that speaks the language, else its first. Raises UnknownVoiceError with the
    near names, InvalidJobError for a mix that is none.
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
    """Return the voices that came with the engine: the cloned ones are the system's, not the worker's."""
    return voices.built_in if isinstance(voices, VoiceBook) else voices


def _mixed(wanted: VoiceName, voices: list[Voice]) -> Voice:
    """Make a mix. It speaks what all its parts speak. Raises UnknownLanguageError where that is nothing."""
    languages = _common(voice.languages for voice in voices)
    if not languages:
        spoken = ", ".join(f"{voice.name}: {'/'.join(voice.languages)}" for voice in voices)
        raise UnknownLanguageError(f"the voices of {wanted.canonical} have no language in common ({spoken})")
    shares = zip(voices, wanted.parts, strict=True)
    return Voice(
        wanted.canonical, languages, tuple(voice.parts[0]._replace(weight=weight) for voice, (_, weight) in shares)
    )


def _common(languages: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return what all of them have, in the first one's order."""
    return reduce(lambda ours, theirs: tuple(tag for tag in ours if tag in theirs), languages)
