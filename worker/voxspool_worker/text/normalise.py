"""Write a text as an engine should read it: composed, on one line, without characters that have no sound.

It uses the categories of Unicode. It knows no languages: an engine reads numbers and abbreviations in its own language.
It never raises, whatever the text, and loses no letter and no number.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MARKS_MAX = 30
"""Combining marks in a row that are kept: the bound of Unicode's Stream-Safe Text Format (UAX 15, section 13).

Real words need four. Longer piles are drawings, and putting them in order costs the square of their length.
"""

JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: part of the spelling in Persian and in the scripts of India."""

_SILENT_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Me"})
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_WORDY_SYMBOLS = re.compile("[\u0000-\u218f\u3200-\u33ff]")
"""Of the symbols, those that are read aloud: ° © № ℃ stand before the arrows, ㎏ and ㎢ among the CJK squares."""
_MARK_PILE = re.compile(rf"[^\w\s]{{{MARKS_MAX + 1},}}")
"""Holds every pile: no mark counts as part of a word for `re`."""

_CHARACTERS_REMEMBERED = 4096
"""Of one text's alphabet, Chinese included, nearly all; 0.5 MB at most."""


def normalise(text: str) -> str:
    """Text as it is spoken: NFC, single spaces, neither controls nor pictographs; the same again if done twice.

    May be longer than what went in: NFC writes a few characters as two or three.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    audible = _without_loose_joiners("".join(map(spoken_character, text)))
    # Piles are cut before NFC, which would be slow on them, and after, which may add a mark by taking apart a letter.
    composed = _without_mark_piles(unicodedata.normalize("NFC", _without_mark_piles(audible)))
    return " ".join(composed.split())


def speakable(text: str) -> bool:
    """Return whether a text has anything to speak: at least one letter or number, of any script."""
    return any(map(_is_letter_or_number, text))


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def spoken_character(character: str) -> str:
    """Return what is left of a character before NFC: itself, a space, or nothing."""
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
    """Keep a joiner where it stands in a word; those between emoji have lost what they joined."""
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
