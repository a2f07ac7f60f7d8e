"""Apply pronunciation files to a text: replace written words by spoken ones, and map spoken positions back.

A pronunciation file has lines of these forms. Blank lines and lines that begin with # are ignored.

    Siobhan => Shivawn
    cafe => caffay
    /Ch\\. (\\d+)/ => Chapter \\1

A word matches whole words only. A rule in lower case matches any case; a rule with a capital letter matches that exact
case (so IT does not match it). Straight and curved apostrophes are equal. A possessive 's may follow the word, and an
elided word may come before it (Anna's, l'Anna). In scripts without spaces between words, a word matches anywhere. The
text between slashes is a regular expression of Python's `re`; its spoken text may refer to its groups. An empty spoken
text removes the word.

Replacement goes from the start of the text to its end, and replaced text is not searched again. If several rules match
at one position, the order of preference is: the longest match, the last file, a word before a regular expression, the
earlier line. The book's own file is read after the global file, so its rules take precedence.

The files come from the user, but a slow expression must not block a narration without a limit. Repeated groups are
refused, because they can take exponential time on text that does not match. The expressions that remain take polynomial
time in the length of a paragraph at worst, and Ctrl-C stops them.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ARROW: Final = "=>"
_EXPRESSION: Final = re.compile(r"/(.+?)/\s*=>(.*)")
_ATOMS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""Escapes and character sets: the parts of an expression whose brackets do not open a group."""
_REPEATED_GROUP: Final = re.compile(r"\)[*+{]|\(\?[a-zA-Z]*x")
"""A repeated group, or the verbose flag, which allows spaces between a group and its repetition."""
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_APOSTROPHES: Final = "'\u2019"
_CHARACTERS_REMEMBERED: Final = 4096
_AFTER_WORDS: Final = 1 << 32
_FORM: Final = "write it like: Siobhan => Shivawn, or /Ch\\. (\\d+)/ => Chapter \\1"


class Replaced(NamedTuple):
    """A span of the spoken text that differs from the written text."""

    start: int
    end: int
    """The span of the spoken text, in characters; empty if a word was left out."""
    written_start: int
    written_end: int
    """The span of the written text, in characters; empty if something was added."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Maps positions in a spoken text to the written text. Outside `replaced` both have the same characters."""

    replaced: tuple[Replaced, ...] = ()
    """The replaced spans in order, without overlap."""
    offset: int = 0
    """The position in the written text at which the spoken text begins, in characters."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the written text for a span of the spoken text. It contains replaced words completely.

        Adjacent spans of the spoken text have adjacent spans of the written text. The exception is a border inside a
        replaced word: both spans contain the whole word. A word that was left out belongs to the text before it, or to
        the text after it at the very start.
        """
        return self._start(start), max(self._start(start), self._end(end))

    def moved(self, by: int) -> Alignment:
        """Return the alignment after `by` characters are inserted before the written text."""
        moved = (
            one._replace(written_start=one.written_start + by, written_end=one.written_end + by)
            for one in self.replaced
        )
        return Alignment(tuple(moved), self.offset + by)

    def added(self, start: int, end: int) -> Alignment:
        """Return the alignment after a span that is not in the written text is added at the spoken text's end."""
        written = self._end(start)
        return Alignment((*self.replaced, Replaced(start, end, written, written)), self.offset)

    def _start(self, place: int) -> int:
        last = self._last(place)
        if place <= 0 or last is None:
            return self.offset + max(0, place)
        return last.written_start if place < last.end else last.written_end + place - last.end

    def _end(self, place: int) -> int:
        last = self._last(place)
        if last is not None and last.start == place < last.end:
            last = self._last(place - 1)  # a replacement that starts at the end of the span is not part of it
        return place + self.offset if last is None else last.written_end + max(0, place - last.end)

    def _last(self, place: int) -> Replaced | None:
        """Return the last replacement that begins at or before a position."""
        count = bisect_right(self.replaced, place, key=lambda one: one.start)
        return self.replaced[count - 1] if count else None


