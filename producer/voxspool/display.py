"""Make text fit to show: on a terminal, in a table, in a log. The only module that prints text for the commands.

Books, file names, streams, workers, jobs and the environment are written by others. A control character in them could
move the cursor, recolour or clear the screen, or write to the clipboard; a line break could forge a line of the output
or of the log; a bidirectional control could change the order in which a line is read. `printable` shows all of these
as escapes such as \\x1b, so that nothing is lost and nothing acts.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
import unicodedata
import warnings
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

_SHOWN_FORMATS: Final = frozenset(
    "\u00ad\u200c\u200d"  # soft hyphen; the joiners, which Persian, Indic scripts and emoji need
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"  # visible number signs
)
"""Format characters (Unicode category Cf) that ordinary text has and that change nothing around them."""
_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of controls, formats, surrogates, line and paragraph separators."""
_PLAIN: Final = re.compile(r"[ -~]*")
_INDENT: Final = "  "
"""Before each line of a traceback: a line that begins in the first column is a record of the log."""


def printable(text: str) -> str:
    """Return a text as one line: each control character becomes its Python escape, such as \\n, and a tab a space."""
    text = text.replace("\t", " ")
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escaped(one) if _acts(one) else one for one in text)


def echo(text: object, *, err: bool = False) -> None:
    """Print one line on stdout, or on stderr with `err`, without control characters."""
    click.echo(printable(str(text)), err=err)  # noqa: TID251 - here it is allowed


def echo_json(value: Any) -> None:  # noqa: ANN401 - what json.dumps takes
    """Print a value as one line of JSON on stdout, in ASCII."""
    click.echo(json_line(value))  # noqa: TID251 - here it is allowed


def json_line(value: Any) -> str:  # noqa: ANN401 - what json.dumps takes
    """Return a value as one line of JSON, in printable ASCII. A number that JSON lacks, such as NaN, becomes null."""
    try:
        line = json.dumps(value, allow_nan=False)
    except ValueError:
        line = json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))
    return line.replace("\x7f", "\\u007f")


def cell(text: object) -> Text:
    """Return a text for rich, as it is: without control characters, and brackets in it are no markup."""
    from rich.text import Text

    return Text(printable(str(text)))


def protect_process() -> None:
    """Make each log record, warning and traceback of this process printable, whichever library writes it."""
    make = logging.getLogRecordFactory()

    def make_printable(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - logging's signature
        return _printable_record(make(*args, **kwargs))

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        del line
        own = category.__module__.partition(".")[0] == "voxspool"  # for the user of a command, not for a programmer
        place = "warning" if own else f"{filename}:{lineno}: {category.__name__}"
        return printable(f"{place}: {message}") + "\n"

    logging.setLogRecordFactory(make_printable)
    warnings.formatwarning = format_warning
    sys.excepthook = _print_exception
    threading.excepthook = _print_exception_of_thread


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _ACTING and character not in _SHOWN_FORMATS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _printable_record(record: logging.LogRecord) -> logging.LogRecord:
    """Return a log record whose message is one line, and whose traceback is indented."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong call: the handler reports it, with all values in quotes
        return record
    record.msg, record.args = printable(message), None
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = _traceback(record.exc_info[1])  # every formatter prefers it to its own
    if record.stack_info:
        record.stack_info = _lines(record.stack_info)
    return record


def _traceback(error: BaseException) -> str:
    return _lines("".join(traceback.format_exception(error)))


def _lines(text: str) -> str:
    """Return several lines, each printable and indented."""
    return "\n".join(_INDENT + printable(line) for line in text.rstrip().split("\n"))


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody caught."""
    del kind
    click.echo(_lines("".join(traceback.format_exception(type(error), error, trace))), err=True)  # noqa: TID251 - its lines are printable


def _print_exception_of_thread(raised: threading.ExceptHookArgs) -> None:
    """Print the traceback of an error that ended a thread."""
    if raised.exc_value is not None and not isinstance(raised.exc_value, SystemExit):
        echo(f"error in the thread {raised.thread.name if raised.thread else 'that has ended'}:", err=True)
        _print_exception(raised.exc_type, raised.exc_value, raised.exc_traceback)
