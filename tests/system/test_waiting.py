"""A reader of a job that no live worker serves warns after two seconds, in Python and on the command line."""

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

AFTER_SECOND_CHECK_S = 8.0
"""A time after the second check for a worker, in seconds: the checks are at 2 s and 7 s."""


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yield a list of the texts of all NoWorkerWarnings, complete after the block. Other warnings are errors."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("error")
        warnings.simplefilter("always", NoWorkerWarning)
        yield texts
    texts += [str(warning.message) for warning in given]
    assert {warning.filename for warning in given} <= {__file__}


def test_a_reader_warns_once_if_no_worker_serves_the_queue(client: Client, redis_server: RedisServer) -> None:
    speech = client.enqueue(SENTENCE, engine="piper")
    with collected_warnings() as texts, pytest.raises(DeadlineError):
        speech.wait(timeout_s=AFTER_SECOND_CHECK_S)
    assert texts == [
        (
            "no live worker serves the queue voxspool-piper-interactive; the job waits. "
            f"Start one: voxspool-worker run --engine piper --redis {redis_server.url}"
        )
    ]


def test_a_reader_warns_after_two_seconds(client: Client) -> None:
    speech = client.enqueue(SENTENCE)
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoWorkerWarning)
        with pytest.raises(NoWorkerWarning):
            speech.wait()
    assert 1.9 <= time.monotonic() - began < 20, "a busy machine may be late"


def test_an_asyncio_reader_warns_once_and_does_not_block_its_event_loop(
    client: Client, redis_server: RedisServer
) -> None:
    speech = client.enqueue(SENTENCE)

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)  # the number of ticks shows whether the event loop is blocked

    async def read() -> None:
        async with AsyncClient(settings=Settings(redis_url=redis_server.url)) as reading:
            beside = asyncio.create_task(tick())
            with pytest.raises(DeadlineError):
                await reading.speech(speech.id).wait(timeout_s=AFTER_SECOND_CHECK_S)
            beside.cancel()

    ticks: list[float] = []
    with collected_warnings() as texts:
        asyncio.run(read())
    assert len(texts) == 1
    assert "no live worker serves the queue voxspool-auto-interactive" in texts[0]
    assert len(ticks) > AFTER_SECOND_CHECK_S * 10


def test_the_warning_for_a_paused_queue_names_the_command_that_resumes_it(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker()
    client.pause("auto")
    speech = client.enqueue(SENTENCE)
    with collected_warnings() as texts, pytest.raises(DeadlineError):
        speech.wait(timeout_s=4)
    assert texts == [
        (
            "the queue voxspool-auto-interactive is paused; the job waits. "
            "Let it go on: voxspool resume voxspool-auto-interactive"
        )
    ]


def test_waiting_for_a_busy_worker_gives_no_warning(client: Client, start_worker: StartWorker) -> None:
    start_worker("tone", "--jobs", "1")
    first = client.enqueue(SENTENCE * 2, voice="sine-live")
    second = client.enqueue(SENTENCE)
    with collected_warnings() as texts:
        assert b"".join(chunk.pcm for chunk in second) == tone(SENTENCE)
        first.wait()
    assert texts == []


def test_a_reader_warns_if_the_only_worker_dies_and_waits_without_a_deadline(
    client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker("tone", "--jobs", "1")
    client.enqueue(SENTENCE * 40, voice="sine-live")
    until(lambda: client.workers()[0].running == 1, "the first job to start")
    speech = client.enqueue(SENTENCE)
    worker.kill()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoWorkerWarning)
        with pytest.raises(NoWorkerWarning, match="no live worker serves"):
            speech.wait()
    start_worker()
    assert b"".join(chunk.pcm for chunk in speech) == tone(SENTENCE)


def test_the_command_prints_the_notice_once_and_no_python_warning(
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
