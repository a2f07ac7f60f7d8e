"""How words are to be said: a file of `word => spoken` lines, put into a text, with the way back to what stood there.

A line is one of these; blank lines and lines that begin with # count for nothing:

    Siobhan => Shivawn
    cafe => caffay
    /Ch\\. (\\d+)/ => Chapter \\1

A word is found where it stands as a whole word: what is in lower case matches any case, what has a capital matches
exactly (so IT is not it). The straight and the curved apostrophe are one; a possessive's 's may follow and a letter's
elision may precede (Anna's, l'Anna). Scripts without spaces between words know no whole words. An expression between
slashes is one of Python's `re`, and matches as it stands; its spoken text may name its groups. Nothing after => leaves
the word out.

What matches first in the text is replaced first; of several matches at one place the longest; of those the one of the
last file, a word before an expression, the earlier line. What was put in is not looked at again. A word that two files
have is the last file's: the book's own, read after the global one.

The files are the user's own. Still, no group may be repeated in an expression, which rules out those that take for ever
on a text that they do not fit; what is left may be slow, by a power of a paragraph's length, and Ctrl-C ends it.
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
"""What holds brackets that open no group: escapes and sets of characters."""
_REPEATED_GROUP: Final = re.compile(r"\)[*+{]|\(\?[a-zA-Z]*x")
"""Or the flag that lets spaces stand before the repetition."""
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: no spaces between words."""
_APOSTROPHES: Final = "'\u2019"
_CHARACTERS_REMEMBERED: Final = 4096
_AFTER_WORDS: Final = 1 << 32
_FORM: Final = "write it like: Siobhan => Shivawn, or /Ch\\. (\\d+)/ => Chapter \\1"


class Replaced(NamedTuple):
    """A place where something else is said than what is written."""

    start: int
    end: int
    """The span of the spoken text, in characters; empty where a word was left out."""
    written_start: int
    written_end: int
    """The span of the written text; empty where something was added."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """From a spoken text back to what is written: the same characters but where something was replaced."""

    replaced: tuple[Replaced, ...] = ()
    """In order, without overlap."""
    offset: int = 0
    """Where the spoken text begins in what is written, in characters."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the written text that a span of the spoken text says; a replaced word is whole in it.

        Spans that tile the spoken text tile what is written, but for a replaced word that they cut: both have it. What
        was left out belongs to what stands before it, or at the very start to what follows.
        """
        return self._start(start), max(self._start(start), self._end(end))

    def moved(self, by: int) -> Alignment:
        """Return the alignment of the same text where what is written begins so many characters later."""
        moved = (
            one._replace(written_start=one.written_start + by, written_end=one.written_end + by)
            for one in self.replaced
        )
        return Alignment(tuple(moved), self.offset + by)

    def added(self, start: int, end: int) -> Alignment:
        """Return the alignment with a span at the spoken text's end that is not written."""
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
            last = self._last(place - 1)  # one that only begins there is not reached
        return place + self.offset if last is None else last.written_end + max(0, place - last.end)

    def _last(self, place: int) -> Replaced | None:
        """Return the last replacement that begins at a place or before."""
        count = bisect_right(self.replaced, place, key=lambda one: one.start)
        return self.replaced[count - 1] if count else None


class _Found(NamedTuple):
    """A match in a text. Sorts as it is chosen: the first, of those the longest, of those the one of least rank."""

    start: int
    shortness: int
    """Its length, negative."""
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
        """Whether it is this very word, by its case; apart from that they are alike."""
        return self.written == _folded(self.written) or self.written == _plain(text)


@dataclass(frozen=True, slots=True)
class _Expression:
    pattern: re.Pattern[str]
    spoken: str
    rank: tuple[int, int]

    def find(self, text: str, start: int) -> _Found | None:
        """Return its first match from a place on that is not empty."""
        found = self.pattern.search(text, start)
        while found and found.start() == found.end():
            found = self.pattern.search(text, found.end() + 1) if found.end() < len(text) else None
        return (
            _Found(found.start(), found.start() - found.end(), self.rank, found.expand(self.spoken)) if found else None
        )


class _Words:
    """The words of all files. The time of a search does not grow with how many there are."""

    def __init__(self, words: Iterable[_Word]) -> None:
        self._words: dict[str, list[_Word]] = {}
        for word in sorted(words, key=lambda one: (one.rank[0], one.written == _folded(one.written))):
            self._words.setdefault(_folded(word.written), []).append(word)
        self._lengths = sorted({len(word) for word in self._words}, reverse=True)

    def find(self, text: str, folded: str, start: int) -> _Found | None:
        """Return the first match from a place on; the folded text is of the same length."""
        if not self._lengths:
            return None
        return next(filter(None, (self._at(text, folded, place) for place in range(start, len(text)))), None)

    def _at(self, text: str, folded: str, start: int) -> _Found | None:
        if not _border(text, start):
            return None
        for length in self._lengths:
            end = start + length
            for word in self._words.get(folded[start:end], ()) if end <= len(text) else ():
                if word.fits(text[start:end]) and _word_ends(text, end):
                    return _Found(start, -length, word.rank, word.spoken)
        return None


