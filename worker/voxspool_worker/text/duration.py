"""Estimate how long the speech of a text lasts: the expected duration, and the range outside which audio is broken.

There are two ranges. An engine that knows the pace of its language checks its own attempts with the narrow one
(`plausible_duration`). A narration checks the audio of any engine in any language with the wide one
(`plausible_duration_at_any_pace`), so that it accepts nearly everything that the engine has accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from voxspool.protocol.pace import ENGLISH_CHARS_PER_S

DIGIT_CHARS: Final = 6
"""Number of characters that a digit counts as: `7` is read as `seven`, `70` as `seventy`."""
CAPITAL_CHARS: Final = 4
"""Number of characters that a capital letter after another counts as: `BBC` is spelt out."""
WIDE_CHARS: Final = 4
"""Number of characters that a Chinese, Japanese or Korean one counts as: people read four to eight of them a second."""
WIDE_FROM: Final = "\u2e80"
"""The first of these characters in Unicode."""

MAX_RATIO: Final = 2.2
MAX_RATIO_AT_ANY_PACE: Final = 2.5
"""Audio is too long if it exceeds the expected duration times this, plus MAX_EXTRA_S."""
MAX_EXTRA_S: Final = 2.0
"""Allowance for pauses, which do not grow with the text, in seconds."""
MIN_RATIO: Final = 0.35
MIN_RATIO_AT_ANY_PACE: Final = 0.3
"""Words are missing in audio that is shorter than the expected duration times this. 0.3 of the English duration is 53
characters a second, where fast speakers reach 30."""
MIN_RATIO_CHARS: Final = 25
"""Texts with fewer characters have no minimum duration: some are hardly spoken at all."""


@dataclass(frozen=True, slots=True)
class PlausibleDuration:
    """The range of plausible durations of a text at speed 1, in seconds."""

    min_s: float
    expected_s: float
    max_s: float


def plausible_duration(text: str, chars_per_s: float) -> PlausibleDuration:
    """Return the plausible duration of a text in a language that is spoken at a known pace."""
    chars = len(text) + (DIGIT_CHARS - 1) * sum(map(str.isdigit, text))
    expected_s = chars / chars_per_s
    min_s = MIN_RATIO * expected_s if chars >= MIN_RATIO_CHARS else 0.0
    return PlausibleDuration(min_s, expected_s, MAX_EXTRA_S + MAX_RATIO * expected_s)


def plausible_duration_at_any_pace(text: str) -> PlausibleDuration:
    """Return the plausible duration of a text in an unknown language.

    Characters that may be spelt out or spoken slowly increase the maximum but not the minimum.
    """
    expected_s = len(text) / ENGLISH_CHARS_PER_S
    min_s = MIN_RATIO_AT_ANY_PACE * expected_s if len(text) >= MIN_RATIO_CHARS else 0.0
    longest_s = sum(map(_spoken_chars, text, " " + text)) / ENGLISH_CHARS_PER_S
    return PlausibleDuration(min_s, expected_s, MAX_EXTRA_S + MAX_RATIO_AT_ANY_PACE * longest_s)


def _spoken_chars(character: str, before: str) -> int:
    """Return the largest number of characters that `character` may count as when it follows `before`."""
    if character.isdigit():
        return DIGIT_CHARS
    if character >= WIDE_FROM:
        return WIDE_CHARS
    return CAPITAL_CHARS if character.isupper() and before.isupper() else 1
