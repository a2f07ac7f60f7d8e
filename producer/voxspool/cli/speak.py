"""`voxspool speak`: enqueue a text and play it, or write it to a file. Without a Redis it starts a private one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import click

from voxspool.amounts import real_time
from voxspool.cli import options
from voxspool.cli.follow import check_target, record
from voxspool.cli.progress import SpeechProgress, Unserved
from voxspool.command import INTERRUPTED
from voxspool.display import echo
from voxspool.errors import (
    InvalidJobError,
    RedisError,
    RedisUnavailableError,
    SpeechFailedError,
    UnknownEngineError,
    UnknownLanguageError,
    UnknownVoiceError,
    VoxspoolError,
)
from voxspool.protocol.jobs import AUTO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from voxspool.client import Client
    from voxspool.settings import Settings
    from voxspool.speech import Speech

OWN_ENGINE: Final = "piper"
"""The engine of a private worker if the user names none."""
_REFUSALS: Final = frozenset(
    kind.code for kind in (InvalidJobError, UnknownEngineError, UnknownVoiceError, UnknownLanguageError)
)
"""Codes of failed jobs that no worker could speak, because their input is wrong."""


@click.command()
@options.text_options
@options.PRIVATE
@click.option(
    "-o",
    "--output",
    "target",
    metavar="OUT",
    help="Write a file (.wav .flac .mp3 .ogg .opus), or - for raw samples on stdout [play].",
)
def speak(
    text: str | None, path: Path | None, target: str | None, redis_url: str | None, private: bool,  # noqa: FBT001 - click's way
    **chosen: Any,  # noqa: ANN401 - the speech's options
) -> None:  # fmt: skip
    """Speak TEXT (or - for stdin): play it, or write a file.

    \b
    voxspool speak "Hello there."
    voxspool speak --file page.txt -o page.opus --voice en_US-joe-medium
    voxspool speak - -o - < page.txt | aplay -r 22050 -f S16_LE

    The speech is played while it is made. With --private, or if no Redis is named and none is on the default port, the
    command starts a private Redis and a private worker. Ctrl-C cancels the job.
    """
    words = options.read_text(text, path)
    settings = options.settings(redis_url, private=private)
    spec = options.job_spec(words, settings, chosen)  # refuses a wrong value before anything is started
    check_target(target, play=target is None)
    opened = client_or_embedded(settings, spec.engine, private=private)
    with opened as client, SpeechProgress(len(words), "speaking") as line:
        placed = client.place(spec)
        unserved = Unserved(client, has_private=True)
        unserved.look(placed.queue)
        with cancelled_on_leaving(placed.speech):
            _record(placed.speech, target, line, unserved)
    report(target or "played", line)


def _record(speech: Speech, target: str | None, line: SpeechProgress, unserved: Unserved) -> None:
    """Record or play a speech. If the worker refuses its input, the error counts as a wrong value."""
    try:
        record(speech, target, line, unserved, play=target is None)
    except SpeechFailedError as error:
        error.wrong_value = error.code in _REFUSALS
        raise


@contextlib.contextmanager
def client_or_embedded(settings: Settings, engine: str, *, private: bool) -> Iterator[Client]:
    """Open a client of the named Redis or the one on the default port; else start a private one, and print that.

    With `private` it always starts a private one. Raises RedisError for a Redis that cannot be used.
    """
    from voxspool.client import Client
    from voxspool.embedded import Embedded, somebody_listens

    if not private and (settings.redis_named or somebody_listens(settings.redis_url)):
        with _open_found(settings) as client:
            yield client
        return
    speaker = OWN_ENGINE if engine == AUTO else engine
    why = "" if private else "no Redis on the default port; "
    echo(f"voxspool: {why}starting a private Redis and a private worker with {speaker}", err=True)
    with Embedded(speaker) as own, Client(own.url, settings=settings) as client:
        yield client


def _open_found(settings: Settings) -> Client:
    """Return a client. If the user did not name this Redis, an error message recommends --private.

    Raises RedisError.
    """
    try:
        return options.open_client(settings)
    except RedisError as error:
        if settings.redis_named:
            raise
        raise type(error)(f"{error}; or {options.ADD_PRIVATE}") from error


@contextlib.contextmanager
def cancelled_on_leaving(speech: Speech) -> Iterator[None]:
    """Cancel the job on Ctrl-C, if the pipe on stdout is closed, and on an error: it has no other listener."""
    try:
        yield
    except KeyboardInterrupt:
        echo(f"voxspool: interrupted; {_cancel(speech, 'Ctrl-C')}", err=True)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        _cancel(speech, "a closed pipe")
        raise
    except RedisUnavailableError:
        raise  # to cancel needs a Redis
    except (VoxspoolError, OSError):
        _cancel(speech, "a command that failed")
        raise


def _cancel(speech: Speech, by: str) -> str:
    """Cancel a job, and return in words what became of it."""
    try:
        said = speech.cancel(by)
    except VoxspoolError as error:
        return f"job {speech.id} was not cancelled: {error}"
    return f"job {speech.id} is {'being cancelled' if said == 'asked' else said}"


def report(target: str, line: SpeechProgress) -> None:
    """Print the result on stderr."""
    first = "" if line.first_chunk_s is None else f", first audio after {line.first_chunk_s:.2f} s"
    factor = "" if line.real_time_factor is None else f", {real_time(1 / line.real_time_factor)}"
    where = "stdout" if target == "-" else target
    echo(f"{where}: {line.spoken_s:.1f} s of speech in {line.elapsed_s:.1f} s{first}{factor}", err=True)