class _RuleMatch(NamedTuple):
    """A match of a rule in a text. The sort order is the order of preference: position, then length, then rank."""

    start: int
    shortness: int
    """The negative length, so that a longer match sorts first."""
    rank: tuple[int, int]
    spoken: str

    @property
    def end(self) -> int:
        return self.start - self.shortness


@dataclass(frozen=True, slots=True)
class _Word:
    written: str
    spoken: str
    rank: tuple[int, int]

    def fits(self, text: str) -> bool:
        """Return whether the case of a text matches the rule. The text is already known to be equal apart from case."""
        return self.written == _folded(self.written) or self.written == _plain(text)


@dataclass(frozen=True, slots=True)
class _Expression:
    pattern: re.Pattern[str]
    spoken: str
    rank: tuple[int, int]

    def find(self, text: str, start: int) -> _RuleMatch | None:
        """Return the first match at or after `start` that is not empty."""
        found = self.pattern.search(text, start)
        while found and found.start() == found.end():
            found = self.pattern.search(text, found.end() + 1) if found.end() < len(text) else None
        return (
            _RuleMatch(found.start(), found.start() - found.end(), self.rank, found.expand(self.spoken))
            if found
            else None
        )


class _Words:
    """The words of all files. The time of a search does not depend on the number of words."""

    def __init__(self, words: Iterable[_Word]) -> None:
        self._words: dict[str, list[_Word]] = {}
        for word in sorted(words, key=lambda one: (one.rank[0], one.written == _folded(one.written))):
            self._words.setdefault(_folded(word.written), []).append(word)
        self._lengths = sorted({len(word) for word in self._words}, reverse=True)

    def find(self, text: str, folded: str, start: int) -> _RuleMatch | None:
        """Return the first match at or after `start`. `folded` is the text as returned by `_folded`."""
        if not self._lengths:
            return None
        return next(filter(None, (self._at(text, folded, place) for place in range(start, len(text)))), None)

    def _at(self, text: str, folded: str, start: int) -> _RuleMatch | None:
        if not _border(text, start):
            return None
        for length in self._lengths:
            end = start + length
            for word in self._words.get(folded[start:end], ()) if end <= len(text) else ():
                if word.fits(text[start:end]) and _word_ends(text, end):
                    return _RuleMatch(start, -length, word.rank, word.spoken)
        return None


class Pronunciations:
    """Rules that replace written words by spoken ones. Without rules a text is spoken as it is written."""

    def __init__(self, words: Iterable[_Word] = (), expressions: Iterable[_Expression] = ()) -> None:
        self._words = _Words(words)
        self._expressions = tuple(expressions)

    @classmethod
    def read(cls, *paths: Path) -> Pronunciations:
        """Read pronunciation files. Rules of a later file take precedence: pass the global file, then the book's.

        Raises BookError if a file cannot be read, or for a wrong line, with its number and the right form.
        """
        rules = [rule for index, path in enumerate(paths) for rule in _rules(path, -index)]
        words = [rule for rule in rules if isinstance(rule, _Word)]
        return cls(words, [rule for rule in rules if isinstance(rule, _Expression)])

    def apply(self, text: str) -> tuple[str, Alignment]:
        """Return the spoken text for a written text, and the alignment between the two."""
        parts: list[str] = []
        replaced: list[Replaced] = []
        written = spoken = 0
        for found in self._found(text):
            parts += text[written : found.start], found.spoken
            at = spoken + found.start - written
            spoken, written = at + len(found.spoken), found.end
            replaced.append(Replaced(at, spoken, found.start, found.end))
        return "".join([*parts, text[written:]]), Alignment(tuple(replaced))

    def _found(self, text: str) -> Iterator[_RuleMatch]:
        """Yield the matches to replace, in order."""
        folded = _folded(text)
        searches = [partial(self._words.find, text, folded), *(partial(one.find, text) for one in self._expressions)]
        coming = {index: found for index, search in enumerate(searches) if (found := search(0))}
        while coming:
            chosen = min(coming.values())
            yield chosen
            for index, found in list(coming.items()):
                if found.start < chosen.end:
                    del coming[index]
                    if later := searches[index](chosen.end):
                        coming[index] = later


