"""A text as XTTS reads it: numbers in words, signs by name, Chinese, Japanese and Korean in Latin letters, in tokens.

The reading is upstream's, so that the model gets what it was trained on. What upstream cannot read (a number past its
words, a package that is not installed, a letter that the vocabulary lacks) is read in the next best way instead of
raising or vanishing. Knows the model's limits, in characters and in tokens; does not know where a text is best cut:
`text.split` asks here what fits. Everything may be used from any thread.
"""

from __future__ import annotations

import logging
import re
import threading
import unicodedata
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from voxspool.hints import install_command
from voxspool_worker.engines.xtts.punctuation import spoken_form
from voxspool_worker.text import Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_CHARS: Final = {
    "en": 250,
    "es": 239,
    "fr": 273,
    "de": 253,
    "it": 213,
    "pt": 203,
    "pl": 224,
    "tr": 226,
    "ru": 182,
    "nl": 251,
    "cs": 186,
    "ar": 166,
    "zh-cn": 82,
    "hu": 224,
    "ko": 95,
    "ja": 71,
    "hi": 150,
}
"""Characters that the model speaks well at once, by language; upstream's `char_limits`."""
LANGUAGES: Final = tuple(MAX_CHARS)
"""The languages of XTTS v2, the default first."""

READERS: Final = {
    "ja": ("Japanese", (("cutlet",), ("fugashi",), ("unidic_lite", "unidic")), "xtts-ja"),
    "zh-cn": ("Chinese", (("pypinyin",),), "xtts-zh"),
}
"""Language -> its name, the modules that upstream reads it with, one of each group, and the extra that brings them.

Korean is not here: the model reads it in Latin letters, and what writes those comes with coqui-tts itself.
"""
TOKENS_MAX: Final = 400
"""Of a text. Upstream asserts fewer than 402; the model adds a start and a stop to them."""
DIGITS_MAX: Final = 40
"""Of a text. One takes up to half a second to say, and the model stops at 28 s; reading more is slow, too."""
FIRST_CHARS: Final = 100
"""Most sentences are shorter and stay whole: a cut costs melody, and XTTS speaks stubs worst.

It need not be less: the first chunk waits for the prefill, not for the text's length. A hundred characters are some 60
tokens, 250 are 150, and those 90 more would cost a CPU 0.1 s (int8) to 0.4 s (fp32) before the first sound.
"""
MIN_CHARS: Final = 40
"""Shorter texts join a neighbour: XTTS runs on behind short ones. A quarter of the language's limit at the most."""

WORDINGS_REMEMBERED: Final = 512
"""Texts whose tokens are kept: the splitter asks for a text just before it is spoken. About 2 MB."""
TOKENS_A_LETTER_MAX: Final = 8
"""No letter is read as more: a syllable of Korean is up to seven in Latin, `zhuang1` is one of Chinese."""
HINDI_DIGITS: Final = ("शून्य", "एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ")
"""num2words 0.5.14 has no Hindi."""

_ENDLESS_NUMBER = re.compile("[0-9][0-9.,]{299,}")
"""Longer than any piece, and num2words takes seconds for it: said digit by digit."""
_DIGITS = re.compile("[0-9]+")
_WORD_WITH_DIGITS = re.compile(r"\S*[0-9]\S*")
_PLAIN_MARKS: Final = frozenset(" .,!?'-")
_LETTERS_END: Final = "\uf900"
"""Letters from here on stand for several others."""


def canonical_language(tag: str) -> str | None:
    """Return XTTS's own tag for a language tag such as `en-US`, `pt_BR` or `zh`; None if it does not speak it."""
    base = tag.strip().lower().replace("_", "-").split("-")[0]
    language = "zh-cn" if base == "zh" else base
    return language if language in MAX_CHARS else None


def _lacking(language: str) -> str | None:
    """Return what to install to read a language; None where all of it is here."""
    name, groups, extra = READERS[language]
    if all(any(find_spec(module) for module in group) for group in groups):
        return None
    command = install_command("voxspool-worker", extra)
    return f"this worker cannot read {name}; install its reader where the worker runs: {command}"


