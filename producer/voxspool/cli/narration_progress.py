"""Show the progress of a narration: a live display on a terminal's stderr, or lines of JSON on stdout.

If stderr is not a terminal, only messages and the result at the end are printed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from voxspool.amounts import counted, duration, real_time
from voxspool.cli.progress import BAR, NARROW
from voxspool.display import cell, echo, echo_json, printable
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
"""The interval at which the live workers are counted, in seconds; that of a worker's heartbeat."""
MOST_LINES: Final = 8
"""The most chapters that are shown at once, below the line of the book."""
TITLE: Final = 32
"""The greatest width of a title, in columns."""
REST: Final = len(" 100% ") + len("59 min of speech")
"""The width of the percentage and the duration, in columns. A wide terminal also shows the bar and the time."""
LISTED: Final = 20
"""The most problems that are printed at the end; the report has all of them."""


class ProgressDisplay(Protocol):
    """Reports the progress of a narration. Use it as a context manager; its methods are called in order."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def busy(self, error: BusyError) -> None:
        """Report that there is no room for a chapter now."""

    def placed(self, jobs: Mapping[int, str]) -> None:
        """Report the jobs of the chapters that were not complete: number of the chapter -> id of its job."""

    def take(self, news: NarrationEvent) -> None:
        """Report an event of a chapter."""

    def made(self, made: MadeFile) -> None:
        """Report a file that was made, or that existed already."""

    def left(self, name: str) -> None:
        """Report that the command ends and the workers continue."""

    def stopped(self) -> None:
        """Report that the command ends, and its private worker with it."""

    def end(self, outcome: NarrationResult) -> None:
        """Report the result."""


class Pace:
    """The speed of a narration. It counts segments that are spoken while the command runs, not those from the store."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.spoken_chars = 0
        self.spoken_s = 0.0

    def add(self, segment: BookSegment) -> None:
        """Count a segment."""
        mark = segment.mark
        if not (mark.reused or segment.earlier):
            self.spoken_chars += mark.end - mark.start
            self.spoken_s += (mark.end_pos - mark.pos) / segment.sample_rate

    @property
    def elapsed_s(self) -> float:
        """The time since the command began, in seconds."""
        return time.monotonic() - self._began

    @property
    def real_time_factor(self) -> float | None:
        """The time since the command began, divided by the duration of the speech; None below one second of speech."""
        return self.elapsed_s / self.spoken_s if self.spoken_s >= 1 else None

    def left_s(self, characters: int) -> float | None:
        """Estimate the time for more characters, in seconds; None if no character has been spoken yet."""
        return characters * self.elapsed_s / self.spoken_chars if self.spoken_chars else None


class _Bars(Progress):
    """Progress bars, with a line of text below that may use the whole width of the terminal."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then the line."""
        yield from super().get_renderables()
        yield cell(self.below)


