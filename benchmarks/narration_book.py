"""Generate the book of the narration benchmark: reproducible Markdown of a given length without repeated sentences."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAPTER_SHARES: Final = (9, 2, 5, 14, 1, 7, 11, 3, 6, 10, 4, 8)
"""Relative lengths of the chapters: the longest is a sixth of the book, the shortest an eightieth."""
PARAGRAPH_SENTENCES: Final = (1, 7)
"""Minimum and maximum number of sentences in a paragraph."""
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
    """Return a book of about this many characters, with a title and a chapter for each of the CHAPTER_SHARES."""
    sentences = _sentences()
    parts = ["---\ntitle: The Keeper's Log\nlanguage: en\n---\n"]
    for number, share in enumerate(CHAPTER_SHARES, 1):
        parts.append(f"# Chapter {number}\n")
        parts += _paragraphs(sentences, characters * share // sum(CHAPTER_SHARES))
    return "\n".join(parts)


def _paragraphs(sentences: Iterator[str], characters: int) -> Iterator[str]:
    """Yield paragraphs of different lengths, with at least this many characters in total."""
    lengths = random.Random(characters)
    written = 0
    while written < characters:
        count = lengths.randint(*PARAGRAPH_SENTENCES)
        paragraph = next(sentences)
        while count > 1 and written + len(paragraph) < characters:
            paragraph, count = f"{paragraph} {next(sentences)}", count - 1
        written += len(paragraph)
        yield f"{paragraph}\n"


def _sentences() -> Iterator[str]:
    """Yield different sentences; there are about 160,000, with a mean length of 71 characters."""
    chance = random.Random(1)
    seen: set[tuple[str, ...]] = set()
    while True:
        words = tuple(chance.choice(phrases) for phrases in (WHEN, WHO, DID, WHAT, THEN))
        if words not in seen:
            seen.add(words)
            when, who, did, what, then = words
            yield " ".join(f"{when} {who} {did} {what} {then}".split()) + "."
