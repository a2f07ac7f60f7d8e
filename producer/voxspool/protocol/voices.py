"""Define the names and mixes of voices, and the stored description of a cloned voice with its JSON.

A job requests a voice by its name, or a mix of several voices: `Ana Florence(2)+Luis Moray(1)`. This module does not
know which voices exist, does not check the sound of clips and does not use Redis. docs/protocol.md describes the format
for other languages.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import InvalidJobError, ProtocolError, UnknownLanguageError, VoiceError
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLONING_ENGINE: Final = "xtts"
"""The engine that speaks cloned voices and mixes."""
LANGUAGES: Final = (
    "en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "nl", "cs", "ar", "zh-cn", "hu", "ko", "ja", "hi",
)  # fmt: skip
"""The languages of cloned voices: the 17 languages of XTTS-v2, with its own tags."""
MAX_PARTS: Final = 8
"""The largest number of voices in a mix. A mix of more voices has no character of its own."""
MAX_WEIGHT_DIGITS: Final = 9
"""The largest number of digits of a weight, before and after the decimal point each."""
MAX_DESCRIPTION_BYTES: Final = 64 * 2**10
"""Largest description of a cloned voice. One with the most clips, 120, has 20 kB."""
VERSION: Final = 1
"""Version of the description's format. Descriptions stay in Redis across upgrades, so they state it."""

PIPER_NAME: Final = re.compile(r"[a-z]{2,3}_[A-Z0-9]{2,3}-[\w\u0300-\u036f]{1,64}-\w{1,16}")
"""A voice's name in Piper's catalogue, such as en_US-joe-medium. Names become file names and command arguments, so no
other characters are allowed."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WEIGHT: Final = re.compile(rf"[0-9]{{1,{MAX_WEIGHT_DIGITS}}}(\.[0-9]{{1,{MAX_WEIGHT_DIGITS}}})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN: Final = frozenset("+()")
_HOW: Final = "write a voice's name, or a mix like Ana Florence(2)+Luis Moray(1)"


@dataclass(frozen=True, slots=True)
class VoiceName:
    """The parsed name of a voice: one voice, or a mix of several."""

    canonical: str
    """The canonical name, equal for equal mixes: names sorted, weights as whole numbers without a common divisor."""
    parts: tuple[tuple[str, float], ...]
    """(name, weight) pairs, sorted by name, each name once. The weights add up to 1."""

    @property
    def mixed(self) -> bool:
        """True if this is a mix of several voices."""
        return len(self.parts) > 1


@dataclass(frozen=True, slots=True)
class StoredClip:
    """The description of a stored clip. Its bytes (FLAC, mono) are stored separately."""

    sha256: str
    """SHA-256 of the stored bytes, in hexadecimal."""
    duration_s: float
    sample_rate: int
    """The recording's sample rate, in Hz."""
    recording_s: float
    """Duration of the recording from which the clip was cut."""


@dataclass(frozen=True, slots=True)
class ClonedVoice:
    """The description of a cloned voice, without the bytes of its clips."""

    name: str
    languages: tuple[str, ...]
    """The languages, with the default first; empty: all LANGUAGES."""
    added: str
    """The time at which the voice was added, in UTC: `2026-01-31T08:09:44Z`."""
    clips: tuple[StoredClip, ...]
    """The clips in stored order. The order affects the sound of the voice."""

    @property
    def duration_s(self) -> float:
        """The total duration of the clips."""
        return sum(clip.duration_s for clip in self.clips)

    def encode(self) -> str:
        """Return the description as a JSON object. It does not contain the name, which is the field's name in Redis."""
        fields = {"version": VERSION} | asdict(self)
        del fields["name"]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, name: str, data: bytes) -> ClonedVoice:
        """Return the voice in an untrusted description. Unknown fields are ignored.

        Raises ProtocolError if the description is malformed, too long, or has another version.
        """
        if len(data) > MAX_DESCRIPTION_BYTES:
            raise ProtocolError(
                f"the description of voice {name!r} has {len(data)} bytes, and {MAX_DESCRIPTION_BYTES} is the most"
            )
        try:
            return _described(name, json.loads(data))
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ProtocolError(f"the description of voice {name!r} cannot be read ({error!r})") from error


def parse(name: str) -> VoiceName:
    """Parse a voice's name, or a mix of up to MAX_PARTS names with weights. The default weight is 1.

    A name may contain any character but `+`, `(` and `)`. The weights of equal names are added. Raises InvalidJobError.
    """
    pieces = name.split("+")
    if len(pieces) > MAX_PARTS:
        raise InvalidJobError(f"voice {_shown(name)} mixes {len(pieces)} voices; mix at most {MAX_PARTS}")
    weights: dict[str, Fraction] = {}
    for piece in pieces:
        part, weight = _part(piece, name)
        weights[part] = weights.get(part, Fraction(0)) + weight
    return _normalised(weights, name)


def how_to_get(name: str) -> str:
    """Return the end of a message about a missing voice: how to get it. Empty if the name is not a Piper voice's."""
    voice = name.partition("#")[0]  # the part after # names one speaker of the voice
    if not PIPER_NAME.fullmatch(voice):
        return ""
    return f"; to get it on a worker's machine: voxspool-worker voices get {voice}, then restart the worker"


