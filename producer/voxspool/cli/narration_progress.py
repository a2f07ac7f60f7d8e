"""The progress of a narration: a live display on a terminal's stderr, lines of JSON on stdout.

In a pipe nothing is displayed but the result at the end.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from voxspool.cli.progress import BAR, NARROW
from voxspool.narration.run import BookSegment, ChapterGivenUp, ChapterSpoken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from rich.console import RenderableType

    from voxspool.books.book import Book
    from voxspool.client import Client
    from voxspool.errors import BusyError
    from voxspool.narration.delivery import MadeFile, NarrationResult
    from voxspool.narration.plan import PlannedChapter
    from voxspool.narration.run import Narration, NarrationEvent

LOOK_S: Final = 3.0
"""How often the workers are counted, in seconds: they say that they live as often."""
MOST_LINES: Final = 8
"""Chapters shown at once, below the book's own line."""
TITLE: Final = 32
"""Most columns of a title."""
REST: Final = len(" 100% ") + len("59 min of speech")
"""Columns beside a title and, where the terminal has room for them, the bar and the time."""
LISTED: Final = 20
"""Most segments with a fault that are listed on a terminal; the report has all of them."""


class ProgressDisplay(Protocol):
    """Reports the progress of a narration. Use it as a context manager; its methods are called in order."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def busy(self, error: BusyError) -> None:
        """There is no room for a chapter now."""

    def placed(self, jobs: Mapping[int, str]) -> None:
        """The chapters that were not whole have a job each now."""

    def take(self, news: NarrationEvent) -> None:
        """Something happened to a chapter."""

    def made(self, made: MadeFile) -> None:
        """A file was made, or was there."""

    def left(self, name: str) -> None:
        """The command leaves, the work goes on."""

    def stopped(self) -> None:
        """The command leaves, and its own worker with it."""

    def end(self, outcome: NarrationResult) -> None:
        """All is done."""


class Pace:
    """The speed of the narration, from the segments spoken while the command runs, not those from the store."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.spoken_chars = 0
        self.spoken_s = 0.0

    def add(self, segment: BookSegment) -> None:
        """Take a segment into account."""
        mark = segment.mark
        if not (mark.reused or segment.earlier):
            self.spoken_chars += mark.end - mark.start
            self.spoken_s += (mark.end_pos - mark.pos) / segment.sample_rate

    @property
    def elapsed_s(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of waiting a second of speech; None before there is a second of it."""
        return self.elapsed_s / self.spoken_s if self.spoken_s >= 1 else None

    def left_s(self, characters: int) -> float | None:
        """Estimate how long so many characters take."""
        return characters * self.elapsed_s / self.spoken_chars if self.spoken_chars else None


class _Bars(Progress):
    """Bars, and a line below that may be as long as the terminal is wide: beside a bar it would leave it no room."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then the line."""
        yield from super().get_renderables()
        yield Text(self.below)


class TerminalDisplay:
    """The live display."""

    def __init__(self, narration: Narration, client: Client, book: Book) -> None:
        self._chapters = narration.chapters
        self._client = client
        self._id = narration.id
        self._console = Console(stderr=True)
        self._narrow = self._console.width < NARROW
        self._title_columns = max(8, min(TITLE, self._console.width - REST - (0 if self._narrow else BAR + 9)))
        self._progress = _Bars(
            TextColumn("{task.description}", markup=False),
            *([] if self._narrow else [BarColumn(bar_width=BAR)]),
            TextColumn("{task.percentage:>3.0f}%"),
            *([] if self._narrow else [TimeElapsedColumn()]),
            TextColumn("{task.fields[said]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._whole = len(narration.tracks)
        found = sum(narration.chapters[number].characters for number in narration.tracks)
        self._characters = max(1, sum(chapter.characters for chapter in narration.chapters.values()))
        self._book = self._progress.add_task(self._cut(book.title), total=self._characters, completed=found, said="")
        self._lines: dict[int, TaskID] = {}
        self._pace = Pace()
        self._looked_s = 0.0
        self._workers = 0
        self._faults = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def busy(self, error: BusyError) -> None:
        """Show why the rest of the book waits."""
        click.echo(f"voxspool: {error}; the rest of the book is enqueued then", err=True)

    def placed(self, jobs: Mapping[int, str]) -> None:
        """Show how to hear a chapter from another terminal. A private Redis cannot be reached from there."""
        shared = self._client.url == self._client.settings.redis_url
        if jobs and shared and self._console.is_terminal:
            first = jobs[min(jobs)]
            click.echo(f"narration {self._id}; to listen while it is made: voxspool follow {first} --play", err=True)

    def take(self, news: NarrationEvent) -> None:
        """Move with it."""
        if isinstance(news, BookSegment):
            self._advance(news)
        elif isinstance(news, ChapterSpoken):
            self._close(news.number)
            self._whole += 1
        elif isinstance(news, ChapterGivenUp):
            self._close(news.number)
            click.echo(f"voxspool: chapter {news.number} was given up: {news.error}", err=True)
        self._count_workers()
        self._progress.below = self._line()

    def made(self, made: MadeFile) -> None:
        """Show which file was written."""
        if made.new:
            self._progress.below = f"{self._line()}, wrote {made.path.name}"

    def left(self, name: str) -> None:
        """Show how to continue later."""
        self._progress.stop()
        click.echo(
            f"narration {name} goes on without this command; the files are made when you come back:\n"
            f"  voxspool narrate --attach {name}\n"
            f"to end it: voxspool cancel {name}",
            err=True,
        )

    def stopped(self) -> None:
        """Show that nothing is lost."""
        self._progress.stop()
        click.echo("voxspool: interrupted; what was spoken is kept: run the same command again to go on", err=True)

    def end(self, outcome: NarrationResult) -> None:
        """Show the result."""
        self._progress.stop()
        for line in outcome.problems[:LISTED]:
            click.echo(f"voxspool: {line}", err=True)
        if len(outcome.problems) > LISTED:
            click.echo(f"voxspool: and {len(outcome.problems) - LISTED} more; see {outcome.report}", err=True)
        factor = self._pace.real_time_factor
        pace = "" if factor is None else f", {factor:.2g} of real time"
        spoken = f"{counted(outcome.spoken, 'segment')} spoken, {outcome.reused} were there"
        click.echo(
            f"{outcome.folder}: {counted(outcome.chapters, 'chapter')}, {hours(outcome.duration_s)} of speech in "
            f"{hours(self._pace.elapsed_s)}{pace}; {spoken}",
            err=True,
        )

    def _advance(self, news: BookSegment) -> None:
        """Move the book's line and the chapter's."""
        said = news.mark.end - news.mark.start
        self._pace.add(news)
        self._faults += bool(news.mark.fault)
        self._progress.advance(self._book, said)
        line = self._lines.get(news.number)
        if line is None and len(self._lines) < MOST_LINES:
            chapter = self._chapters[news.number]
            label = self._cut(f"{chapter.number:>4}. {chapter.chapter.title}")
            line = self._lines[news.number] = self._progress.add_task(label, total=max(1, chapter.characters), said="")
        if line is not None:
            self._progress.advance(line, said)
            seconds = news.mark.end_pos / news.sample_rate
            self._progress.update(line, said=f"{hours(seconds)} of speech")

    def _cut(self, title: str) -> str:
        """Return a title that fits into its column."""
        return title if len(title) <= self._title_columns else f"{title[: self._title_columns - 1]}…"

    def _close(self, number: int) -> None:
        """Take a chapter's line away."""
        line = self._lines.pop(number, None)
        if line is not None:
            self._progress.remove_task(line)

    def _line(self) -> str:
        """Return the line of figures: chapters, speed, time left, workers, faults."""
        factor = self._pace.real_time_factor
        left = self._pace.left_s(self._characters - round(self._progress.tasks[0].completed))
        parts = [f"{self._whole}/{len(self._chapters)} chapters"]
        parts += [] if factor is None else [f"{factor:.2g} of real time"]
        parts += [] if left is None else [f"{hours(left)} left"]
        parts += [counted(self._workers, "worker")]
        parts += [f"{self._faults} with a fault"] if self._faults else []
        return ", ".join(parts)

    def _count_workers(self) -> None:
        """Count those that are alive, now and then, where somebody sees it."""
        if self._console.is_terminal and time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self._workers = len(self._client.workers())


class JsonLines:
    """JSON lines on stdout, an event each.

    `begin`, `placed`, `segment`, `chapter`, `given-up`, `busy`, `file`, `left`, `stopped`, `end`.
    """

    def __init__(self, narration: Narration, book: Book) -> None:
        self._narration = narration
        self._title = book.title

    def __enter__(self) -> Self:
        self._say(
            "begin",
            id=self._narration.id,
            title=self._title,
            chapters=[_about(chapter) for chapter in self._narration.chapters.values()],
            whole=sorted(self._narration.tracks),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def busy(self, error: BusyError) -> None:
        """Write a line."""
        self._say("busy", why=str(error), retry_after_s=error.retry_after_s)

    def placed(self, jobs: Mapping[int, str]) -> None:
        """Write a line."""
        self._say("placed", jobs=jobs)

    def take(self, news: NarrationEvent) -> None:
        """Write a line, unless nothing happened."""
        if isinstance(news, BookSegment):
            mark = news.mark
            self._say(
                "segment", chapter=news.number, segment=mark.segment, pos_s=round(mark.pos / news.sample_rate, 3),
                end_s=round(mark.end_pos / news.sample_rate, 3), tries=mark.tries, fault=mark.fault,
                reused=mark.reused,
            )  # fmt: skip
        elif isinstance(news, ChapterSpoken):
            faults = sum(bool(cue.fault) for cue in news.track.cues)
            self._say("chapter", chapter=news.number, duration_s=round(news.track.duration_s, 3), faults=faults)
        elif isinstance(news, ChapterGivenUp):
            self._say("given-up", chapter=news.number, code=news.error.code, why=str(news.error))

    def made(self, made: MadeFile) -> None:
        """Write a line."""
        self._say("file", path=str(made.path), new=made.new)

    def left(self, name: str) -> None:
        """Write a line."""
        self._say("left", id=name)

    def stopped(self) -> None:
        """Write a line."""
        self._say("stopped")

    def end(self, outcome: NarrationResult) -> None:
        """Write a line."""
        self._say(
            "end", ok=outcome.ok, duration_s=round(outcome.duration_s, 3), spoken=outcome.spoken,
            reused=outcome.reused, problems=outcome.problems, report=str(outcome.report),
        )  # fmt: skip

    @staticmethod
    def _say(event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        sys.stdout.write(json.dumps({"event": event} | fields) + "\n")
        sys.stdout.flush()


def show_for(narration: Narration, client: Client, book: Book, *, as_json: bool) -> ProgressDisplay:
    """Choose how to tell."""
    return JsonLines(narration, book) if as_json else TerminalDisplay(narration, client, book)


def hours(seconds: float) -> str:
    """Write a span for people: 48 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _about(chapter: PlannedChapter) -> dict[str, Any]:
    """Return a chapter's number, title and length, for a line of JSON."""
    return {"chapter": chapter.number, "title": chapter.chapter.title, "characters": chapter.characters}


def counted(number: int, noun: str) -> str:
    """Write a number of things: 1 chapter, 2 chapters."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
