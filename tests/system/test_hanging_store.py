"""A segment store that does not answer: chapters end with the reason, speeches go on, and the worker can be stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import hanging_store
from tests.support.narrated import book_of, narrate, place
from tests.support.processes import until
from tests.support.reference import SENTENCE
from voxspool import SpeechFailedError
from voxspool.store.segments import Store
from voxspool_worker.queue.lifecycle import EXIT_ENGINE_LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

PROGRAM = (str(Path(hanging_store.__file__)),)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    """The file whose presence says that the disk of the store is gone."""
    return tmp_path / "gone"


@pytest.fixture
def worker(start_worker: StartWorker, gone: Path) -> WorkerProcess:
    return start_worker("tone", program=PROGRAM, environ={"HANGING_STORE": str(gone)})


def test_a_chapter_fails_with_the_reason_speeches_go_on_and_the_next_chapter_is_spoken_when_it_is_back(
    client: Client, worker: WorkerProcess, store: Store, gone: Path
) -> None:
    narrate(client, place(client, store, "before", book_of(2)))
    gone.touch()
    place(client, store, "during", book_of(3, first=10))
    client.enqueue("Nobody waits for the store.", reuse=True).wait(timeout_s=20)
    with pytest.raises(SpeechFailedError) as failed:
        client.speech("during").wait(timeout_s=90)
    assert failed.value.code == "store"
    assert "has not answered for" in str(failed.value)
    assert worker.process.poll() is None
    assert "worker.hangs" not in worker.said()
    client.enqueue(SENTENCE).wait(timeout_s=20)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_worker_whose_store_hangs_ends_when_it_is_told_to(
    client: Client, worker: WorkerProcess, store: Store, gone: Path, signals: int
) -> None:
    gone.touch()
    place(client, store, "waits", book_of(3))
    until(lambda: client.speech("waits").status().state != "queued", "the chapter to begin")
    for _ in range(signals):
        os.kill(worker.process.pid, signal.SIGTERM)
        until(lambda: "worker.stopping" in worker.said(), "the worker to stop")
    assert worker.process.wait(15) == 0
    assert client.speech("waits").status().state in {"queued", "started"}
    gone.unlink()


def test_two_signals_end_a_worker_whose_main_thread_hangs(start_worker: StartWorker, gone: Path) -> None:
    gone.touch()
    worker = start_worker("tone", program=PROGRAM, environ={"HANGING_STORE": str(gone)}, wait=False)
    until(lambda: "hanging" in worker.said(), "the main thread to hang")
    os.kill(worker.process.pid, signal.SIGTERM)
    until(lambda: worker.process.poll() is not None or os.kill(worker.process.pid, signal.SIGTERM), "the end")
    assert worker.process.wait(30) == EXIT_ENGINE_LOST
    assert "worker.forced" in worker.said()
