"""Group blocks into chapters: start one at each chapter heading, and split chapters that are too long for one job.

This module works with blocks and heading levels only, whatever the file format.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from voxspool.books.book import Block, Chapter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_CHAPTER_CHARS: Final = 80_000
"""Limit for a chapter's text, in characters, with the separators between paragraphs.

It is lower than the limit for a job's text (`protocol.jobs.MAX_TEXT_CHARS`), because pronunciations and added full
stops make the spoken text longer.
"""
_SEPARATOR_CHARS: Final = 2
MAX_TITLE_CHARS: Final = 200
_SENTENCE_END: Final = re.compile(r"""[.!?…。！？][\"'”’»)\]]*(?:\s|(?<=[。！？]))""")  # noqa: RUF001 - signs of many scripts


def by_headings(blocks: Sequence[Block], levels: Sequence[int], title: str) -> list[Chapter]:
    """Cut a text into chapters at the highest heading level that occurs more than once, else at the highest level.

    `levels` has the heading level of each block, 0 for paragraphs. Text before the first chapter heading becomes a
    chapter with the book's title; if only headings come before it, they belong to the first chapter.
    """
    ranks = sorted({level for level in levels if level})
    rank = next((one for one in ranks if levels.count(one) > 1), ranks[0] if ranks else None)
    starts = [index for index, level in enumerate(levels) if level and level == rank]
    return at_starts(blocks, starts, title)


def at_starts(blocks: Sequence[Block], starts: Sequence[int], title: str) -> list[Chapter]:
    """Cut a text before the blocks with the indices `starts`. The texts of these blocks become the chapters' titles."""
    if not starts:
        return [Chapter(title, tuple(blocks))] if blocks else []
    titles = [blocks[start].text for start in starts]
    if any(block.kind == "paragraph" for block in blocks[: starts[0]]):
        starts, titles = [0, *starts], [title, *titles]
    bounds = [0, *starts[1:], len(blocks)]
    return [
        Chapter(shortened(name), tuple(blocks[start:end]))
        for name, (start, end) in zip(titles, pairwise(bounds), strict=True)
    ]


def shortened(title: str) -> str:
    """Return a title of at most MAX_TITLE_CHARS characters: some books mark whole paragraphs as headings."""
    return title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1].rstrip() + "…"


def bounded(chapters: Iterable[Chapter]) -> tuple[Chapter, ...]:
    """Split chapters that are too long for one job into parts called "Title (1)", "Title (2)" and so on."""
    return tuple(part for chapter in chapters for part in _parts(chapter))


def _parts(chapter: Chapter) -> list[Chapter]:
    parts: list[list[Block]] = [[]]
    room = MAX_CHAPTER_CHARS
    for block in (piece for whole in chapter.blocks for piece in _pieces(whole)):
        size = len(block.text) + _SEPARATOR_CHARS
        if size > room and parts[-1]:
            parts.append([])
            room = MAX_CHAPTER_CHARS
        parts[-1].append(block)
        room -= size
    if len(parts) == 1:
        return [chapter]
    return [replace(chapter, title=f"{chapter.title} ({n})", blocks=tuple(part)) for n, part in enumerate(parts, 1)]


def _pieces(block: Block) -> Iterator[Block]:
    """Yield a block in parts that fit into a chapter: cut after a sentence, else at a space, else anywhere."""
    text, most = block.text, MAX_CHAPTER_CHARS - _SEPARATOR_CHARS
    begin = 0
    while len(text) - begin > most:
        ends = [found.end() for found in _SENTENCE_END.finditer(text, begin, begin + most)]
        at = ends[-1] if ends else text.rfind(" ", begin + 1, begin + most) + 1 or begin + most
        yield replace(block, text=text[begin:at].strip())
        begin = at + len(text[at : at + most]) - len(text[at : at + most].lstrip())
    yield replace(block, text=text[begin:])
