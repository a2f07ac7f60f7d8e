"""Print the plan of a narration (`voxspool narrate --plan`): its chapters, and estimates of duration, time and size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from voxspool.amounts import counted, duration
from voxspool.cli.narration_progress import chapter_fields
from voxspool.display import cell, echo, echo_json
from voxspool.narration.estimate import estimate
from voxspool.narration.options import AUDIO

if TYPE_CHECKING:
    from voxspool.books.book import Book
    from voxspool.narration.estimate import Estimate
    from voxspool.narration.options import NarrationOptions
    from voxspool.narration.plan import PlannedChapter
    from voxspool.speeds import StoredSpeed
    from voxspool.workers import WorkerCard

_SIZED = {*AUDIO, "m4b"}
"""The formats whose size is printed."""


def show_plan(
    book: Book,
    chapters: tuple[PlannedChapter, ...],
    narration_options: NarrationOptions,
    cards: list[WorkerCard],
    store: str,
    here: StoredSpeed | None,
    *,
    as_json: bool,
) -> None:
    """Print a plan on stdout, as a table or as JSON. `here` is the measured speed of this machine, if there is one."""
    language = narration_options.language or book.language
    pauses_s = sum(part.pause_s for chapter in chapters for part in chapter.parts)
    characters = [chapter.characters for chapter in chapters]
    found = estimate(
        characters,
        language,
        cards,
        narration_options.engine,
        store,
        speed=narration_options.speed,
        pauses_s=pauses_s,
        here=here,
    )
    if as_json:
        fields = [chapter_fields(chapter) for chapter in chapters]
        echo_json(dataclasses.asdict(found) | {"title": book.title, "chapters": fields})
        return
    _print(book, chapters, found, narration_options)


def _print(
    book: Book, chapters: tuple[PlannedChapter, ...], found: Estimate, narration_options: NarrationOptions
) -> None:
    """Print a plan as a table of the chapters and lines with the estimates."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("chapter", justify="right")
    table.add_column("title", overflow="fold")
    table.add_column("characters", justify="right")
    for chapter in chapters:
        table.add_row(str(chapter.number), cell(chapter.chapter.title), f"{chapter.characters:,}")
    console = Console()
    console.print(cell(book.title), style="bold")
    console.print(table)
    total = sum(chapter.characters for chapter in chapters)
    echo(f"{counted(len(chapters), 'chapter')}, {total:,} characters, about {duration(found.audio_s)} of speech")
    time = "time unknown" if found.work_s is None else f"about {duration(found.work_s)} of work"
    echo(f"{time}: {found.why}")
    sizes = [f"{one} {_size(found.files_bytes[one])}" for one in narration_options.formats if one in _SIZED]
    echo(f"files: {', '.join(sizes)}")


def _size(size_bytes: int) -> str:
    """Return a size in MB or GB: "0.4 MB", "2.1 GB"."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{max(0.1, size_bytes / 1e6):.1f} MB"
