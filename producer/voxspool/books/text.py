"""Read plain text: join lines into paragraphs, and start chapters at lines that are certainly headings.

A line that only may be a heading stays a paragraph. It is still read out then, while a wrong chapter would separate
sentences that belong together. PDFs without an outline get their chapters in the same way.
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

_MAX_LINES: Final = 2_000_000
"""Limit for a text, in lines. The works of Shakespeare have 200,000."""
_LONG_LINE_CHARS: Final = 120
"""Hard-wrapped text has shorter lines than this. If a tenth of the lines is longer, each line is a paragraph."""
_SHORT_OF_WIDTH: Final = 0.75
"""A line that ends a sentence and is shorter than this share of the longest line ends a paragraph."""
_HEADING_CHARS: Final = 80
"""The longest heading, in characters."""
_CONTENTS_LINES: Final = 3
"""At least this many headings in a row, without text between them, are a table of contents."""
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
    """Read plain text. Raises BookError; the message does not contain the file's name."""
    lines = text.count("\n")
    if lines > _MAX_LINES:
        raise BookError(f"it has {lines:,} lines; the limit is {_MAX_LINES:,}; split it into several files")
    chapters = plain_chapters(paragraphs(text), name)
    if not chapters:
        raise BookError("there is no text in it")
    return Book(title=name, chapters=bounded(chapters))


def decode_text(data: bytes) -> str:
    """Decode text by its byte order mark, else as UTF-8, else as Windows-1252. Raises BookError if it is binary."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace")
    if b"\0" in data:
        raise BookError("it is not text; save it as UTF-8, or convert it to EPUB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        _LOG.warning("the text is not UTF-8 and is read as Windows-1252; if letters are wrong, save it as UTF-8")
        return data.decode("cp1252", "replace")


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text: join the lines of hard-wrapped text, else return each line."""
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
    """Return whether a line begins a paragraph although no empty line comes before it."""
    if line[:1].isspace() and not before[:1].isspace() and len(line) - len(line.lstrip()) > 1 - line.startswith("\t"):
        return True
    ended = before.rstrip().endswith((".", "!", "?", '"', "”", "…", ":"))
    return not spaced and ended and len(before) < _SHORT_OF_WIDTH * width


def _joined(lines: Sequence[str]) -> str:
    """Join wrapped lines, without a space after a hyphen at the end of a line."""
    return re.sub(r"(?<=\w-)\n\s*(?=[a-zà-ÿ])", "", "\n".join(line.rstrip() for line in lines))


def plain_chapters(texts: Sequence[str], title: str) -> list[Chapter]:
    """Cut paragraphs into chapters: at lines such as "Chapter 3", else at I, II, III …, else at lines in capitals."""
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
    """Return the lines I, II, III … if they are complete and in order; else they are lists or page numbers."""
    found = _matching(texts, lambda text: bool(_NUMERAL.fullmatch(text)))
    inside = [texts[index].rstrip(".") for index in found]
    return found if len(found) > 1 and inside == [_roman(n) for n in range(1, len(found) + 1)] else []


def _capitals(texts: Sequence[str]) -> list[int]:
    """Return the lines in capitals if there are at least two."""
    found = _matching(texts, lambda text: bool(_CAPITALS.fullmatch(text)) and not _FINALE.fullmatch(text))
    followed = [index for index in found if index + 1 < len(texts)]
    return followed if len(followed) > 1 else []


def _matching(texts: Sequence[str], matches: Callable[[str], bool]) -> list[int]:
    return [index for index, text in enumerate(texts) if len(text) <= _HEADING_CHARS and matches(text)]


def _without_contents(starts: list[int], texts: Sequence[str]) -> list[int]:
    """Return the headings without those of a table of contents, which are read out but start no chapter."""
    rows: list[list[int]] = []
    for start in starts:
        if rows and start == rows[-1][-1] + 1:
            rows[-1].append(start)
        else:
            rows.append([start])
    listed = {texts[one] for row in rows if len(row) >= _CONTENTS_LINES for one in row[:-1]}
    kept: list[int] = []
    for row in rows:
        # If a table of contents also has the title in the row's last line, the first chapter begins at this line.
        kept += row if len(row) < _CONTENTS_LINES else [row[-1]] if texts[row[-1]] in listed else []
    return kept


def _led(starts: list[int]) -> list[int]:
    """Return the headings without those that directly follow another, as "Chapter 1" follows "Part One"."""
    known = set(starts)
    return [start for start in starts if start - 1 not in known]


def _roman(number: int) -> str:
    """Return a number below 400 as a Roman numeral."""
    tens = ("", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC")
    ones = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
    return "C" * (number // 100) + tens[number // 10 % 10] + ones[number % 10]
