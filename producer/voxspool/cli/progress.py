"""The progress of a speech: one live line on a terminal's stderr, nothing in a pipe.

It also warns within two seconds that no live worker serves a job's queue, even if stderr is not a terminal.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from voxspool.amounts import real_time
from voxspool.cli.options import ADD_PRIVATE
from voxspool.display import echo
from voxspool.protocol.stream import Audio, Begin, Mark, position_after
from voxspool.reading.waiting import Watch

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from voxspool.client import Client
    from voxspool.protocol.stream import Entry
    from voxspool.reading.reader import JobState

BAR: Final = 24
"""The width of a progress bar, in columns."""
NARROW: Final = 60
"""A terminal with fewer columns gets no bar."""
REST: Final = len("  100%  ") + len(" 0:00:00")
"""The width of everything except the label, the bar and the numbers, in columns."""


class SpeechProgress:
    """A live line: progress, duration of the speech, time to its first audio, speed."""

    def __init__(self, characters: int, label: str) -> None:
        console = Console(stderr=True)
        bar = [BarColumn(bar_width=BAR)] if console.width >= NARROW else []
        self._room = console.width - len(label) - (BAR + 1) * len(bar) - REST
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *bar,
            TextColumn("{task.percentage:>3.0f}%  {task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=max(1, characters), said="waiting for a worker")
        self._began = time.monotonic()
        self._rate = 0
        self.samples = 0
        self.first_chunk_s: float | None = None
        """The time from the start of this line to the first audio, in seconds; None before the first audio."""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since this line began."""
        return time.monotonic() - self._began

    @property
    def spoken_s(self) -> float:
        """Seconds of speech so far."""
        return self.samples / self._rate if self._rate else 0.0

    @property
    def real_time_factor(self) -> float | None:
        """The time since this line began, divided by the duration of the speech; None below one second of speech."""
        if self.first_chunk_s is None or self.spoken_s < 1:
            return None
        return self.elapsed_s / self.spoken_s

    def take(self, entry: Entry) -> None:
        """Update the line with an entry."""
        if isinstance(entry, Begin):
            self._rate = entry.sample_rate
        if isinstance(entry, Audio) and self.first_chunk_s is None:
            self.first_chunk_s = self.elapsed_s
        self.samples = position_after(entry)
        self._progress.update(self._task, said=self._line())
        if isinstance(entry, Mark):
            self._progress.update(self._task, completed=entry.end)

    def _line(self) -> str:
        """Return the numbers, as many as fit the terminal."""
        first = "-" if self.first_chunk_s is None else f"{self.first_chunk_s:.2f} s"
        factor = self.real_time_factor
        line = f"{self.spoken_s:.1f} s of speech"
        for more in (f"first audio after {first}", "" if factor is None else real_time(1 / factor)):
            if len(line) + 2 + len(more) <= self._room:
                line = f"{line}  {more}".rstrip()
        return line


class Unserved:
    """Warns on stderr, once, that a queue is paused or that no live worker serves it."""

    def __init__(self, client: Client, *, has_private: bool = False) -> None:
        """Prepare. With `has_private` the warning names the option --private, which the command must have."""
        self._client = client
        self._has_private = has_private
        self._watch = Watch()
        self._told = False

    def look(self, queue: str) -> None:
        """Warn if no worker takes jobs from a queue. After the first warning it does nothing."""
        if not self._told and (why := self._client.why_unserved(queue)):
            self._told = True
            echo(f"voxspool: {why}{self._or_private()}", err=True)

    def on_wait(self, state: JobState) -> None:
        """Warn if a job has waited too long for a worker. Call it after each second without an entry."""
        if self._watch.due(state.state):
            self.look(state.queue)

    def _or_private(self) -> str:
        """Return the advice to use --private; an empty string if it does not apply or the user named this Redis."""
        if not self._has_private or self._client.settings.redis_named:
            return ""
        return f"; or stop this command with Ctrl-C and {ADD_PRIVATE}"
