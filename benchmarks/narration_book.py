"""A book for the benchmark of narration: Markdown of a given length, the same each time, no two sentences alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAPTER_SHARES: Final = (9, 2, 5, 14, 1, 7, 11, 3, 6, 10, 4, 8)
"""How long the chapters are against each other: the longest is a sixth of the book, the shortest an eightieth."""
PARAGRAPH_SENTENCES: Final = (1, 7)
WHEN: Final = (
    "In the morning", "Before the tide turned", "On the third day", "When the fog lifted", "Towards evening",
    "After the bells", "Long before dawn", "At the end of the week", "While the kettle boiled", "That winter",
)  # fmt: skip
WHO: Final = (
    "the keeper", "a pilot from the islands", "the miller's daughter", "an old clockmaker", "the ferryman",
    "her brother", "the second mate", "a boy with a lantern", "the baker", "the harbour master", "a stranger",
)  # fmt: skip
DID: Final = (
    "carried", "counted", "mended", "forgot", "found", "painted", "wrapped", "sold", "borrowed", "hid", "described",
)  # fmt: skip
WHAT: Final = (
    "the brass lamp", "seven letters", "a coil of rope", "the broken oar", "a basket of pears", "the tide tables",
    "a pair of gloves", "the blue boat", "an iron key", "the church clock", "two sacks of flour", "a map of the bay",
)  # fmt: skip
THEN: Final = (
    "and nobody asked why", "though the wind was rising", "as the law required", "and went home by the lower road",
    "because the rain would not stop", "without a word to anyone", "and wrote it down in the book",
    "while the others slept", "for the price of a loaf", "so that the ships could see it", "",
)  # fmt: skip


def book(characters: int) -> str:
    """Write a book of about so many characters."""
    sentences = _sentences()
    parts = ["---\ntitle: The Keeper's Log\nlanguage: en\n---\n"]
    for number, share in enumerate(CHAPTER_SHARES, 1):
        parts.append(f"# Chapter {number}\n")
        parts += _paragraphs(sentences, characters * share // sum(CHAPTER_SHARES))
    return "\n".join(parts)


def _paragraphs(sentences: Iterator[str], characters: int) -> Iterator[str]:
    """Yield paragraphs of unequal length, one at least, until there are so many characters."""
    length = random.Random(characters)
    written = 0
    while written < characters:
        count = length.randint(*PARAGRAPH_SENTENCES)
        paragraph = next(sentences)
        while count > 1 and written + len(paragraph) < characters:
            paragraph, count = f"{paragraph} {next(sentences)}", count - 1
        written += len(paragraph)
        yield f"{paragraph}\n"


def _sentences() -> Iterator[str]:
    """Yield sentences, each one once; there are some 160,000, of 71 characters in the mean."""
    draw = random.Random(1)
    seen: set[tuple[str, ...]] = set()
    while True:
        words = tuple(draw.choice(some) for some in (WHEN, WHO, DID, WHAT, THEN))
        if words not in seen:
            seen.add(words)
            when, who, did, what, then = words
            yield " ".join(f"{when} {who} {did} {what} {then}".split()) + "."
