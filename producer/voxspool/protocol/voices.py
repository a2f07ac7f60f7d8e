"""The names of voices, and what is stored of a cloned one: names, mixes, descriptions and their JSON.

A voice is asked for by a name, or as a mix of several: `Ana Florence(2)+Luis Moray(1)`. This module defines how names
are written and what a description holds; not which voices exist, not what a clip must sound like, not Redis.
Described for other languages in docs/protocol.md.
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
"""What a cloned voice can speak: the 17 languages of XTTS-v2, by its own tags."""
MAX_PARTS: Final = 8
"""Of a mix. The sum of more voices than that is nobody in particular."""
MAX_WEIGHT_DIGITS: Final = 9
VERSION: Final = 1
"""Of a stored description. It outlives upgrades, so it says how it is to be read."""

PIPER_NAME: Final = re.compile(r"[a-z]{2,3}_[A-Z0-9]{2,3}-[\w\u0300-\u036f]{1,64}-\w{1,16}")
"""How Piper's catalogue names a voice: en_US-joe-medium. No other character: names become files and commands."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WEIGHT: Final = re.compile(rf"[0-9]{{1,{MAX_WEIGHT_DIGITS}}}(\.[0-9]{{1,{MAX_WEIGHT_DIGITS}}})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN: Final = frozenset("+()")
_HOW: Final = "write a voice's name, or a mix like Ana Florence(2)+Luis Moray(1)"


@dataclass(frozen=True, slots=True)
class VoiceName:
    """A voice as it was asked for: one name, or a mix."""

    canonical: str
    """The same for every way to write the same mix: its names sorted, its weights whole numbers without a divisor."""
    parts: tuple[tuple[str, float], ...]
    """(name, weight), sorted by name, each name once; the weights add up to 1."""

    @property
    def mixed(self) -> bool:
        """Whether there are several."""
        return len(self.parts) > 1


@dataclass(frozen=True, slots=True)
class StoredClip:
    """What is said of one stored clip. Its bytes lie apart: FLAC, mono."""

    sha256: str
    """Of its bytes as they are stored, in hexadecimal."""
    duration_s: float
    sample_rate: int
    """In Hz, the recording's own."""
    recording_s: float
    """How long the recording was that it was cut from."""


@dataclass(frozen=True, slots=True)
class ClonedVoice:
    """A voice that was cloned from clips, without the clips' bytes."""

    name: str
    languages: tuple[str, ...]
    """The default first; empty: every one of LANGUAGES."""
    added: str
    """When, in UTC: `2026-01-31T08:09:44Z`."""
    clips: tuple[StoredClip, ...]
    """In the order in which they are stored, which is part of how the voice sounds."""

    @property
    def duration_s(self) -> float:
        """How long its clips are, together."""
        return sum(clip.duration_s for clip in self.clips)

    def encode(self) -> str:
        """Return the JSON object that stands under the voice's name."""
        fields = {"version": VERSION} | asdict(self)
        del fields["name"]
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def decode(cls, name: str, data: bytes) -> ClonedVoice:
        """Read what `encode` gave, from anybody. Fields that are not known here are ignored.

        Raises ProtocolError for anything but a description of a version that is known here.
        """
        try:
            return _described(name, json.loads(data))
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ProtocolError(f"voice {name!r} has no description that can be read here ({error!r})") from error


def parse(name: str) -> VoiceName:
    """Read a voice's name: one, or a mix of up to MAX_PARTS with weights, 1 where none is given.

    A name may hold anything but + ( and ); one that is written twice is one part. Raises InvalidJobError.
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
    """Return the end of a message about a voice that is missing: how to get it, if it is named like one of Piper's."""
    voice = name.partition("#")[0]  # what follows is one of its speakers
    if not PIPER_NAME.fullmatch(voice):
        return ""
    return f"; to get it on a worker's machine: voxspool-worker voices get {voice}, then restart the worker"


def check_name(name: str) -> str:
    """Return a name that a cloned voice may have. Raises VoiceError."""
    if not _NAME.fullmatch(name):
        raise VoiceError(
            f"a voice cannot be called {_shown(name)}; take 1 to 64 letters (A to Z), digits, _ and -, such as alice-2",
            wrong_value=True,
        )
    return name


