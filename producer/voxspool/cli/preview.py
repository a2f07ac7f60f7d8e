"""`voxspool preview`: show the text of a book as it will be spoken, with markers for pauses and voices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxspool.cli import options
from voxspool.cli.books import as_path, warn
from voxspool.display import echo
from voxspool.narration.options import NarrationOptions, chosen, voices_of
from voxspool.protocol.jobs import AUTO

if TYPE_CHECKING:
    from voxspool.books.speech_markup import MarkupPart
    from voxspool.narration.plan import PlannedChapter


@click.command()
@click.argument("book")
@click.option("--chapters", "only", metavar="2-5", help="Show only these chapters, such as 2-5 or 1,3.")
@click.option("--skip", metavar="1,9", help="Leave out these chapters, such as 1,9.")
@click.option("--voice-of", "voices", metavar="2-5=NAME", multiple=True,
              help="Use another voice for these chapters; may be repeated.")  # fmt: skip
@click.option("--pronunciations", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="File with lines `word => spoken`; they override those of VOXSPOOL_PRONUNCIATIONS.")  # fmt: skip
def preview(
    book: str, only: str | None, skip: str | None, voices: tuple[str, ...], pronunciations: Path | None
) -> None:
    """Show the text of BOOK (or - for stdin) as it will be spoken.

    \b
    voxspool preview book.epub --chapters 3 | less

    Words with a pronunciation are replaced by it; pauses and voices are shown as markers.
    """
    from voxspool.books.child import read_within_limits
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.narration.plan import plan

    rules = [path for path in (options.settings(None).pronunciations, pronunciations) if path]
    with as_path(book) as path:
        read = read_within_limits(path)
    last = len(read.chapters)
    narration_options = NarrationOptions(AUTO, chapters=chosen(last, only, skip), voices=voices_of(voices, last))
    for chapter in plan(read, narration_options, Pronunciations.read(*rules)):
        for line in shown(chapter):
            echo(line)
    warn(read)


def shown(chapter: PlannedChapter) -> list[str]:
    """Return the lines of a chapter's text with its pauses and voices, as the markers that a book may contain."""
    voice = f" [voice:{chapter.voice}]" if chapter.voice else ""
    title = f"{chapter.number}. {chapter.chapter.title}{voice}"
    return [title, "=" * len(title), "", *(_line(part) for part in chapter.parts), ""]


def _line(part: MarkupPart) -> str:
    """Return the line of a part."""
    voice = f"[voice:{part.voice}] " if part.voice else ""
    language = f"({part.language}) " if part.language else ""
    return f"{language}{voice}{part.spoken} [pause:{part.pause_s:g}s]"