class TerminalDisplay:
    """Shows the progress on stderr: live on a terminal, else only messages and the result."""

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
            TextColumn("{task.fields[said]}", markup=False),
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
        """Print why the remaining chapters wait."""
        echo(f"voxspool: {error}; the remaining chapters are enqueued then", err=True)

    def placed(self, jobs: Mapping[int, str]) -> None:
        """Print how to listen in another terminal, unless the Redis is private: it cannot be reached from there."""
        shared = self._client.url == self._client.settings.redis_url
        if jobs and shared and self._console.is_terminal:
            first = jobs[min(jobs)]
            echo(f"narration {self._id}; to listen while it is made: voxspool follow {first} --play", err=True)

    def take(self, news: NarrationEvent) -> None:
        """Update the display with an event."""
        if isinstance(news, BookSegment):
            self._advance(news)
        elif isinstance(news, ChapterSpoken):
            self._close(news.number)
            self._whole += 1
        elif isinstance(news, ChapterGivenUp):
            self._close(news.number)
            echo(f"voxspool: chapter {news.number} was given up: {news.error}", err=True)
        self._count_workers()
        self._progress.below = self._line()

    def made(self, made: MadeFile) -> None:
        """Show which file was written."""
        if made.new:
            self._progress.below = f"{self._line()}, wrote {made.path.name}"

    def left(self, name: str) -> None:
        """Print how to resume or cancel the narration."""
        self._progress.stop()
        echo(f"narration {name} continues without this command. To make the files, resume it:", err=True)
        echo(f"  voxspool narrate --attach {name}", err=True)
        echo(f"To cancel it: voxspool cancel {name}", err=True)

    def stopped(self) -> None:
        """Print that the audio is kept, and how to resume."""
        self._progress.stop()
        echo("voxspool: interrupted; the finished audio is kept. To resume, run the same command again", err=True)

    def end(self, outcome: NarrationResult) -> None:
        """Print the problems and the result."""
        self._progress.stop()
        for line in outcome.problems[:LISTED]:
            echo(f"voxspool: {line}", err=True)
        if len(outcome.problems) > LISTED:
            echo(f"voxspool: and {len(outcome.problems) - LISTED} more; see {outcome.report}", err=True)
        factor = self._pace.real_time_factor
        pace = "" if factor is None else f", {real_time(1 / factor)}"
        spoken = f"{counted(outcome.spoken, 'segment')} spoken, {outcome.reused:,} from the store"
        echo(
            f"{outcome.folder}: {counted(outcome.chapters, 'chapter')}, {duration(outcome.duration_s)} of speech in "
            f"{duration(self._pace.elapsed_s)}{pace}; {spoken}",
            err=True,
        )

    def _advance(self, news: BookSegment) -> None:
        """Advance the lines of the book and of the chapter."""
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
            self._progress.update(line, said=f"{duration(seconds)} of speech")

    def _cut(self, title: str) -> str:
        """Return a title, cut to the width of its column."""
        title = printable(title)
        return title if len(title) <= self._title_columns else f"{title[: self._title_columns - 1]}…"

    def _close(self, number: int) -> None:
        """Remove the line of a chapter."""
        line = self._lines.pop(number, None)
        if line is not None:
            self._progress.remove_task(line)

    def _line(self) -> str:
        """Return the line below the bars: chapters, speed, time left, workers, faults."""
        factor = self._pace.real_time_factor
        left = self._pace.left_s(self._characters - round(self._progress.tasks[0].completed))
        parts = [f"{self._whole}/{len(self._chapters)} chapters"]
        parts += [] if factor is None else [real_time(1 / factor)]
        parts += [] if left is None else [f"{duration(left)} left"]
        parts += [counted(self._workers, "worker")]
        parts += [f"{counted(self._faults, 'segment')} with a fault"] if self._faults else []
        return ", ".join(parts)

    def _count_workers(self) -> None:
        """Count the live workers every LOOK_S, if a terminal shows their number."""
        if self._console.is_terminal and time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self._workers = len(self._client.workers())


class JsonLines:
    """Writes lines of JSON to stdout, one for each event.

    The events are `begin`, `placed`, `segment`, `chapter`, `given-up`, `busy`, `file`, `left`, `stopped`, `end`.
    """

    def __init__(self, narration: Narration, book: Book) -> None:
        self._narration = narration
        self._title = book.title

    def __enter__(self) -> Self:
        self._say(
            "begin",
            id=self._narration.id,
            title=self._title,
            chapters=[chapter_fields(chapter) for chapter in self._narration.chapters.values()],
            whole=sorted(self._narration.tracks),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def busy(self, error: BusyError) -> None:
        """Write the line `busy`."""
        self._say("busy", why=str(error), retry_after_s=error.retry_after_s)

    def placed(self, jobs: Mapping[int, str]) -> None:
        """Write the line `placed`."""
        self._say("placed", jobs=jobs)

    def take(self, news: NarrationEvent) -> None:
        """Write the line of an event that has one."""
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
        """Write the line `file`."""
        self._say("file", path=str(made.path), new=made.new)

    def left(self, name: str) -> None:
        """Write the line `left`."""
        self._say("left", id=name)

    def stopped(self) -> None:
        """Write the line `stopped`."""
        self._say("stopped")

    def end(self, outcome: NarrationResult) -> None:
        """Write the line `end`."""
        self._say(
            "end", ok=outcome.ok, duration_s=round(outcome.duration_s, 3), spoken=outcome.spoken,
            reused=outcome.reused, problems=outcome.problems, report=str(outcome.report),
        )  # fmt: skip

    @staticmethod
    def _say(event: str, **fields: Any) -> None:  # noqa: ANN401 - JSON
        echo_json({"event": event} | fields)


def show_for(narration: Narration, client: Client, book: Book, *, as_json: bool) -> ProgressDisplay:
    """Return the display for JSON or for people."""
    return JsonLines(narration, book) if as_json else TerminalDisplay(narration, client, book)


def chapter_fields(chapter: PlannedChapter) -> dict[str, Any]:
    """Return a chapter's number, title and length in characters, for JSON."""
    return {"chapter": chapter.number, "title": chapter.chapter.title, "characters": chapter.characters}
