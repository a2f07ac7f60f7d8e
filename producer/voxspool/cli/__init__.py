"""The command `voxspool`: one module a command group; each parses, calls, prints.

An error of ours is one line on stderr and exit code 1; a usage error is click's, exit code 2. Progress goes to a
terminal's stderr and nowhere else, so stdout can be piped.
"""

from __future__ import annotations

import signal
import warnings
from typing import Any

import click

from voxspool.cli.demo import demo
from voxspool.cli.follow import follow
from voxspool.cli.jobs import cancel, enqueue, status
from voxspool.cli.narrate import narrate
from voxspool.cli.preview import preview
from voxspool.cli.queues import pause, resume
from voxspool.cli.speak import speak
from voxspool.cli.voices import voices
from voxspool.errors import VoxspoolError
from voxspool.waiting import NoWorkerWarning


class Command(click.Group):
    """A group that says our errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command; an error of ours is one line and exit code 1, an interrupt 130.

        A SIGTERM (a `timeout`) and a SIGHUP (a closed terminal) end it as Ctrl-C does: what it started, it stops.
        A signal that it was told to ignore (by `nohup`) stays ignored, as Python does with Ctrl-C.
        """
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
                signal.signal(getattr(signal, name), signal.default_int_handler)
        warnings.simplefilter("ignore", NoWorkerWarning)  # the commands say it themselves (progress.Unserved)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except VoxspoolError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # whoever listened has heard enough: click ends quietly
        except OSError as error:
            raise click.ClickException(f"cannot read or write: {error}") from error


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="voxspool")
def main() -> None:
    """Enqueue speech, and read it from its Redis stream while it is being made.

    \b
    voxspool speak "Hello there." -o hello.wav      speak and write a file
    cat page.txt | voxspool speak - -o page.opus    from a pipe
    voxspool enqueue --file chapter.txt             leave it in the queue; prints the job's id
    voxspool follow JOB -o chapter.flac             read it, now or later, as often as you like
    voxspool status                                 queues, workers, running jobs
    voxspool narrate book.epub -o book              a book into files, by all workers
    voxspool pause batch                            let a queue wait; resume lets it go on
    voxspool voices add alice alice.wav             clone a voice from a recording
    """


for command in (speak, enqueue, follow, status, cancel, narrate, preview, pause, resume, voices, demo):
    main.add_command(command)