class XttsTokenizer:
    """Upstream's tokenizer that never raises; it knows its limits."""

    def __init__(self, vocab_file: Path) -> None:
        self.lacking = {language: hint for language in READERS if (hint := _lacking(language))}
        """Language -> what to install, for those whose reader is not on this machine."""
        self.languages = tuple(language for language in LANGUAGES if language not in self.lacking)
        # Takes 0.4 s after torch; here and not at the module's top, since LANGUAGES and limits need none of it.
        from anyascii import anyascii
        from TTS.tts.layers.xtts import tokenizer as upstream

        self._upstream = upstream
        self._to_ascii: Callable[[str], str] = anyascii
        self._reader: Any = upstream.VoiceBpeTokenizer(vocab_file)
        self.start: int = self._reader.tokenizer.token_to_id("[START]")
        self.stop: int = self._reader.tokenizer.token_to_id("[STOP]")
        self._alphabet = frozenset(token for token in self._reader.tokenizer.get_vocab() if len(token) == 1)
        # num2words keeps a number's state in its converters, and cutlet's tagger is one for all.
        self._reading = threading.Lock()
        self._warned: set[tuple[str, str]] = set()
        self._worded = lru_cache(maxsize=WORDINGS_REMEMBERED)(self._word)

    def encode(self, text: str, language: str) -> list[int]:
        """Return the tokens of a text, its language's first: of the text as it is written, and all of them.

        Equal to upstream's `encode(text.strip().lower(), language)` where that neither raises nor has an [UNK]; but
        numbers longer than a piece are said digit by digit, and `[en]` in a text is no command.
        """
        known = canonical_language(language) or LANGUAGES[0]
        with self._reading:
            read = self._read(text.strip().lower(), known.split("-")[0])
        spelt = self._spelt(read).replace(" ", "[SPACE]")
        ids: list[int] = self._reader.tokenizer.encode(f"[{known}]{spelt}").ids
        return ids

    def tokens(self, text: str, language: str) -> list[int]:
        """Return what the model is to speak: the tokens of the text's spoken form, TOKENS_MAX at the most.

        A piece within `limits` is never cut. Of any other text the rest is not spoken, and a warning says so.
        """
        tokens = self._worded(text, language)
        if len(tokens) > TOKENS_MAX:
            log.warning("xtts.truncated tokens=%d limit=%d language=%s", len(tokens), TOKENS_MAX, language)
        return list(tokens[:TOKENS_MAX])

    def count(self, text: str, language: str) -> int:
        """Count the tokens of the text's spoken form, those that would be cut included."""
        return len(self._worded(text, language))

    def limits(self, language: str) -> Limits:
        """Return how much of this language is spoken at once, in characters and in tokens."""
        known = canonical_language(language) or LANGUAGES[0]
        most = MAX_CHARS[known]
        return Limits(most, min(FIRST_CHARS, most), min(MIN_CHARS, most // 4), partial(self._fits, known))

    def _fits(self, language: str, text: str) -> bool:
        if len(text) * TOKENS_A_LETTER_MAX < TOKENS_MAX and all(map(_plain, text)):
            return True  # Not counted: a page of cries would be counted once a cry.
        return sum(map(str.isdecimal, text)) <= DIGITS_MAX and self.count(text, language) <= TOKENS_MAX

    def _word(self, text: str, language: str) -> tuple[int, ...]:
        return tuple(self.encode(spoken_form(text, language), language))

    # From a text to what is read

    def _read(self, text: str, language: str) -> str:
        """Read as upstream does, or step by step, each step that fails left out."""
        text = _ENDLESS_NUMBER.sub(lambda number: " ".join(number[0]), text)
        try:
            read: str = self._reader.preprocess_text(text, language)
        except Exception as error:  # noqa: BLE001 - num2words alone raises eight kinds
            self._warn(language, error)
            read = self._read_by_steps(text, language)
        return read

    def _read_by_steps(self, text: str, language: str) -> str:
        if language != "ja":
            text = self._numbers(text.replace('"', ""), language)
            for expand in (
                self._upstream.expand_abbreviations_multilingual,
                self._upstream.expand_symbols_multilingual,
            ):
                text = self._attempt(expand, text, language) or text
        romanise = {"zh": self._upstream.chinese_transliterate, "ko": self._upstream.hangul_romanize}.get(language)
        text = self._attempt(romanise, text) or text if romanise else text
        return " ".join(text.split())

    def _numbers(self, text: str, language: str) -> str:
        """Word by word, so that one that cannot be said spoils no other."""
        return _WORD_WITH_DIGITS.sub(lambda word: self._number(word[0], language), text)

    def _number(self, word: str, language: str) -> str:
        expand = self._upstream.expand_numbers_multilingual
        whole: str | None = self._attempt(expand, word, language)
        return whole or _DIGITS.sub(lambda run: self._run(run[0], language), word)

    def _run(self, digits: str, language: str) -> str:
        """Spell out a row of digits: as one number if it has a name, else digit by digit."""
        expand = self._upstream.expand_numbers_multilingual
        names = HINDI_DIGITS if language == "hi" else "0123456789"
        one_by_one = (self._attempt(expand, digit, language) or names[int(digit)] for digit in digits)
        return self._attempt(expand, digits, language) or f" {' '.join(one_by_one)} "

    def _attempt(self, step: Callable[..., str], *arguments: str) -> str | None:
        try:
            return step(*arguments)
        except Exception:  # noqa: BLE001 - the next best way follows
            return None

    def _warn(self, language: str, error: Exception) -> None:
        """Warn once that a language is read without its package."""
        if isinstance(error, ImportError) and (language, str(error)) not in self._warned:
            self._warned.add((language, str(error)))
            log.warning("xtts.reading_degraded language=%s error=%s", language, error)

    # From what is read to what the vocabulary can spell

    def _spelt(self, read: str) -> str:
        """Spell the characters that the vocabulary lacks with those that it has."""
        unknown = {character for character in read if character not in self._alphabet and not character.isspace()}
        if not unknown:
            return read
        return " ".join(read.translate({ord(character): self._spelling(character) for character in unknown}).split())

    def _spelling(self, character: str) -> str:
        """Spell one that is unknown in Latin letters, or as [UNK] if it is a letter that has none."""
        kind = unicodedata.category(character)
        name = unicodedata.name(character, "").removesuffix(" SIGN") if kind == "Sc" else self._to_ascii(character)
        spelling = "".join(letter for letter in name.lower() if letter in self._alphabet or letter == " ")
        if kind[0] == "S":  # A word of its own, or, an arrow, silent.
            return f" {spelling} " if any(map(str.isalpha, spelling)) else " "
        return spelling or {"L": character, "N": character, "M": ""}.get(kind[0], " ")


def _plain(character: str) -> bool:
    return (character.isalpha() and character < _LETTERS_END) or character in _PLAIN_MARKS
