"""`voxspool jobs`, `retry` and `delete`: list jobs, try a failed one again, remove every trace of one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from voxspool.amounts import duration
from voxspool.cli import options
from voxspool.cli.jobs import print_table
from voxspool.display import echo, echo_json
from voxspool.errors import UnknownJobError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxspool.queue.job_list import ListedJob


@click.command()
@click.option("--waiting", "kinds", flag_value="waiting", multiple=True, help="List the jobs that wait.")
@click.option("--running", "kinds", flag_value="running", multiple=True, help="List those that are spoken.")
@click.option("--failed", "kinds", flag_value="failed", multiple=True, help="List those that failed or were cancelled.")
@click.option("--ended", "kinds", flag_value="ended", multiple=True, help="List those that ended.")
@options.JSON
@options.REDIS
def jobs(kinds: Sequence[str], as_json: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """List jobs with queue and age, and why they wait or failed.

    \b
    voxspool jobs
    voxspool jobs --waiting --failed
    voxspool jobs --failed --json

    Without an option it lists all. A job that is over is listed as long as its audio lives.
    """
    with options.open_client(options.settings(redis_url)) as client:
        found = client.jobs(*kinds)
    if as_json:
        echo_json([dataclasses.asdict(one) for one in found])
        return
    from rich.console import Console

    print_table(Console(), "no jobs", ("job", "state", "queue", "age", "reason"), [_row(one) for one in found])


@click.command()
@click.argument("job")
@options.REDIS
def retry(job: str, redis_url: str | None) -> None:
    """Enqueue JOB again, which failed or was cancelled, under its id.

    \b
    voxspool retry JOB
    """
    with options.open_client(options.settings(redis_url)) as client:
        client.retry(job)
    echo(f"job {job} is enqueued again")


@click.command()
@click.argument("job", nargs=-1, required=True, metavar="JOB...")
@options.REDIS
def delete(job: Sequence[str], redis_url: str | None) -> None:
    """Delete every trace of each JOB: audio, state, text. A running job is cancelled first.

    \b
    voxspool delete JOB
    voxspool delete JOB OTHER-JOB
    """
    missing = []
    with options.open_client(options.settings(redis_url)) as client:
        for one in job:
            try:
                client.speech(one).delete("voxspool delete")
            except UnknownJobError as error:
                missing.append(error)
            else:
                echo(f"job {one} is deleted")
    if missing:
        raise missing[0]


def _row(job: ListedJob) -> tuple[str, ...]:
    """Return the cells of a job."""
    return job.id, job.state, job.queue or "-", "-" if job.age_s is None else duration(job.age_s), job.reason
