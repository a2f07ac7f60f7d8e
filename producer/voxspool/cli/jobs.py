"""`voxspool enqueue`, `status`, `cancel`, `voices`: what can be said and asked of jobs without hearing them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from voxspool.cli import options
from voxspool.cli.progress import Unserved
from voxspool.protocol.jobs import JobSpec

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from voxspool.client import Client, Overview


@click.command()
@options.text_options
@options.JSON
def enqueue(text: str | None, path: Path | None, redis_url: str | None, as_json: bool, **chosen: Any) -> None:  # noqa: ANN401, FBT001 - the speech's options
    """Leave TEXT (or - for stdin) in the queue and print the job's id.

    \b
    voxspool enqueue "Hello there."
    voxspool enqueue --file chapter.txt --priority batch --job-id chapter-1
    """
    words = options.read_text(text, path)
    settings = options.settings(redis_url)
    spec_options = {"engine": settings.engine, "voice": settings.voice} | options.said(chosen)
    queue = JobSpec(words, **spec_options).queue  # refused here, before Redis is asked
    with options.open_client(settings) as client:
        speech = client.enqueue(words, **spec_options)
        click.echo(json.dumps({"job": speech.id, "queue": queue}) if as_json else speech.id)
        Unserved(client).look(queue)


@click.command()
@click.argument("job", required=False)
@options.JSON
@options.REDIS
def status(job: str | None, as_json: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """Show queues, workers and running jobs, or one JOB.

    \b
    voxspool status
    voxspool status JOB --json
    """
    with options.open_client(options.settings(redis_url)) as client:
        if job is not None:
            _show_job(client, job, as_json=as_json)
        else:
            _show_all(client.overview(), as_json=as_json)


@click.command()
@click.argument("job")
@options.REDIS
def cancel(job: str, redis_url: str | None) -> None:
    """Cancel JOB: taken off the queue, or stopped at its next chunk.

    \b
    voxspool cancel JOB
    """
    with options.open_client(options.settings(redis_url)) as client:
        said = client.speech(job).cancel("voxspool cancel")
    meaning = {"asked": "is running and stops at its next chunk", "cancelled": "is cancelled"}
    click.echo(f"job {job} {meaning.get(said, f'was over already: {said}')}")


@click.command()
@options.JSON
@options.REDIS
def voices(as_json: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """List the voices that live workers have.

    \b
    voxspool voices
    """
    with options.open_client(options.settings(redis_url)) as client:
        found = client.voices()
    rows: list[dict[str, Any]] = [
        {"voice": name, "engine": cards[0].engine, "languages": cards[0].voices[name], "workers": len(cards)}
        for name, cards in sorted(found.items())
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(
            f"{row['voice']:<28} {row['engine']:<6} {'/'.join(row['languages']) or 'any':<8} {row['workers']} worker(s)"
        )
    if not rows:
        click.echo("no live worker, so no voices; start one: voxspool-worker run", err=True)


def _show_job(client: Client, job: str, *, as_json: bool) -> None:
    """Show where one job is."""
    state = client.speech(job).status()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(state)))
        return
    click.echo(f"job {state.id}: {state.state}")
    if state.attempt:
        click.echo(
            f"  {state.spoken_s:.1f} s spoken, segment {state.segments_done} of {state.segments}, "
            f"attempt {state.attempt}, {state.engine} {state.voice} on {state.worker}"
        )
    elif state.queue:
        click.echo(f"  in {state.queue}")
        Unserved(client).on_wait(state)


def _show_all(overview: Overview, *, as_json: bool) -> None:
    """Show the system."""
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(overview)))
        return
    from rich.console import Console

    console = Console()
    _table(
        console,
        "no jobs waiting",
        ("queue", "waiting"),
        [(name, str(count)) for name, count in overview.queues.items()],
    )
    _table(
        console,
        "no live worker",
        ("worker", "engine", "device", "jobs", "rows", "host"),
        [
            (
                card.name,
                card.engine,
                card.device,
                f"{card.running}/{card.jobs}",
                f"{card.rows_in_use}/{card.rows}",
                card.host,
            )
            for card in overview.workers
        ],
    )
    _table(
        console,
        "no running job",
        ("job", "engine", "voice", "segments", "spoken"),
        [
            (job.id, job.engine, job.voice, f"{job.segments_done}/{job.segments}", f"{job.spoken_s:.1f} s")
            for job in overview.running
        ],
    )


def _table(console: Console, none: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows, or that there are none. Ids are never cut: they are there to be copied."""
    from rich.table import Table

    if not rows:
        console.print(none)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
