"""The command `voxspool-worker`: run a worker, or see what this machine has. Parses, calls, prints.

Logging is set up here and nowhere else: one line an event on stderr, a stable action word first.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import platform
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from voxspool import connection
from voxspool.errors import VoxspoolError
from voxspool.protocol.jobs import ENGINES
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD, NOTE, MISSING = "ok  ", "note", "MISS"
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class Command(click.Group):
    """A group that says our errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command; an error of ours is one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except VoxspoolError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # whoever listened has heard enough: click ends quietly
        except OSError as error:
            raise click.ClickException(f"cannot read or write: {error}") from error


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="voxspool-worker")
def main() -> None:
    """Speak the jobs that lie in Redis.

    \b
    voxspool-worker check                  what this machine has
    voxspool-worker run                    speak with Piper until stopped
    voxspool-worker run --engine tone      a sine for every sentence: no model needed
    """


def redis_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --redis URL."""
    return click.option("--redis", "redis_url", metavar="URL", help="Where Redis is [VOXSPOOL_REDIS_URL, REDIS_URL].")(
        command
    )


@main.command()
@redis_option
@click.option("--engine", type=click.Choice(ENGINES), help="What speaks [VOXSPOOL_WORKER_ENGINE, else piper].")
@click.option("--jobs", type=click.IntRange(1), help="How many jobs at once [VOXSPOOL_WORKER_JOBS, else 8].")
@click.option("--burst", is_flag=True, help="Speak what is queued, then leave.")
def run(redis_url: str | None, engine: str | None, jobs: int | None, burst: bool) -> None:  # noqa: FBT001 - click's way
    """Speak jobs until stopped.

    The first Ctrl-C or SIGTERM lets the running jobs end; the second hands them back to their queue.
    """
    settings = _settings(redis_url=redis_url, engine=engine, jobs=jobs)
    connection.check(settings.redis_url)

    from voxspool_worker import engines
    from voxspool_worker.worker import SpeechWorker

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)  # five lines a job, where ours are two
    connect = functools.partial(connection.connect, settings.redis_url)
    worker = SpeechWorker(engines.load(settings.engine, settings), connect, jobs=settings.jobs)
    worker.work(burst=burst)


@main.command()
@redis_option
def check(redis_url: str | None) -> None:
    """Show what this machine has, and what to do for the rest.

    Exit code 0 if `voxspool-worker run` could run here now.
    """
    settings = _settings(redis_url=redis_url)
    findings = list(_findings(settings))
    for mark, name, said in findings:
        click.echo(f"{mark}  {name:<8}  {said}")
    if any(mark == MISSING for mark, _, _ in findings):
        raise SystemExit(1)


def _settings(**flags: str | int | None) -> Settings:
    """Read the environment; what was said on the command line wins."""
    said: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    return replace(Settings.from_env(), **said)


def _findings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Look at this machine: a mark, what, and its state or what to do."""
    yield GOOD, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        yield GOOD, "redis", f"{connection.check(settings.redis_url)} at {connection.shown(settings.redis_url)}"
    except VoxspoolError as error:
        yield MISSING, "redis", str(error)
    yield from _engine_findings(settings)
    yield GOOD, "device", f"cpu ({_cores()} cores); piper and tone compute there"
    yield GOOD, "licence", "voxspool Apache-2.0; piper-tts GPL-3, an extra; each voice has its own (see its MODEL_CARD)"
    if importlib.util.find_spec("sounddevice") is None:
        yield NOTE, "play", "no loudspeaker for `voxspool follow --play`; install it: pip install 'voxspool[play]'"


def _engine_findings(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Try each engine; the one that `run` would load must be there."""
    from voxspool_worker import engines

    for name in dict.fromkeys((settings.engine, *ENGINES)):
        try:
            engine = engines.load(name, settings)
        except VoxspoolError as error:
            yield MISSING if name == settings.engine else NOTE, name, str(error)
        else:
            voices = ", ".join(
                f"{voice.name} ({'/'.join(voice.languages) or 'any'})" for voice in engine.voices.values()
            )
            yield GOOD, name, f"{engine.model} on {engine.device}, {engine.sample_rate} Hz, voices: {voices}"


def _cores() -> int:
    """Count the cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
