"""`voxspool pause` and `resume`: stop workers from taking jobs from a queue, and let them take jobs again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from voxspool.cli import options
from voxspool.display import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

_QUEUES = click.argument("queues", nargs=-1, metavar="[QUEUE]...")


@click.command()
@_QUEUES
@options.REDIS
def pause(queues: Sequence[str], redis_url: str | None) -> None:
    """Pause a QUEUE: its jobs wait, running jobs continue. Without QUEUE, pause all.

    \b
    voxspool pause batch                       books wait, other jobs continue
    voxspool pause xtts                        every queue of an engine
    voxspool pause voxspool-auto-interactive   one queue, by its name
    """
    with options.open_client(options.settings(redis_url)) as client:
        _say("paused", client.pause(*queues))


@click.command()
@_QUEUES
@options.REDIS
def resume(queues: Sequence[str], redis_url: str | None) -> None:
    """Resume a paused QUEUE. Without QUEUE, resume all.

    \b
    voxspool resume batch
    """
    with options.open_client(options.settings(redis_url)) as client:
        _say("resumed", client.resume(*queues))


def _say(done: str, names: list[str]) -> None:
    """Print the queues, one on each line."""
    for name in names:
        echo(f"{done} {name}")
