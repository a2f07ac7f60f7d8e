"""Options that several commands share, and functions that turn them into a text, a job, settings or a client."""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from voxspool.command import EngineName
from voxspool.errors import InvalidJobError
from voxspool.protocol import voices
from voxspool.protocol.jobs import AUTO, MAX_SPEED, MIN_SPEED, PRIORITIES, JobSpec
from voxspool.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool.client import Client

REDIS = click.option("--redis", "redis_url", metavar="URL", help="Redis to use [VOXSPOOL_REDIS_URL, REDIS_URL].")
PRIVATE = click.option(
    "--private", is_flag=True, help="Start a private Redis and a private worker, even if a Redis answers."
)
ADD_PRIVATE = "add --private, which starts a private Redis and a private worker"
"""Advice if the Redis on the default port, which the user did not name, cannot be used: it may be another program's."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")

_BLANK: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Unicode categories of invisible characters: spaces, line ends, control characters, marks of direction."""

_TEXT = (
    click.argument("text", required=False),
    click.option("--file", "-f", "path", type=click.Path(path_type=Path), help="Read the text from a file (UTF-8)."),
)
_SPEECH = (
    click.option("--voice", help="A voice from `voxspool voices` [VOXSPOOL_VOICE, else the engine's own]."),
    click.option("--language", help="Language of the text, such as en or pt-br [the voice's own]."),
    click.option("--engine", type=EngineName(AUTO), help="Engine that speaks [VOXSPOOL_ENGINE, else auto]."),
    click.option("--speed", type=float, help=f"Rate of speech, {MIN_SPEED} to {MAX_SPEED} [1.0]."),
    click.option(
        "--seed", type=int, help="Random seed. Engines that use random numbers read differently with another seed [0]."
    ),
    click.option(
        "--priority", type=click.Choice(PRIORITIES), help="Workers take interactive jobs first [interactive]."
    ),
    click.option(
        "--live", "live_s", metavar="SECONDS", type=int, help="Cancel the job if nobody reads it for this long [never]."
    ),
    click.option(
        "--window",
        "window_s",
        metavar="SECONDS",
        type=int,
        help="Speak at most this far ahead of the reader [no limit].",
    ),
    click.option(
        "--reuse", is_flag=True, default=None, help="Speak each sentence once: use the worker's segment store."
    ),
    click.option(
        "--job-id", "id", help="Id of the job. Enqueueing the same job again under its id has no effect [random]."
    ),
)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add TEXT, --file, --redis and the options of a speech to a command."""
    for option in reversed((*_TEXT, *_SPEECH, REDIS)):
        command = option(command)
    return command


def read_text(text: str | None, path: Path | None) -> str:
    """Return the text: the argument, a file, or stdin for `-`.

    Raises click.UsageError if none or both were given, InvalidJobError for a text that is empty or is not UTF-8.
    """
    if text is not None and path is not None:
        raise click.UsageError(f"give the text as an argument or with --file {path}, not both")
    if text is None and path is None:
        raise click.UsageError("give the text, or - to read it from stdin, or --file FILE")
    source = "stdin" if "-" in (text, str(path)) else "the text" if path is None else str(path)
    found = _decoded(_bytes(text, path, source), source)
    if all(unicodedata.category(character) in _BLANK for character in found):
        raise InvalidJobError(f"{source} is empty; there is nothing to speak")
    return found


def _bytes(text: str | None, path: Path | None, source: str) -> bytes:
    """Return the bytes of the text. Raises InvalidJobError if they cannot be read."""
    try:
        if source != "stdin":
            return (text or "").encode(errors="surrogatepass") if path is None else path.read_bytes()
        if sys.stdin is None:
            raise InvalidJobError("stdin is closed; give the text as an argument or with --file")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InvalidJobError(f"cannot read {source}: {error.strerror or error}") from error


def _decoded(data: bytes, source: str) -> str:
    """Decode a text in UTF-8, with or without a byte order mark. Raises InvalidJobError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidJobError(f"{source} is not UTF-8 text (byte {error.start}); convert it first") from error


def job_spec(text: str, settings: Settings, chosen: dict[str, Any]) -> JobSpec:
    """Return the job for a text, from the options and the environment. Raises InvalidJobError."""
    spec = JobSpec(text, **{"engine": settings.engine, "voice": settings.voice} | said(chosen))
    if spec.voice is not None:
        voices.parse(spec.voice)
    return spec


def settings(redis_url: str | None, *, private: bool = False) -> Settings:
    """Return the settings of the environment; --redis overrides their URL. With --private no URL is needed or checked.

    Raises click.UsageError for --redis together with --private, SettingsError, and RedisUnavailableError for a text
    that is not a Redis URL.
    """
    if private and redis_url is not None:
        raise click.UsageError("--private and --redis exclude each other: --private starts a Redis of its own")
    from voxspool.connections import connection

    found = Settings.from_env()
    chosen = replace(found, redis_url=redis_url, redis_named=True) if redis_url is not None else found
    if not private:
        connection.connect(chosen.redis_url).close()  # checks the URL, sends nothing
    return chosen


def open_client(chosen: Settings) -> Client:
    """Return a client of a server that answers, accepts the login and is new enough. Raises RedisError."""
    from voxspool.client import Client
    from voxspool.connections import connection

    connection.check(chosen.redis_url)
    return Client(settings=chosen)


def said(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    return {name: value for name, value in options.items() if value is not None}