class Pronunciations:
    """What to say for what is written. Without any, a text is spoken as it stands."""

    def __init__(self, words: Iterable[_Word] = (), expressions: Iterable[_Expression] = ()) -> None:
        self._words = _Words(words)
        self._expressions = tuple(expressions)

    @classmethod
    def read(cls, *paths: Path) -> Pronunciations:
        """Read files, of which a later one wins: the global one, then the book's.

        Raises BookError: a file that cannot be read, or a line that is none, with its number and what is right.
        """
        rules = [rule for index, path in enumerate(paths) for rule in _rules(path, -index)]
        words = [rule for rule in rules if isinstance(rule, _Word)]
        return cls(words, [rule for rule in rules if isinstance(rule, _Expression)])

    def apply(self, text: str) -> tuple[str, Alignment]:
        """Return what is said for a text, and the way back."""
        parts: list[str] = []
        replaced: list[Replaced] = []
        written = spoken = 0
        for found in self._found(text):
            parts += text[written : found.start], found.spoken
            at = spoken + found.start - written
            spoken, written = at + len(found.spoken), found.end
            replaced.append(Replaced(at, spoken, found.start, found.end))
        return "".join([*parts, text[written:]]), Alignment(tuple(replaced))

    def _found(self, text: str) -> Iterator[_Found]:
        """Yield what is replaced, in order."""
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
    """Read a file's lines."""
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
    """Raise ValueError for a word that the file has already."""
    if isinstance(rule, _Word) and seen.setdefault(rule.written, number) != number:
        raise ValueError(f"has {rule.written!r} again, as line {seen[rule.written]} has; keep one of them")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BookError(f"{path} is not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        message = f"cannot read the pronunciations {path}: {error.strerror or error}"
        raise BookError(message, wrong_value=True) from error


def _rule(line: str, rank: tuple[int, int]) -> _Word | _Expression:
    """Read a line. Raises ValueError with what is wrong."""
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
            f"repeats a group in /{written}/, which may take for ever; repeat characters or a set: [a-z]+, not (a|b)+"
        )
    try:
        pattern = re.compile(written)
        pattern.sub(spoken, "")  # the spoken text's groups are looked at, and nothing is replaced
    except (re.error, IndexError, OverflowError) as error:
        raise ValueError(f"has an expression that cannot be used, /{written}/ => {spoken}: {error}") from error
    # Ranks of expressions come after those of all words of the same file.
    return _Expression(pattern, spoken, (rank[0], _AFTER_WORDS + rank[1]))


def _border(text: str, place: int) -> bool:
    """Whether a word may begin there."""
    if place == 0:
        return True
    return not (_joins(text[place - 1]) and _joins(text[place])) and not _in_word(text, place - 1)


def _word_ends(text: str, place: int) -> bool:
    """Whether a word may end there: before what is no part of it, or before a possessive's 's."""
    if place == len(text):
        return True
    if text[place] in _APOSTROPHES:
        follows = text[place + 1 : place + 2]
        possessive = follows in ("s", "S") and not _joins(text[place + 2 : place + 3])
        return possessive or not (_joins(text[place - 1]) and _joins(follows))
    return not (_mark(text[place]) or (_joins(text[place - 1]) and _joins(text[place])))


def _in_word(text: str, place: int) -> bool:
    """Whether there stands an apostrophe behind more than one letter of a word: don't, but not l'Anna."""
    return text[place] in _APOSTROPHES and place > 1 and _joins(text[place - 1]) and _joins(text[place - 2])


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def _joins(character: str) -> bool:
    """Whether what stands beside it is of the same word, if it is one that joins too."""
    if not character or _UNSPACED.match(character):
        return False
    return character.isalnum() or character == "_" or _mark(character)


def _mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _folded(text: str) -> str:
    """Return a text of the same length for comparison whatever its case."""
    return _plain("".join(map(_lower, text)))


@lru_cache(maxsize=_CHARACTERS_REMEMBERED)
def _lower(character: str) -> str:
    lower = character.lower()
    return lower if len(lower) == 1 else character


def _plain(text: str) -> str:
    """Write its apostrophes alike."""
    return text.replace("\u2019", "'")
