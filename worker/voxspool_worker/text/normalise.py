"""Write a text as an engine should read it: composed, on one line, without silent characters.

It uses the categories of Unicode and no rules of a language: the engine reads numbers and abbreviations. No text raises
an error, and no letter or number is lost.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MARKS_MAX = 30
"""Largest number of combining marks in a row: the limit of Unicode's Stream-Safe Text Format (UAX 15, section 13).

Real words need four. Longer runs are decoration, and the time to sort them grows with the square of their length.
"""

JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: part of the spelling in Persian and in Indian scripts."""

_SILENT_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Me"})
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_WORDY_SYMBOLS = re.compile("[\u0000-\u218f\u3200-\u33ff]")
"""Matches the symbols that are read aloud: ° © № ℃ have code points before the arrows, ㎏ and ㎢ are CJK squares."""
_MARK_PILE = re.compile(rf"[^\w\s]{{{MARKS_MAX + 1},}}")
"""Matches at least every run of too many marks: `re` does not count marks as part of a word."""

_CHARACTERS_REMEMBERED = 4096
"""Size of the caches: nearly all characters of one text, even in Chinese; at most 0.5 MB."""


def normalise(text: str) -> str:
    """Return a text as it is spoken: in NFC, with single spaces, without control characters and pictographs.

    A second call changes nothing. The result may be longer than the text: NFC writes a few characters as two or three.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    audible = _without_loose_joiners("".join(map(spoken_character, text)))
    # Runs of marks are cut before NFC, which is slow on them, and after it, because it may split a mark from a letter.
    composed = _without_mark_piles(unicodedata.normalize("NFC", _without_mark_piles(audible)))
    return " ".join(composed.split())


def speakable(text: str) -> bool:
    """Return whether a text has anything to speak: at least one letter or number, of any script."""
    return any(map(_is_letter_or_number, text))


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def spoken_character(character: str) -> str:
    """Return the replacement of a character before NFC: itself, a space, or an empty text."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category == "So":
        return character if _WORDY_SYMBOLS.match(character) else " "
    if character in JOINERS:
        return character
    silent = category in _SILENT_CATEGORIES or _VARIATION_SELECTORS.match(character) or _SKIN_TONES.match(character)
    return "" if silent else character


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def _is_letter_or_number(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN"


def _without_loose_joiners(text: str) -> str:
    """Return a text with joiners only inside words: the emoji that other joiners connected were removed before."""
    if not any(joiner in text for joiner in JOINERS):
        return text
    padded = f" {text} "
    neighbours = zip(padded, text, padded[2:], strict=False)
    return "".join(c for before, c, after in neighbours if c not in JOINERS or (_in_word(before) and _in_word(after)))


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def _without_mark_piles(text: str) -> str:
    return _MARK_PILE.sub(_cut_marks, text)


def _cut_marks(pile: re.Match[str]) -> str:
    kept = []
    marks = 0
    for character in pile[0]:
        marks = marks + 1 if unicodedata.category(character)[0] == "M" else 0
        if marks <= MARKS_MAX:
            kept.append(character)
    return "".join(kept)
