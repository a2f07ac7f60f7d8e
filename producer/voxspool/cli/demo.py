"""`voxspool demo`: the whole system on a machine with nothing: private Redis, private worker, Piper, a file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import click

from voxspool.cli import options
from voxspool.cli.follow import record
from voxspool.cli.progress import SpeechProgress, Unserved
from voxspool.cli.speak import cancelled_by_interrupt, report
from voxspool.protocol.jobs import ENGINES

PASSAGE: Final = (
    "A spooler takes what you give it and gives you back your time. You put a page into a queue, and somewhere a "
    "machine that has its model in memory begins to read. The first words are there before you have reached for your "
    "headphones.\n\n"
    "While the reader speaks, the sound is written to a stream. One listener hears it live, another joins late and "
    "starts from the beginning, a third loses its connection, comes back, and goes on at the very next word. Nothing "
    "is said twice, and nothing is lost.\n\n"
    "And when the machine itself is switched off in the middle of a sentence, another one takes the page from its "
    "hands and reads on."
)
"""What the demo says, and what the tests transcribe."""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo.wav"), show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="piper", show_default=True)
@click.option("--redis", "redis_url", metavar="URL", help="Speak through this Redis and its workers [private ones].")
def demo(output: Path, engine: str, redis_url: str | None) -> None:
    """Speak a passage through a private Redis and a private worker, and leave a file.

    \b
    voxspool demo
    voxspool demo --redis URL      through a Redis and a worker that are there already
    """
    from voxspool.audio import check_output
    from voxspool.client import Client
    from voxspool.embedded import Embedded

    check_output(output)
    with contextlib.ExitStack() as stack:
        if redis_url:
            client = stack.enter_context(options.open_client(options.settings(redis_url)))
        else:
            click.echo(f"starting a private Redis, and a worker with {engine}", err=True)
            own = stack.enter_context(Embedded(engine))
            client = stack.enter_context(Client(own.url))
        click.echo(f"speaking {len(PASSAGE)} characters", err=True)
        line = stack.enter_context(SpeechProgress(len(PASSAGE), "speaking"))
        speech = client.enqueue(PASSAGE, engine=engine, voice=None)
        with cancelled_by_interrupt(speech):
            record(speech, str(output), line, Unserved(client))
    report(str(output), line)
