"""Who waits for a job that no live worker takes is told so after two seconds, in Python and by the command."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import clean_env, until
from tests.support.reference import SENTENCE, tone
from voxspool import AsyncClient, DeadlineError, NoWorkerWarning, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

SECOND_LOOK_S = 8.0
"""Past the first look for a worker, at 2 s, and past the second, at 7 s."""


@contextmanager
def noted() -> Iterator[list[str]]:
    """Note the texts of the warnings that the code below gives; it reads in this file, and says nothing else."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("error")
        warnings.simplefilter("always", NoWorkerWarning)
        yield texts
    texts += [str(warning.message) for warning in given]
    assert {warning.filename for warning in given} <= {__file__}


def test_a_reader_warns_once_of_a_queue_that_nobody_serves(client: Client, redis_server: RedisServer) -> None:
    speech = client.enqueue(SENTENCE, engine="piper")
    with noted() as texts, pytest.raises(DeadlineError):
        speech.wait(timeout_s=SECOND_LOOK_S)
    assert texts == [
        (
            "no live worker serves the queue voxspool-piper-interactive; the job waits. "
            f"Start one: voxspool-worker run --engine piper --redis {redis_server.url}"
        )
    ]


def test_it_warns_after_two_seconds(client: Client) -> None:
    speech = client.enqueue(SENTENCE)
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoWorkerWarning)
        with pytest.raises(NoWorkerWarning):
            speech.wait()
    assert 1.9 <= time.monotonic() - began < 20, "a machine that is busy may be late"


def test_a_reader_of_asyncio_warns_once_and_does_not_hold_up_its_loop(
    client: Client, redis_server: RedisServer
) -> None:
    speech = client.enqueue(SENTENCE)

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)  # what is measured: how late the loop comes back

    async def read() -> None:
        async with AsyncClient(settings=Settings(redis_url=redis_server.url)) as reading:
            beside = asyncio.create_task(tick())
            with pytest.raises(DeadlineError):
                await reading.speech(speech.id).wait(timeout_s=SECOND_LOOK_S)
            beside.cancel()

    ticks: list[float] = []
    with noted() as texts:
        asyncio.run(read())
    assert len(texts) == 1
    assert "no live worker serves the queue voxspool-auto-interactive" in texts[0]
    assert len(ticks) > SECOND_LOOK_S * 10


def test_a_paused_queue_is_named_with_what_lets_it_go_on(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    client.pause("auto")
    speech = client.enqueue(SENTENCE)
    with noted() as texts, pytest.raises(DeadlineError):
        speech.wait(timeout_s=4)
    assert texts == [
        (
            "the queue voxspool-auto-interactive is paused; the job waits. "
            "Let it go on: voxspool resume voxspool-auto-interactive"
        )
    ]


def test_a_job_that_waits_for_a_busy_worker_or_is_spoken_gives_no_warning(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker("tone", "--jobs", "1")
    first = client.enqueue(SENTENCE * 2, voice="sine-live")
    second = client.enqueue(SENTENCE)
    with noted() as texts:
        assert b"".join(chunk.pcm for chunk in second) == tone(SENTENCE)
        first.wait()
    assert texts == []


def test_a_worker_that_dies_while_a_job_waits_is_missed_and_no_default_deadline_ends_the_wait(
    client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker("tone", "--jobs", "1")
    client.enqueue(SENTENCE * 40, voice="sine-live")
    until(lambda: client.workers()[0].running == 1, "the first job")
    speech = client.enqueue(SENTENCE)
    worker.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoWorkerWarning)
        with pytest.raises(NoWorkerWarning, match="no live worker serves"):
            speech.wait()
    start_worker()
    assert b"".join(chunk.pcm for chunk in speech) == tone(SENTENCE)


def test_the_command_says_it_once_and_gives_no_warning_beside(
    client: Client, redis_server: RedisServer, tmp_path: Path
) -> None:
    speech = client.enqueue(SENTENCE, engine="piper")
    command = [sys.executable, "-m", "voxspool", "follow", speech.id, "--redis", redis_server.url]
    log = tmp_path / "said"
    with log.open("w") as said, subprocess.Popen(command, stderr=said, env=clean_env()) as following:
        until(lambda: "serves" in log.read_text(), "the notice")
        speech.cancel()
        assert following.wait(30) == 1
    lines = [line for line in log.read_text().splitlines() if "serves" in line]
    assert len(lines) == 1
    assert lines[0].startswith("voxspool: no live worker serves the queue voxspool-piper-interactive")
    assert "NoWorkerWarning" not in log.read_text()
