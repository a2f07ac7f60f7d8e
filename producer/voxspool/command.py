"""Shared by the commands `voxspool` and `voxspool-worker`: error messages, exit codes, help, output streams.

Exit code 0: done. 1: failed. 2: a wrong value on the command line, in a variable or in a text; nothing was started.
130: interrupted.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from voxspool.display import printable, protect_process
from voxspool.errors import VoxspoolError
from voxspool.protocol.jobs import ENGINES, is_engine_name

if TYPE_CHECKING:
    from collections.abc import Iterator

WRONG_VALUE: Final = 2
"""The exit code of click's own usage errors."""
INTERRUPTED: Final = 130
"""The exit code that a shell reports for a program that Ctrl-C ended: 128 plus the number of SIGINT."""
_WHOLE_SENTENCE: Final = 1_000
"""A number of characters that is greater than the first sentence of any help text has."""


class WrongValueError(click.ClickException):
    """A wrong value that was found after the command line was parsed: one line, without the usage."""

    exit_code = WRONG_VALUE


class EngineName(click.Choice[str]):
    """The name of an engine. Workers may have engines that no producer knows, so any valid name is accepted."""

    def __init__(self, *words: str) -> None:
        """Accept `words` in addition to the names of engines."""
        super().__init__((*words, *ENGINES))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the placeholder that the help shows for a value."""
        del param, ctx
        return f"[{'|'.join(self.choices)}|NAME]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Raises click.BadParameter for one that no engine can have."""
        if value not in self.choices and not is_engine_name(value):
            known = ", ".join(map(repr, self.choices))
            self.fail(f"{value!r} is neither one of {known} nor a name that an engine can have", param, ctx)
        return value


class CommandGroup(click.Group):
    """A group of commands that prints a VoxspoolError as one line, and never cuts a summary in its help."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command line as the whole program."""
        protect_process()
        return super().__call__(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command line."""
        print_any_character()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: ANN401 - click's own signature
        """Parse the group's own options."""
        with printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command. Print a VoxspoolError as one line, and exit with its code."""
        with printable_errors():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        try:
            return super().invoke(ctx)
        except VoxspoolError as error:
            kind = WrongValueError if error.wrong_value else click.ClickException
            raise kind(str(error)) from error
        except BrokenPipeError:
            raise  # the program that read the pipe has ended; click exits without a message
        except OSError as error:
            raise click.ClickException(f"cannot read or write: {error}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands. A summary that does not fit the line is wrapped; click would cut it."""
        rows = [
            (name, command.get_short_help_str(_WHOLE_SENTENCE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class InterruptibleGroup(CommandGroup):
    """A group whose commands end with exit code 130 on Ctrl-C, and in the same way on SIGTERM and SIGHUP."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command.

        SIGTERM (`timeout` sends it) and SIGHUP (a closed terminal) work as Ctrl-C does, so that a command stops the
        processes that it started. A signal that the caller has set to be ignored (`nohup`) stays ignored, as Python
        does with Ctrl-C.
        """
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
                signal.signal(getattr(signal, name), signal.default_int_handler)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


@contextlib.contextmanager
def printable_errors() -> Iterator[None]:
    """Make the message of a click error printable: it may quote a file name, a variable or a worker."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]  # click reads it later
        raise


def print_any_character() -> None:
    """Make stdout and stderr print characters that their encoding lacks as escapes, such as \\u2026.

    Otherwise a narrow code page (cp1252 on Windows, ASCII with LANG=C) would end the command with a UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
