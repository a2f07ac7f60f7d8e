"""Text to tokens of XTTS: numbers and symbols become words, Chinese, Japanese and Korean become Latin letters.

The preprocessing is upstream's, because the model was trained with it. Where upstream raises or drops text (a number
that is too large for it, a package that is not installed, a letter that the vocabulary lacks), a fallback is used. This
module also has the model's limits in characters and tokens, which `text.split` asks for. Any thread may use it.
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
"""Language -> maximum length of a segment, in characters; upstream's `char_limits`."""
LANGUAGES: Final = tuple(MAX_CHARS)
"""The languages of XTTS v2, the default first."""

READERS: Final = {
    "ja": ("Japanese", (("cutlet",), ("fugashi",), ("unidic_lite", "unidic")), "xtts-ja"),
    "zh-cn": ("Chinese", (("pypinyin",),), "xtts-zh"),
}
"""Language -> its name, the modules that upstream needs for it (one of each group), and the extra that installs them.

Korean needs no module of its own: the romanisation is part of coqui-tts.
"""
MAX_TOKENS: Final = 400
"""Maximum number of tokens of a text. Upstream asserts fewer than 402, then adds a start and a stop token."""
MAX_DIGITS: Final = 40
"""Maximum number of digits in a text.

Each takes up to 0.5 s to speak, and the model's output is limited to 28 s. Spelling out more of them is slow, too.
"""
FIRST_MAX_CHARS: Final = 100
"""Maximum length of a job's first segment, in characters.

Most sentences are shorter and stay whole; a cut would spoil the intonation, and XTTS is worst at fragments. A smaller
limit would hardly make the first chunk earlier, since that waits only for the prefill of the text. 100 characters are
about 60 tokens, 250 are 150; on a CPU, the prefill of those 90 more takes 0.1 s (int8) to 0.4 s (fp32).
"""
MIN_CHARS: Final = 40
"""Shorter sentences are joined with a neighbour, because XTTS does not stop reliably after short texts.

At most a quarter of the language's limit.
"""

CACHED_TEXTS: Final = 512
"""Number of texts whose tokens are cached, about 2 MB: the splitter counts the tokens of a text before it is spoken."""
MAX_TOKENS_PER_LETTER: Final = 8
"""Upper limit of the tokens of a letter: a Korean syllable and a Chinese character have up to seven Latin letters."""
HINDI_DIGITS: Final = ("शून्य", "एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ")
"""Names of the digits in Hindi, which num2words 0.5.14 does not support."""

_ENDLESS_NUMBER = re.compile("[0-9][0-9.,]{299,}")
"""A number longer than any segment, for which num2words would take seconds: it is read digit by digit."""
_DIGITS = re.compile("[0-9]+")
_WORD_WITH_DIGITS = re.compile(r"\S*[0-9]\S*")
_PLAIN_MARKS: Final = frozenset(" .,!?'-")
_LETTERS_END: Final = "\uf900"
"""Code points from here on are compatibility letters, some of which stand for several letters."""


def canonical_language(tag: str) -> str | None:
    """Return XTTS's tag for a language tag such as `en-US`, `pt_BR` or `zh`; None if XTTS does not support it."""
    base = tag.strip().lower().replace("_", "-").split("-")[0]
    language = "zh-cn" if base == "zh" else base
    return language if language in MAX_CHARS else None


def _install_hint(language: str) -> str | None:
    """Return a sentence on what to install for a language of READERS; None if everything is installed."""
    name, groups, extra = READERS[language]
    if all(any(find_spec(module) for module in group) for group in groups):
        return None
    command = install_command("voxspool-worker", extra)
    return f"this worker cannot read {name}; install its reader where the worker runs: {command}"