def check_languages(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the languages of a cloned voice, by XTTS's own tags: `pt-BR` is `pt`, `zh` is `zh-cn`.

    Raises UnknownLanguageError.
    """
    return tuple(dict.fromkeys(_language(tag) for tag in tags))


def decode_all(stored: Mapping[bytes, bytes]) -> dict[str, ClonedVoice]:
    """Read all descriptions, sorted by name, but for those that cannot be read: one must not spoil the others."""
    found: dict[str, ClonedVoice] = {}
    for field, data in sorted(stored.items()):
        name = field.decode(errors="replace")
        try:
            found[name] = ClonedVoice.decode(name, data)
        except ProtocolError:
            continue
    return found


def _part(piece: str, whole: str) -> tuple[str, Fraction]:
    """Read one part of a mix: a name, and its weight if it has one."""
    name, weight = piece.strip(), "1"
    if name.endswith(")"):
        name, _, weight = name[:-1].partition("(")
    name, weight = unicodedata.normalize("NFC", name.strip()), weight.strip()
    if not name or _FORBIDDEN & set(name):
        raise InvalidJobError(f"voice {_shown(whole)} is not a name and not a mix of names; {_HOW}")
    if not _WEIGHT.fullmatch(weight) or not Fraction(weight):
        raise InvalidJobError(
            f"in voice {_shown(whole)} the weight of {_shown(name)} is {_shown(weight)}, not a positive number "
            f"(of up to {MAX_WEIGHT_DIGITS} digits, such as 2 or 0.25); {_HOW}"
        )
    return name, Fraction(weight)


def _normalised(weights: dict[str, Fraction], whole: str) -> VoiceName:
    """Scale weights to sum 1, and to the smallest whole numbers: the canonical name is exact, and canonical itself."""
    names = sorted(weights)
    scale = Fraction(math.lcm(*(weight.denominator for weight in weights.values())))
    scale /= math.gcd(*(int(weight * scale) for weight in weights.values()))
    counts = [int(weights[name] * scale) for name in names]
    if max(counts) >= 10**MAX_WEIGHT_DIGITS:
        raise InvalidJobError(f"in voice {_shown(whole)} the weights are too far apart; write shorter numbers; {_HOW}")
    total = sum(counts)
    parts = tuple((name, count / total) for name, count in zip(names, counts, strict=True))
    mixed = "+".join(f"{name}({count})" for name, count in zip(names, counts, strict=True))
    return VoiceName(mixed if len(names) > 1 else names[0], parts)


def _language(tag: str) -> str:
    """Return XTTS's tag for a language."""
    wanted = tag.lower().replace("_", "-")
    for language in (wanted, wanted.partition("-")[0]):
        found = [known for known in LANGUAGES if language in (known, known.partition("-")[0])]
        if found:
            return found[0]
    raise UnknownLanguageError(
        f"a cloned voice cannot speak {_shown(tag)}{did_you_mean(wanted, LANGUAGES)}; it can: {', '.join(LANGUAGES)}"
    )


def _described(name: str, fields: Any) -> ClonedVoice:  # noqa: ANN401 - JSON
    """Read a description."""
    if fields["version"] != VERSION:
        raise ValueError(f"its version is {fields['version']!r:.40}, known here is {VERSION}")
    clips = tuple(_clip(clip) for clip in fields["clips"])
    (added,), languages = _strings([fields["added"]]), _strings(fields["languages"])
    if not (clips and _NAME.fullmatch(name) and set(languages) <= set(LANGUAGES)):
        raise ValueError("its name, its languages or its clips cannot be")
    return ClonedVoice(name, languages, added, clips)


def _clip(fields: Any) -> StoredClip:  # noqa: ANN401 - JSON
    """Read what is said of one clip."""
    clip = StoredClip(
        sha256=str(fields["sha256"]),
        duration_s=float(fields["duration_s"]),
        sample_rate=int(fields["sample_rate"]),
        recording_s=float(fields.get("recording_s", fields["duration_s"])),
    )
    if not (_SHA256.fullmatch(clip.sha256) and 0 < clip.duration_s < math.inf and clip.sample_rate > 0):
        raise ValueError("a clip has a hash, a length or a sample rate that cannot be")
    return clip


def _strings(values: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Return a list of strings, if it is one."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("a list of strings is something else")
    return tuple(values)


def _shown(text: str) -> str:
    """Show a text on one line, safely and not at length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