def _rules(path: Path, file_rank: int) -> Iterator[_Word | _Expression]:
    """Yield the rules of a file. Raises BookError."""
    seen: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        try:
            rule = _rule(line, (file_rank, number))
            _check_new(rule, number, seen)
        except ValueError as error:
            raise BookError(f"{path}, line {number} {error}") from error
        yield rule


def _check_new(rule: _Word | _Expression, number: int, seen: dict[str, int]) -> None:
    """Raise ValueError if an earlier line of the file has the same word."""
    if isinstance(rule, _Word) and seen.setdefault(rule.written, number) != number:
        raise ValueError(f"repeats {rule.written!r} from line {seen[rule.written]}; keep one of the two lines")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BookError(f"{path} is not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        message = f"cannot read the pronunciation file {path}: {error.strerror or error}"
        raise BookError(message, wrong_value=True) from error


def _rule(line: str, rank: tuple[int, int]) -> _Word | _Expression:
    """Return the rule of a line. Raises ValueError with a message that says what is wrong."""
    expression = _EXPRESSION.match(line)
    if expression:
        return _expression(expression[1], expression[2].strip(), rank)
    written, arrow, spoken = line.partition(_ARROW)
    if not arrow:
        raise ValueError(f"is {line!r:.60} and has no =>; {_FORM}")
    word = _plain(" ".join(written.split()))
    if not word:
        raise ValueError(f"has no word before =>; {_FORM}")
    return _Word(word, spoken.strip(), rank)


def _expression(written: str, spoken: str, rank: tuple[int, int]) -> _Expression:
    if _REPEATED_GROUP.search(_ATOMS.sub("x", written)):
        raise ValueError(
            f"repeats a group in /{written}/, which may never finish; repeat a character or a set: [a-z]+, not (a|b)+"
        )
    try:
        pattern = re.compile(written)
        pattern.sub(spoken, "")  # raises an error if the spoken text refers to a group that does not exist
    except (re.error, IndexError, OverflowError) as error:
        raise ValueError(f"has an expression that cannot be used, /{written}/ => {spoken}: {error}") from error
    # In one file every word takes precedence over every expression.
    return _Expression(pattern, spoken, (rank[0], _AFTER_WORDS + rank[1]))


def _border(text: str, place: int) -> bool:
    """Return whether a word may begin at a position."""
    if place == 0:
        return True
    return not (_joins(text[place - 1]) and _joins(text[place])) and not _in_word(text, place - 1)


def _word_ends(text: str, place: int) -> bool:
    """Return whether a word may end at a position: before a character of no word, or before a possessive 's."""
    if place == len(text):
        return True
    if text[place] in _APOSTROPHES:
        follows = text[place + 1 : place + 2]
        possessive = follows in ("s", "S") and not _joins(text[place + 2 : place + 3])
        return possessive or not (_joins(text[place - 1]) and _joins(follows))
    return not (_mark(text[place]) or (_joins(text[place - 1]) and _joins(text[place])))


def _in_word(text: str, place: int) -> bool:
    """Return whether an apostrophe after two or more letters is at this position, as in don't but not in l'Anna."""
    return text[place] in _APOSTROPHES and place > 1 and _joins(text[place - 1]) and _joins(text[place - 2])


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def _joins(character: str) -> bool:
    """Return whether a character is part of words: two such characters side by side belong to one word."""
    if not character or _UNSPACED.match(character):
        return False
    return character.isalnum() or character == "_" or _mark(character)


def _mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _folded(text: str) -> str:
    """Return a text of the same length in lower case, for comparison without regard to case."""
    return _plain("".join(map(_lower, text)))


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def _lower(character: str) -> str:
    lower = character.lower()
    return lower if len(lower) == 1 else character


def _plain(text: str) -> str:
    """Return a text with straight apostrophes."""
    return text.replace("\u2019", "'")