def check_name(name: str) -> str:
    """Return the name if a cloned voice may have it. Raises VoiceError."""
    if not _NAME.fullmatch(name):
        raise VoiceError(
            f"a voice cannot be called {_shown(name)}; use 1 to 64 letters (A to Z), digits, _ and -, such as alice-2",
            wrong_value=True,
        )
    return name


def check_languages(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the languages of a cloned voice as XTTS's own tags: `pt-BR` becomes `pt`, and `zh` becomes `zh-cn`.

    Raises UnknownLanguageError.
    """
    return tuple(dict.fromkeys(_language(tag) for tag in tags))


def decode_all(stored: Mapping[bytes, bytes]) -> dict[str, ClonedVoice]:
    """Return all voices whose description can be read, sorted by name. Descriptions that cannot be read are skipped."""
    found: dict[str, ClonedVoice] = {}
    for field, data in sorted(stored.items()):
        name = field.decode(errors="replace")
        try:
            found[name] = ClonedVoice.decode(name, data)
        except ProtocolError:
            continue
    return found


def _part(piece: str, whole: str) -> tuple[str, Fraction]:
    """Parse one part of a mix: a name with an optional weight."""
    name, weight = piece.strip(), "1"
    if name.endswith(")"):
        name, _, weight = name[:-1].partition("(")
    name, weight = unicodedata.normalize("NFC", name.strip()), weight.strip()
    if not name or _FORBIDDEN & set(name):
        raise InvalidJobError(f"voice {_shown(whole)} is neither a name nor a mix of names; {_HOW}")
    if not _WEIGHT.fullmatch(weight) or not Fraction(weight):
        raise InvalidJobError(
            f"in voice {_shown(whole)} the weight of {_shown(name)} is {_shown(weight)}, not a positive number "
            f"(of up to {MAX_WEIGHT_DIGITS} digits, such as 2 or 0.25); {_HOW}"
        )
    return name, Fraction(weight)


def _normalised(weights: dict[str, Fraction], whole: str) -> VoiceName:
    """Return the canonical form of a mix: the smallest whole weights for its name, and weights with the sum 1."""
    names = sorted(weights)
    scale = Fraction(math.lcm(*(weight.denominator for weight in weights.values())))
    scale /= math.gcd(*(int(weight * scale) for weight in weights.values()))
    counts = [int(weights[name] * scale) for name in names]
    if max(counts) >= 10**MAX_WEIGHT_DIGITS:
        raise InvalidJobError(f"in voice {_shown(whole)} the weights are too far apart; use shorter numbers; {_HOW}")
    total = sum(counts)
    parts = tuple((name, count / total) for name, count in zip(names, counts, strict=True))
    mixed = "+".join(f"{name}({count})" for name, count in zip(names, counts, strict=True))
    return VoiceName(mixed if len(names) > 1 else names[0], parts)


def _language(tag: str) -> str:
    """Return XTTS's tag for a language. Raises UnknownLanguageError."""
    wanted = tag.lower().replace("_", "-")
    for language in (wanted, wanted.partition("-")[0]):
        found = [known for known in LANGUAGES if language in (known, known.partition("-")[0])]
        if found:
            return found[0]
    raise UnknownLanguageError(
        f"a cloned voice cannot speak {_shown(tag)}{did_you_mean(wanted, LANGUAGES)}; it can: {', '.join(LANGUAGES)}"
    )


def _described(name: str, fields: Any) -> ClonedVoice:  # noqa: ANN401 - JSON
    """Return the voice of a decoded description. Raises ValueError, KeyError or TypeError if it is malformed."""
    if fields["version"] != VERSION:
        raise ValueError(f"its version is {fields['version']!r:.40}, not {VERSION}")
    clips = tuple(_clip(clip) for clip in fields["clips"])
    (added,), languages = _strings([fields["added"]]), _strings(fields["languages"])
    if not (clips and _NAME.fullmatch(name) and set(languages) <= set(LANGUAGES)):
        raise ValueError("its name or its languages are not valid, or it has no clips")
    return ClonedVoice(name, languages, added, clips)


def _clip(fields: Any) -> StoredClip:  # noqa: ANN401 - JSON
    """Return the clip of a decoded description."""
    clip = StoredClip(
        sha256=str(fields["sha256"]),
        duration_s=float(fields["duration_s"]),
        sample_rate=int(fields["sample_rate"]),
        recording_s=float(fields.get("recording_s", fields["duration_s"])),
    )
    if not (_SHA256.fullmatch(clip.sha256) and 0 < clip.duration_s < math.inf and clip.sample_rate > 0):
        raise ValueError("the hash, the duration or the sample rate of a clip is not valid")
    return clip


def _strings(values: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Return a tuple of the strings in a list. Raises TypeError if it is not a list of strings."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a value is not a list of strings")
    return tuple(values)


def _shown(text: str) -> str:
    """Return a text for a message: quoted, on one line, of at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
