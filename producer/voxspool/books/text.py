"""Plain text -> a Book: lines become paragraphs, and lines that are surely headings become chapters.

A line that may be a heading stays a paragraph: a missing title is still read out, but a wrong chapter separates
sentences that belong together. The pages of a PDF are read in the same way.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from voxspool.books.book import Block, Book
from voxspool.books.chapters import at_starts, bounded
from voxspool.books.html_text import settle
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voxspool.books.book import Chapter

_LOG = logging.getLogger(__name__)

_LONG_LINE_CHARS: Final = 120
"""Text wrapped by hand has shorter lines; where most are longer, each is a paragraph."""
_SHORT_OF_WIDTH: Final = 0.75
"""A line that ends a sentence well before the margin ends a paragraph."""
_HEADING_CHARS: Final = 80
_CONTENTS_LINES: Final = 3
"""So many headings in a row with nothing between are a table of contents."""
_ROMAN: Final = r"(?=[IVXLC])(?:C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_NUMBER: Final = (
    rf"(?:\d{{1,3}}|{_ROMAN}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|the\s+(?:first|second|third|fourth|fifth|sixth|last))"
)
_WORDED: Final = re.compile(
    rf"(?:chapter|book|part|section|act|letter|kapitel|teil|chapitre|livre|partie|cap[ií]tulo|parte|capitolo|hoofdstuk"
    rf"|rozdział|глава|часть)\s+{_NUMBER}(?:[-\s]{_NUMBER})?(?:\s*[.:\u2014\u2013-]+\s*\S.{{0,60}}|[.:]?)"
    r"|(?:prologue|epilogue|preface|foreword|introduction|afterword|conclusion|prolog|epilog|vorwort|nachwort|prólogo"
    r"|epílogo|préface|épilogue)[.:]?",
    re.IGNORECASE,
)
_TITLED: Final = re.compile(rf"(?:chapter|book|part)\s+{_NUMBER}\s+[A-Z].{{0,60}}(?<![.!?,;:])", re.IGNORECASE)
_NUMERAL: Final = re.compile(rf"{_ROMAN}\.?")
_CAPITALS: Final = re.compile(r"(?=(?:[^a-zà-ÿ]*[A-ZÀ-Þ]){3})[^a-zà-ÿ]{3,60}(?<![.!?,;:\"”'\u2019…)\]-])")
_FINALE: Final = re.compile(r"(?:the\s+end|finis|fin|ende|fine)\.?", re.IGNORECASE)
_BOMS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_plain(text: str, name: str) -> Book:
    """Read plain text. Raises BookError, without the file's name."""
    chapters = plain_chapters(paragraphs(text), name)
    if not chapters:
        raise BookError("there is no text in it")
    return Book(title=name, chapters=bounded(chapters))


def decode_text(data: bytes) -> str:
    """Return text by its BOM, as UTF-8 or else as Windows of western Europe wrote it. Raises BookError over binary."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    if b"\0" in data:
        raise BookError("it is not text; save it as UTF-8, or convert it to EPUB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        _LOG.warning("text is not UTF-8 and read as Windows-1252; save it as UTF-8 if letters are wrong")
        return data.decode("cp1252", "replace")


def paragraphs(text: str) -> list[str]:
    """Join the lines that were wrapped by hand."""
    lines = re.sub(r"\r\n?|[\x0b\x85\u2028]", "\n", text.replace("\f", "\n\n").replace("\u2029", "\n\n")).split("\n")
    lengths = sorted(len(line) for line in lines if line.strip())
    if not lengths:
        return []
    if lengths[len(lengths) * 9 // 10] > _LONG_LINE_CHARS:
        return [found for found in map(settle, lines) if found]
    spaced = any(not line.strip() for line in "\n".join(lines).strip().split("\n"))
    groups: list[list[str]] = [[]]
    for line in lines:
        if not line.strip() or (groups[-1] and _begins(line, groups[-1][-1], lengths[-1], spaced=spaced)):
            groups.append([])
        if line.strip():
            groups[-1].append(line)
    return [found for group in groups if (found := settle(_joined(group)))]


def _begins(line: str, before: str, width: int, *, spaced: bool) -> bool:
    """Whether a line begins a paragraph though none is empty before it."""
    if line[:1].isspace() and not before[:1].isspace() and len(line) - len(line.lstrip()) > 1 - line.startswith("\t"):
        return True
    ended = before.rstrip().endswith((".", "!", "?", '"', "”", "…", ":"))
    return not spaced and ended and len(before) < _SHORT_OF_WIDTH * width


def _joined(lines: Sequence[str]) -> str:
    """Join wrapped lines; a word with a hyphen that was broken there gets no space."""
    return re.sub(r"(?<=\w-)\n\s*(?=[a-zà-ÿ])", "", "\n".join(line.rstrip() for line in lines))


def plain_chapters(texts: Sequence[str], title: str) -> list[Chapter]:
    """Cut paragraphs into chapters: at lines such as "Chapter 3", else at numerals I, II …, else at capitals."""
    for finds in (_worded, _numerals, _capitals):
        starts = _without_contents(finds(texts), texts)
        if starts:
            break
    headings = {
        *starts,
        *(start + 1 for start in starts if start + 1 < len(texts) and _CAPITALS.fullmatch(texts[start + 1])),
    }
    blocks = [Block(text, "heading" if index in headings else "paragraph") for index, text in enumerate(texts)]
    return at_starts(blocks, _led(starts), title)


def _worded(texts: Sequence[str]) -> list[int]:
    return _matching(texts, lambda text: bool(_WORDED.fullmatch(text) or _TITLED.fullmatch(text)))


def _numerals(texts: Sequence[str]) -> list[int]:
    """Find I, II, III … in their order; anything else with numerals alone is a list or a page."""
    found = _matching(texts, lambda text: bool(_NUMERAL.fullmatch(text)))
    inside = [texts[index].rstrip(".") for index in found]
    return found if len(found) > 1 and inside == [_roman(n) for n in range(1, len(found) + 1)] else []


def _capitals(texts: Sequence[str]) -> list[int]:
    """Find lines in capitals, two at least."""
    found = _matching(texts, lambda text: bool(_CAPITALS.fullmatch(text)) and not _FINALE.fullmatch(text))
    followed = [index for index in found if index + 1 < len(texts)]
    return followed if len(followed) > 1 else []


def _matching(texts: Sequence[str], matches: Callable[[str], bool]) -> list[int]:
    return [index for index, text in enumerate(texts) if len(text) <= _HEADING_CHARS and matches(text)]


def _without_contents(starts: list[int], texts: Sequence[str]) -> list[int]:
    """Leave out headings that stand in a row: they list chapters. They are read, and begin none."""
    rows: list[list[int]] = []
    for start in starts:
        if rows and start == rows[-1][-1] + 1:
            rows[-1].append(start)
        else:
            rows.append([start])
    listed = {texts[one] for row in rows if len(row) >= _CONTENTS_LINES for one in row[:-1]}
    kept: list[int] = []
    for row in rows:
        # A list that ends where the first chapter begins: its last line says a title that the list had.
        kept += row if len(row) < _CONTENTS_LINES else [row[-1]] if texts[row[-1]] in listed else []
    return kept


def _led(starts: list[int]) -> list[int]:
    """Let a heading that follows another at once be part of its chapter: "Part One", "Chapter 1"."""
    return [start for start in starts if start - 1 not in starts]


def _roman(number: int) -> str:
    """Write a number below 400 in numerals."""
    tens = ("", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC")
    ones = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
    return "C" * (number // 100) + tens[number // 10 % 10] + ones[number % 10]
