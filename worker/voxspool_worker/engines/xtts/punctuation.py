"""Normalises the punctuation of a text for XTTS: plain marks, no quotation marks, a mark at the end of short texts.

XTTS tends to produce gibberish after marks that were rare in its training data, mostly after a closing quotation mark,
and after short texts without a final mark. This module replaces such marks. It does not change words: the letters and
numbers stay the same, in the same order. Compatibility characters (full-width letters, ligatures, digits of other
scripts) are replaced by their standard form. The tokenizer handles numbers and the vocabulary.
"""

# ruff: noqa: RUF001 - many marks look like marks of another script
from __future__ import annotations

import re
import unicodedata
from typing import Final

from voxspool_worker.text import speakable

SHORT_WORDS: Final = 2
"""A text of at most this many words, such as a heading, gets a full stop if it has no final mark."""
FULL_STOPS: Final = {"zh": "。", "ja": "。", "hi": "।"}
"""Language -> its full stop, if that is not `.`."""

_ORDINAL_LETTERS: Final = frozenset("ªº")  # as in 1º, where XTTS reads it as part of the number
_OPENERS: Final = "([{"
_BRACKETS: Final = str.maketrans("[]{}", "()()")
"""Square brackets must not remain: XTTS would read a text such as `[en]` as a special token."""
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
    """Return a text with normalised punctuation; `language` decides which full stop is added."""
    plain = _without_quotes(_plain_characters(text).translate(_BRACKETS))
    plain = _plain_marks(_plain_dashes(plain))
    plain = _SIGN_BEFORE_PRICE.sub(r"\1", _PRICE_BEFORE_SIGN.sub("", " ".join(plain.split())))
    return _ended(_BEGINNING.sub("", plain), language)


def _plain_characters(text: str) -> str:
    """Replace compatibility characters by their standard form."""
    if text.isascii():
        return text
    plain = ""
    for character in text:
        written = _plain_character(character)
        # A fraction after a digit needs a space: 2½ is not 21/2.
        separate = written != character and written[:1].isdigit() and not character.isdecimal() and plain[-1:].isdigit()
        plain += f" {written}" if separate else written
    return unicodedata.normalize("NFC", plain)


def _plain_character(character: str) -> str:
    if character == "İ":
        return "i"  # its lower-case form has two characters, of which XTTS does not know the second
    if unicodedata.category(character)[0] not in "LN" or character in _ORDINAL_LETTERS:
        return character
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


def _without_quotes(text: str) -> str:
    unquoted = _QUOTES.sub("", _QUOTE_IN_WORD.sub(" ", text))
    return _LOOSE_APOSTROPHE.sub("", _APOSTROPHE.sub("'", unquoted))


def _plain_dashes(text: str) -> str:
    """Replace a dash between clauses by a comma, and a dash between words or numbers by a hyphen."""
    return _DASH.sub(_comma, _HYPHEN.sub("-", " ".join(text.split())))


def _comma(dash: re.Match[str]) -> str:
    return ", " if dash.start() else ""


def _plain_marks(text: str) -> str:
    """Replace several marks in a row by the one that matters most to the intonation."""
    return _RUN.sub(_strongest, _PAUSE_BEFORE_MARK.sub("", _RUN.sub(_strongest, text)))


def _strongest(run: re.Match[str]) -> str:
    """Return the mark that replaces a run of marks: question mark, exclamation mark, ellipsis, then any full stop."""
    marks = run[0]
    for kind in (_QUESTIONS, _EXCLAMATIONS):
        found = [mark for mark in marks if mark in kind]
        if found:
            return found[0]
    if any(mark in "…⋯‥" for mark in marks) or marks.count(".") > 1:
        return _replace_ellipsis(run.string[run.end() :])
    return next((mark for mark in marks if mark not in _PAUSES), marks[0])


def _replace_ellipsis(rest: str) -> str:
    """Return the replacement of an ellipsis before `rest`: a comma if the sentence continues, else a full stop."""
    following = rest.lstrip()
    if not following or following[0].isupper():
        return ". " if following else "."
    return ", "


def _ended(text: str, language: str) -> str:
    """Remove pause marks and openers at the end; add a full stop to a short text without a final mark."""
    ended = _END.sub("", text)
    if len(ended.split()) <= SHORT_WORDS and ended[-1:] not in _MARKS and speakable(ended):
        ended += FULL_STOPS.get(language[:2], ".")
    return ended
