"""`voxspool enqueue`, `status` and `cancel`: create, show and cancel jobs, without reading their audio."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from voxspool.amounts import counted, duration, real_time
from voxspool.cli import options
from voxspool.cli.progress import Unserved
from voxspool.display import cell, echo, echo_json, printable
from voxspool.errors import UnknownJobError
from voxspool.protocol.stream import STATES, End

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from voxspool.client import Client
    from voxspool.queue.overview import Overview
    from voxspool.reading.queue_place import QueuePlace
    from voxspool.workers import WorkerCard


@click.command()
@options.text_options
@click.option("--lines", is_flag=True, help="Make each line of the text a job of its own, except blank ones.")
@click.option("--wait", "wait_s", metavar="SECONDS", type=float, default=0, help="Wait for room in the queue [0].")
@options.JSON
def enqueue(
    text: str | None,
    path: Path | None,
    redis_url: str | None,
    lines: bool,  # noqa: FBT001 - click's way
    wait_s: float,
    as_json: bool,  # noqa: FBT001 - click's way
    **chosen: Any,  # noqa: ANN401 - the speech's options
) -> None:
    """Enqueue TEXT (or - for stdin) and print the job's id.

    \b
    voxspool enqueue "Hello there."
    voxspool enqueue --file chapter.txt --priority batch --job-id chapter-1
    voxspool enqueue --file sentences.txt --lines --wait 600
    """
    if lines and chosen.get("id") is not None:
        raise click.UsageError("--job-id names one job, and --lines enqueues many; give one of the two")
    words = options.read_text(text, path)
    settings = options.settings(redis_url)
    texts = [line for line in words.splitlines() if line.strip()] if lines else [words]
    specs = [options.job_spec(one, settings, chosen) for one in texts]  # refuses a wrong value before Redis is asked
    with options.open_client(settings) as client:
        placed = client.place_many(specs, wait_s=wait_s)
        said = [{"job": one.speech.id, "queue": one.queue, "why": one.why} for one in placed]
        if as_json:
            echo_json(said if lines else said[0])
        else:
            for one in placed:
                echo(one.speech.id)
        for queue in dict.fromkeys(one.queue for one in placed):
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
    """Cancel JOB, or the unfinished chapters of a narration.

    \b
    voxspool cancel JOB

    JOB is the id of a job or of a narration. A waiting job is removed from its queue; a running job stops at its next
    chunk of audio.
    """
    with options.open_client(options.settings(redis_url)) as client:
        try:
            said = client.speech(job).cancel("voxspool cancel")
        except UnknownJobError:
            _cancel_narration(client, job)
            return
    meaning = {"asked": "is running and stops at its next chunk", "cancelled": "is cancelled"}
    echo(f"job {job} {meaning.get(said, f'had ended before: {said}')}")


def _cancel_narration(client: Client, name: str) -> None:
    """Cancel the unfinished chapters of a narration. Raises UnknownJobError if there is no narration of this name."""
    from voxspool.narration.jobs import NarrationJobs

    try:
        stopped = NarrationJobs(client).cancel(name, "voxspool cancel")
    except UnknownJobError:
        raise UnknownJobError(f"there is no job and no narration {name!r}, or it has expired; check the id") from None
    chapters = counted(len(stopped), "chapter")
    echo(f"narration {name}: {chapters} cancelled; the finished audio is kept in the segment store")


def _show_job(client: Client, job: str, *, as_json: bool) -> None:
    """Print the state of a job."""
    speech = client.speech(job)
    state = speech.status()
    end = speech.end() if state.state == STATES[End.type] else None
    if as_json:
        place = speech.queue_place()
        more = {"end": end, "queue_place": place}
        echo_json(dataclasses.asdict(state) | {name: one and dataclasses.asdict(one) for name, one in more.items()})
        return
    echo(f"job {state.id}: {state.state}")
    if state.attempt:
        echo(
            f"  {state.spoken_s:.1f} s spoken, segment {state.segments_done} of {state.segments}, "
            f"attempt {state.attempt}, {state.engine} {state.voice} on {state.worker}"
        )
    elif state.queue:
        echo(f"  in {state.queue}")
        if state.state == "queued":
            _show_place(speech.queue_place())
            Unserved(client).look(state.queue)
    if end and end.chunks:
        echo(f"  {_took(end)}")


def _show_place(place: QueuePlace | None) -> None:
    """Print how many jobs are ahead of a waiting job, and how long it waits, if that can be estimated."""
    if place is None:
        return
    wait = "" if place.wait_s is None else f", about {duration(place.wait_s)}"
    echo(f"  {counted(place.ahead, 'job')} ahead of it{wait}")


def _record(card: WorkerCard) -> tuple[str, ...]:
    """Return a worker's row: name, jobs, time to first audio, speed, cache hits. It fits 80 columns."""
    cached = "-" if card.voice_hit_rate is None else f"{card.voice_hit_rate:.0%}"
    speed = _speed(card.real_time_factor).removesuffix(" real time")
    first = _number(card.first_chunk_s, "s")
    return card.name, str(card.jobs_ended), str(card.jobs_failed), first, speed, cached


