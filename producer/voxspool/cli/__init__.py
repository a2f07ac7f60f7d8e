"""The command `voxspool`, with one module for each group of commands. A module parses, calls the library and prints.

`voxspool.command` prints errors and sets the exit code. Progress is shown only on a terminal's stderr, so stdout can be
piped.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from voxspool.cli.demo import demo
from voxspool.cli.follow import follow
from voxspool.cli.job_list import delete, jobs, retry
from voxspool.cli.jobs import cancel, enqueue, status
from voxspool.cli.narrate import narrate
from voxspool.cli.preview import preview
from voxspool.cli.queues import pause, resume
from voxspool.cli.speak import speak
from voxspool.cli.voices import voices
from voxspool.command import InterruptibleGroup
from voxspool.display import echo
from voxspool.reading.waiting import NoWorkerWarning, RedisAwayWarning

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(InterruptibleGroup):
    """The group of `voxspool`."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoWorkerWarning)  # progress.Unserved prints this warning instead
            warnings.simplefilter("always", RedisAwayWarning)
            warnings.showwarning = partial(show_warning, warnings.showwarning)
            return super().invoke(ctx)


def show_warning(other: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:  # noqa: ANN401 - Python's own
    """Print a RedisAwayWarning as one line; pass other warnings on to `other`."""
    if issubclass(category, RedisAwayWarning):
        echo(f"voxspool: {message}", err=True)
    else:
        other(message, category, *where)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="voxspool")
def main() -> None:
    """Turn text into speech: enqueue it, and hear it while a worker speaks it.

    \b
    voxspool speak "Hello."                        play a text
    voxspool speak "Hello." -o hello.wav           write it to a file
    cat page.txt | voxspool speak - -o page.opus   read the text from a pipe
    voxspool enqueue --file chapter.txt            enqueue a job, print its id
    voxspool follow JOB -o chapter.flac            get its audio, now or later
    voxspool status                                queues, workers, jobs
    voxspool narrate book.epub -o book             make an audiobook
    voxspool voices add alice alice.wav            clone a voice

    Exit codes: 0 done, 1 failed, 2 wrong value (nothing was started), 130 interrupted.
    """


for command in (
    speak,
    enqueue,
    follow,
    status,
    jobs,
    cancel,
    retry,
    delete,
    narrate,
    preview,
    pause,
    resume,
    voices,
    demo,
):
    main.add_command(command)
