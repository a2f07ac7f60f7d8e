"""A voice's name -> the voice, or a refusal that helps.

Knows names and languages, not models: an engine says which voices it has, and finds its own data under the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxspool.errors import UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.near import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that an engine has."""

    name: str
    languages: tuple[str, ...]
    """Tags such as `en` or `en-us`, the default first; empty: any language (a tone has none)."""

    def language(self, wanted: str | None) -> str:
        """Give the language to speak: the one that was asked for, or the voice's own.

        `en` asks for any English: it takes the voice's first tag of that language. Raises UnknownLanguageError.
        """
        if not self.languages:
            return wanted or "en"
        if wanted is None:
            return self.languages[0]
        tag = wanted.lower().replace("_", "-")
        if tag in self.languages:
            return tag
        for language in self.languages:
            if language.split("-")[0] == tag or tag.split("-")[0] == language:
                return language
        raise UnknownLanguageError(
            f"voice {self.name} does not speak {wanted}{did_you_mean(wanted, self.languages)}; choose another voice"
        )


def find(name: str | None, voices: Mapping[str, Voice], engine: str) -> Voice:
    """Find a voice by name; without a name, the engine's first.

    Raises UnknownVoiceError with the near names.
    """
    if name is None:
        return next(iter(voices.values()))
    try:
        return voices[name]
    except KeyError:
        hint = did_you_mean(name, voices)
        raise UnknownVoiceError(f"engine {engine} has no voice {name!r}{hint}; `voxspool voices` lists them") from None
