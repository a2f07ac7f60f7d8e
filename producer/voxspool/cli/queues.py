"""`voxspool pause` and `resume`: stop and restart taking jobs from a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from voxspool.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUEUES = click.argument("queues", nargs=-1, metavar="[QUEUE]...")


@click.command()
@_QUEUES
@options.REDIS
def pause(queues: Sequence[str], redis_url: str | None) -> None:
    """Let the jobs of a QUEUE wait; jobs that run go on. Without QUEUE, pause all.

    \b
    voxspool pause batch                       books wait, notices are spoken
    voxspool pause xtts                        every queue of an engine
    voxspool pause voxspool-auto-interactive   one queue, by its name
    """
    with options.open_client(options.settings(redis_url)) as client:
        _say("paused", client.pause(*queues))


@click.command()
@_QUEUES
@options.REDIS
def resume(queues: Sequence[str], redis_url: str | None) -> None:
    """Let the jobs of a paused QUEUE go on. Without QUEUE, resume all.

    \b
    voxspool resume batch
    """
    with options.open_client(options.settings(redis_url)) as client:
        _say("resumed", client.resume(*queues))


def _say(done: str, names: list[str]) -> None:
    """Name the queues, one a line."""
    for name in names:
        click.echo(f"{done} {name}")
