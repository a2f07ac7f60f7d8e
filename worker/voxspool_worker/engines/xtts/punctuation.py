"""A text's punctuation as XTTS speaks it best: plain marks, no quotation marks, a clear end.

XTTS runs on in gibberish after marks that it seldom met, after a closing quotation mark most of all, and behind short
texts without an end. So marks are made plain; the words are left alone: the same letters and numbers come out, in the
same order. Characters of compatibility (full-width, ligatures, the digits of other scripts) are written as the ones
that they stand for. Knows neither vocabulary nor numbers: those are the tokenizer's.
"""

# ruff: noqa: RUF001 - marks of many scripts look like those of another
from __future__ import annotations

import re
import unicodedata
from typing import Final

from voxspool_worker.text import speakable

SHORT_WORDS: Final = 2
"""A text of so many words gets a full stop if it has no end: a heading, a name."""
FULL_STOPS: Final = {"zh": "。", "ja": "。", "hi": "।"}

_ORDINAL_LETTERS: Final = frozenset("ªº")  # As in 1º: read as part of the number.
_OPENERS: Final = "([{"
_BRACKETS: Final = str.maketrans("[]{}", "()()")
"""`[en]` and the like would be read as the model's own commands."""
_MARKS: Final = ".!?…⋯‥,;:。！？，、；：．؟،؛।"
_PAUSES: Final = ",;:，、；：،؛"
_QUESTIONS: Final = "?？؟"
_EXCLAMATIONS: Final = "!！"

_QUOTE: Final = r"[\"“”„‟«»‹›『』「」〝〞＂❝❞]"
_QUOTE_IN_WORD = re.compile(rf"(?<=\w){_QUOTE}+(?=\w)")
_QUOTES = re.compile(rf"{_QUOTE}+")
_APOSTROPHE = re.compile("[‘’‚‛′＇`´]")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'+|'+(?!\w)")
_HYPHEN = re.compile(r"(?<=\w)[–‒](?=\w)|(?<=\d )[–‒](?= \d)|−")
_DASH = re.compile(r" ?(?:[–—―‒]|--)(?: ?(?:[–—―‒]|-(?=[ -])))*-? ?|(?: -){2,} |(?<!\d) - | - (?!\d)|^- ")
_RUN = re.compile(rf"[{_MARKS}]{{2,}}|[…⋯‥]| ?\.(?: \.)+")
_PAUSE_BEFORE_MARK = re.compile(rf"[{_PAUSES}]\s+(?=[{_MARKS}])|(?<=[.!?。！？؟।])\s*[{_PAUSES}](?=\s)")
_PRICE_BEFORE_SIGN = re.compile(r"(?<=[0-9]) (?=[€$£](?! ?[0-9]))")
_SIGN_BEFORE_PRICE = re.compile(r"(?<![0-9])(?<![0-9] )([€$£]) (?=[0-9])")
_BEGINNING = re.compile(rf"^(?:[{_PAUSES}!?…)*]|\.(?!\d)|-(?!\d)|\s)+")
_END = re.compile(rf"[{_PAUSES}{re.escape(_OPENERS)}\-\s]+$")


def spoken_form(text: str, language: str) -> str:
    """Return a text with the marks that XTTS speaks well. The language says how its sentences end."""
    plain = _without_quotes(_plain_characters(text).translate(_BRACKETS))
    plain = _plain_marks(_plain_dashes(plain))
    plain = _SIGN_BEFORE_PRICE.sub(r"\1", _PRICE_BEFORE_SIGN.sub("", " ".join(plain.split())))
    return _ended(_BEGINNING.sub("", plain), language)


def _plain_characters(text: str) -> str:
    if text.isascii():
        return text
    plain = ""
    for character in text:
        written = _plain_character(character)
        # A number of its own behind another: 2½ is not 21/2.
        apart = written != character and written[:1].isdigit() and not character.isdecimal() and plain[-1:].isdigit()
        plain += f" {written}" if apart else written
    return unicodedata.normalize("NFC", plain)


def _plain_character(character: str) -> str:
    if character == "İ":
        return "i"  # Lower-cased it would be two characters, the second unknown to XTTS.
    if unicodedata.category(character)[0] not in "LN" or character in _ORDINAL_LETTERS:
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


def _without_quotes(text: str) -> str:
    unquoted = _QUOTES.sub("", _QUOTE_IN_WORD.sub(" ", text))
    return _LOOSE_APOSTROPHE.sub("", _APOSTROPHE.sub("'", unquoted))


def _plain_dashes(text: str) -> str:
    """Write a dash between clauses as a comma, one between words or numbers as a hyphen."""
    return _DASH.sub(_comma, _HYPHEN.sub("-", " ".join(text.split())))


def _comma(dash: re.Match[str]) -> str:
    return ", " if dash.start() else ""


def _plain_marks(text: str) -> str:
    """Leave one mark of several: the one that says most."""
    return _RUN.sub(_strongest, _PAUSE_BEFORE_MARK.sub("", _RUN.sub(_strongest, text)))


def _strongest(run: re.Match[str]) -> str:
    marks = run[0]
    for kind in (_QUESTIONS, _EXCLAMATIONS):
        found = [mark for mark in marks if mark in kind]
        if found:
            return found[0]
    if any(mark in "…⋯‥" for mark in marks) or marks.count(".") > 1:
        return _instead_of_dots(run.string[run.end() :])
    return next((mark for mark in marks if mark not in _PAUSES), marks[0])


def _instead_of_dots(rest: str) -> str:
    """Write an ellipsis as a comma where the sentence goes on."""
    following = rest.lstrip()
    if not following or following[0].isupper():
        return ". " if following else "."
    return ", "


def _ended(text: str, language: str) -> str:
    ended = _END.sub("", text)
    if len(ended.split()) <= SHORT_WORDS and ended[-1:] not in _MARKS and speakable(ended):
        ended += FULL_STOPS.get(language[:2], ".")
    return ended