class XttsTokenizer:
    """Upstream's tokenizer with fallbacks, so that no text raises an error, and with the model's limits."""

    def __init__(self, vocab_file: Path) -> None:
        self.lacking = {language: hint for language in READERS if (hint := _install_hint(language))}
        """Language -> what to install, for the languages that this machine cannot read."""
        self.languages = tuple(language for language in LANGUAGES if language not in self.lacking)
        # These imports take 0.4 s; other modules need only LANGUAGES and the limits.
        from anyascii import anyascii
        from TTS.tts.layers.xtts import tokenizer as upstream

        self._upstream = upstream
        self._to_ascii: Callable[[str], str] = anyascii
        self._bpe: Any = upstream.VoiceBpeTokenizer(vocab_file)
        self.start: int = self._bpe.tokenizer.token_to_id("[START]")
        self.stop: int = self._bpe.tokenizer.token_to_id("[STOP]")
        self._alphabet = frozenset(token for token in self._bpe.tokenizer.get_vocab() if len(token) == 1)
        # num2words and cutlet keep state in global objects.
        self._lock = threading.Lock()
        self._warned: set[tuple[str, str]] = set()
        self._cached_tokens = lru_cache(maxsize=CACHED_TEXTS)(self._spoken_tokens)

    def encode(self, text: str, language: str) -> list[int]:
        """Return all tokens of a text as it is written; the first is the language's.

        Equal to upstream's `encode(text.strip().lower(), language)` if that neither raises nor contains an [UNK], with
        two exceptions: very long numbers are read digit by digit, and `[en]` in a text is not a special token.
        """
        known = canonical_language(language) or LANGUAGES[0]
        with self._lock:
            read = self._preprocess(text.strip().lower(), known.split("-")[0])
        spelt = self._spell(read).replace(" ", "[SPACE]")
        ids: list[int] = self._bpe.tokenizer.encode(f"[{known}]{spelt}").ids
        return ids

    def tokens(self, text: str, language: str) -> list[int]:
        """Return the tokens of a text after `spoken_form`, at most MAX_TOKENS.

        A text within `limits` is never truncated; for any other text that is too long, a warning is logged.
        """
        tokens = self._cached_tokens(text, language)
        if len(tokens) > MAX_TOKENS:
            log.warning("xtts.truncated tokens=%d limit=%d language=%s", len(tokens), MAX_TOKENS, language)
        return list(tokens[:MAX_TOKENS])

    def count(self, text: str, language: str) -> int:
        """Return the number of tokens of a text after `spoken_form`, without truncation."""
        return len(self._cached_tokens(text, language))

    def limits(self, language: str) -> Limits:
        """Return the limits of a segment in this language, in characters and in tokens."""
        known = canonical_language(language) or LANGUAGES[0]
        longest = MAX_CHARS[known]
        return Limits(longest, min(FIRST_MAX_CHARS, longest), min(MIN_CHARS, longest // 4), partial(self._fits, known))

    def _fits(self, language: str, text: str) -> bool:
        """Return whether a text has at most MAX_DIGITS digits and MAX_TOKENS tokens."""
        if len(text) * MAX_TOKENS_PER_LETTER < MAX_TOKENS and all(map(_plain, text)):
            return True  # without counting, which would be slow for a page of very short sentences
        return sum(map(str.isdecimal, text)) <= MAX_DIGITS and self.count(text, language) <= MAX_TOKENS

    def _spoken_tokens(self, text: str, language: str) -> tuple[int, ...]:
        return tuple(self.encode(spoken_form(text, language), language))

    # -- preprocessing: numbers, symbols, transliteration --------------------------------------------------------------

    def _preprocess(self, text: str, language: str) -> str:
        """Preprocess a text as upstream does; if that raises, do it step by step and skip the steps that raise."""
        text = _ENDLESS_NUMBER.sub(lambda number: " ".join(number[0]), text)
        try:
            read: str = self._bpe.preprocess_text(text, language)
        except Exception as error:  # noqa: BLE001 - num2words alone raises errors of eight classes
            self._warn(language, error)
            read = self._preprocess_by_steps(text, language)
        return read

    def _preprocess_by_steps(self, text: str, language: str) -> str:
        if language != "ja":
            text = self._expand_numbers(text.replace('"', ""), language)
            for expand in (
                self._upstream.expand_abbreviations_multilingual,
                self._upstream.expand_symbols_multilingual,
            ):
                text = _try(expand, text, language) or text
        romanise = {"zh": self._upstream.chinese_transliterate, "ko": self._upstream.hangul_romanize}.get(language)
        text = _try(romanise, text) or text if romanise else text
        return " ".join(text.split())

    def _expand_numbers(self, text: str, language: str) -> str:
        """Spell out the numbers of each word separately, so that a failure affects one word only."""
        return _WORD_WITH_DIGITS.sub(lambda word: self._expand_word(word[0], language), text)

    def _expand_word(self, word: str, language: str) -> str:
        """Spell out the numbers in a word: with upstream, or else each run of digits by itself."""
        expand = self._upstream.expand_numbers_multilingual
        expanded: str | None = _try(expand, word, language)
        return expanded or _DIGITS.sub(lambda digits: self._expand_digits(digits[0], language), word)

    def _expand_digits(self, digits: str, language: str) -> str:
        """Spell out a run of digits: as one number if upstream can, else digit by digit."""
        expand = self._upstream.expand_numbers_multilingual
        names = HINDI_DIGITS if language == "hi" else "0123456789"
        one_by_one = (_try(expand, digit, language) or names[int(digit)] for digit in digits)
        return _try(expand, digits, language) or f" {' '.join(one_by_one)} "

    def _warn(self, language: str, error: Exception) -> None:
        """Log once that a language is read with a fallback because a package is missing."""
        if isinstance(error, ImportError) and (language, str(error)) not in self._warned:
            self._warned.add((language, str(error)))
            log.warning("xtts.reading_degraded language=%s error=%s", language, error)

    # -- characters that the vocabulary lacks --------------------------------------------------------------------------

    def _spell(self, read: str) -> str:
        """Replace the characters that the vocabulary lacks by some that it has."""
        unknown = {character for character in read if character not in self._alphabet and not character.isspace()}
        if not unknown:
            return read
        return " ".join(read.translate({ord(character): self._spelling(character) for character in unknown}).split())

    def _spelling(self, character: str) -> str:
        """Return the replacement of an unknown character: its Latin letters or, for a symbol, its name.

        If it has none, a letter or digit stays, and becomes [UNK]; a combining mark is removed; any other character
        becomes a space.
        """
        kind = unicodedata.category(character)
        name = unicodedata.name(character, "").removesuffix(" SIGN") if kind == "Sc" else self._to_ascii(character)
        spelling = "".join(letter for letter in name.lower() if letter in self._alphabet or letter == " ")
        if kind[0] == "S":  # a symbol is a word of its own, or silent if it has no name, such as an arrow
            return f" {spelling} " if any(map(str.isalpha, spelling)) else " "
        return spelling or {"L": character, "N": character, "M": ""}.get(kind[0], " ")


def _try(step: Callable[..., str], *arguments: str) -> str | None:
    """Return the result of a preprocessing step; None if it raises."""
    try:
        return step(*arguments)
    except Exception:  # noqa: BLE001 - the caller has a fallback
        return None


def _plain(character: str) -> bool:
    """Return whether a character is a letter or mark that has at most MAX_TOKENS_PER_LETTER tokens."""
    return (character.isalpha() and character < _LETTERS_END) or character in _PLAIN_MARKS