def _took(end: End) -> str:
    """Describe the last attempt of a speech: first audio, speed, chunks, source of the voice, faults."""
    again = f", {counted(end.spoken_again, 'segment')} spoken again" if end.spoken_again else ""
    faults = f", {counted(end.faults, 'segment')} still with a fault" if end.faults else ""
    return (
        f"first audio after {_number(end.first_chunk_s, 's')}, {_speed(end.real_time_factor)}, "
        f"{counted(end.chunks, 'chunk')}, voice {end.voice_source}{again}{faults}"
    )


def _number(value: float | None, unit: str) -> str:
    """Return a measurement with its unit; a dash if there is none."""
    return "-" if value is None else f"{value:.3g} {unit}"


def _speed(real_time_factor: float | None) -> str:
    """Return a speed in multiples of real time, or a dash if it was not measured."""
    return real_time(1 / real_time_factor) if real_time_factor else "-"


def _show_all(overview: Overview, *, as_json: bool) -> None:
    """Print the queues, the workers and the running jobs."""
    if as_json:
        echo_json(dataclasses.asdict(overview))
        return
    from rich.console import Console

    console = Console()
    waiting: list[tuple[str, ...]] = [(name, str(count)) for name, count in overview.queues.items()]
    print_table(console, "no waiting jobs", ("queue", "waiting"), waiting)
    for name in overview.paused:
        echo(f"{name} is paused; resume it with: voxspool resume {name}")
    for sentence in overview.spoilt:
        echo(f"{sentence}: another program wrote it; delete or rename this key")
    _show_workers(console, overview.workers)
    print_table(
        console,
        "no running jobs",
        ("job", "engine", "voice", "segments", "spoken"),
        [
            (job.id, job.engine, job.voice, f"{job.segments_done}/{job.segments}", f"{job.spoken_s:.1f} s")
            for job in overview.running
        ],
    )


def _show_workers(console: Console, cards: list[WorkerCard]) -> None:
    """Print the live workers: engine, device and load, then the jobs that they have ended and their speed."""
    print_table(
        console,
        "no live workers",
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
            for card in cards
        ],
    )
    for card in cards:
        if card.fallback_from:
            echo(f"{card.name} speaks with {card.engine} instead of {card.fallback_from}")
    print_table(
        console,
        "no ended jobs yet",
        ("worker", "ended", "failed", "first audio", "speed", "cached"),
        [_record(card) for card in cards if card.jobs_ended or card.jobs_failed],
    )


def print_table(console: Console, none: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows as a table, or each row as a block of lines if the table is too wide. Ids are never cut."""
    from rich.cells import cell_len
    from rich.table import Table

    if not rows:
        console.print(none)
        return
    cells = [tuple(map(printable, row)) for row in rows]
    widths = (max(map(cell_len, column)) for column in zip(columns, *cells, strict=True))
    if sum(widths) + 2 * (len(columns) - 1) > console.width:
        for row in cells:
            for line in _block(columns, row):
                echo(line)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*map(cell, row))
    console.print(table)


def _block(columns: tuple[str, ...], row: tuple[str, ...]) -> list[str]:
    """Return the lines of a row for a narrow terminal: its first cell, and the others below it."""
    first, *others = zip(columns, row, strict=True)
    width = max(len(name) for name in columns[1:])
    return [f"{first[0]} {first[1]}", *(f"  {name:<{width}}  {value}" for name, value in others)]
