"""`voxspool preview`: show the text of a book as it will be spoken, with the pauses and the other voices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxspool.cli import options
from voxspool.cli.books import as_path, warn
from voxspool.narration.options import NarrationOptions, chosen, voices_of
from voxspool.protocol.jobs import AUTO

if TYPE_CHECKING:
    from voxspool.books.speech_markup import MarkupPart
    from voxspool.narration.plan import PlannedChapter


@click.command()
@click.argument("book")
@click.option("--chapters", "only", metavar="2-5", help="Show these alone; several with commas.")
@click.option("--skip", metavar="1,9", help="Leave these out.")
@click.option("--voice-of", "voices", metavar="2-5=NAME", multiple=True, help="Another voice for chapters; repeat it.")
@click.option("--pronunciations", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Lines of `word => spoken`; they win over [VOXSPOOL_PRONUNCIATIONS].")  # fmt: skip
def preview(
    book: str, only: str | None, skip: str | None, voices: tuple[str, ...], pronunciations: Path | None
) -> None:
    """Show the text of BOOK (or - for stdin) as it will be spoken.

    \b
    voxspool preview book.epub --chapters 3 | less

    Pronunciations are replaced; pauses and voices are shown as markers.
    """
    from voxspool.books import read_book
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.narration.plan import plan

    rules = [path for path in (options.settings(None).pronunciations, pronunciations) if path]
    with as_path(book) as path:
        read = read_book(path)
    last = len(read.chapters)
    narration_options = NarrationOptions(AUTO, chapters=chosen(last, only, skip), voices=voices_of(voices, last))
    for chapter in plan(read, narration_options, Pronunciations.read(*rules)):
        click.echo(shown(chapter))
    warn(read)


def shown(chapter: PlannedChapter) -> str:
    """Write a chapter's script for people, as markers that a book may hold."""
    voice = f" [voice:{chapter.voice}]" if chapter.voice else ""
    title = f"{chapter.number}. {chapter.chapter.title}{voice}"
    return "\n".join([title, "=" * len(title), "", *(_line(part) for part in chapter.parts), ""])


def _line(part: MarkupPart) -> str:
    """Write a part."""
    voice = f"[voice:{part.voice}] " if part.voice else ""
    language = f"({part.language}) " if part.language else ""
    return f"{language}{voice}{part.spoken} [pause:{part.pause_s:g}s]"
