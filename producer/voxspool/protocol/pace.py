"""The number of characters spoken in a second, for plans, estimates and audio checks."""

from __future__ import annotations

from typing import Final

ENGLISH_CHARS_PER_S: Final = 16.0
"""Characters of English a second, read aloud. Piper's voice joe read 4,735 characters of prose, with its pauses between
sentences, at 16.7."""
CHARS_PER_S: Final = {
    "en": ENGLISH_CHARS_PER_S, "ar": 10.6, "cs": 11.9, "de": 16.2, "es": 15.3, "fr": 17.5, "hi": 9.6, "hu": 14.3,
    "it": 13.6, "ja": 4.5, "ko": 6.1, "nl": 16.1, "pl": 14.3, "pt": 13.0, "ru": 11.6, "tr": 14.5, "zh": 5.2,
}  # fmt: skip
"""Language -> characters a second. English was measured. The others follow from XTTS's limits of a text's length, which
stand for about the same duration in every language: English times the ratio of the two limits."""
TONE_CHARS_PER_S: Final = 1 / 0.06
"""Characters a second of the engine `tone`, in every language: its sine lasts 0.06 s for each character."""


def chars_per_s(language: str | None, engine: str) -> float:
    """Return the characters spoken in a second at speed 1. A language that is not listed counts as English."""
    if engine == "tone":
        return TONE_CHARS_PER_S
    return CHARS_PER_S.get((language or "").lower().replace("_", "-").split("-")[0], ENGLISH_CHARS_PER_S)
