"""Running, stopping and handing back jobs in threads, with the engine tone and a real Redis."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis
from rq.job import JobStatus

from tests.support.queued_jobs import claim, enqueue, fetch, records_of, waiting
from voxspool.protocol import keys
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.queue.capacity import Capacity
from voxspool_worker.queue.job_runner import JobRunner
from voxspool_worker.queue.lifecycle import Lifecycle
from voxspool_worker.queue.outcomes import Outcomes
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.scheduler import Scheduler
from voxspool_worker.speech.speech_job import SpeechJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.queue.job_spec import ClaimedJob

WAIT_S = 10.0


class Runner(JobRunner):
    """A runner with a running engine. While `gate` is cleared, its jobs wait before their first segment."""

    def __init__(self, db: redis.Redis) -> None:
        engine, metrics, lifecycle = ToneEngine(), Metrics(), Lifecycle()
        self.scheduler = Scheduler(engine)
        threading.Thread(target=self.scheduler.run, args=(lifecycle.lose_engine,), daemon=True).start()
        self.gate = threading.Event()
        self.gate.set()
        self.capacity = Capacity(2, lifecycle.wake_up)
        self.released: list[JobExecution] = []
        self.completed = threading.Event()
        self.records = records_of(db)
        pipeline = Pipeline(engine, db, "w")
        super().__init__(
            pipeline, GatedSpeech(engine, self.scheduler, metrics, self.gate), None,  # type: ignore[arg-type] # no chapter here
            Outcomes(self.records, pipeline, self.capacity, metrics, lifecycle), self.capacity, metrics, lifecycle,
            on_completed=self.completed.set, release=self.released.append, redis_away=lambda *_: None,
        )  # fmt: skip

    def begin(self, db: redis.Redis) -> ClaimedJob:
        """Enqueue, claim and start one job."""
        enqueue(db, "a-job")
        claimed = claim(self.records)
        assert self.capacity.wait_until_open()
        self.start(claimed)
        return claimed


class GatedSpeech(SpeechJob):
    """A speech whose jobs wait for a gate, and check their cancel token while they wait."""

    def __init__(self, engine: ToneEngine, scheduler: Scheduler, metrics: Metrics, gate: threading.Event) -> None:
        super().__init__(engine, scheduler, metrics, None)  # type: ignore[arg-type] # no job here reuses segments
        self._gate = gate

    def speak(self, job, segments) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        while not self._gate.wait(0.005):
            job.token.check()
        super().speak(job, segments)


@pytest.fixture
def runner(db: redis.Redis) -> Iterator[Runner]:
    one = Runner(db)
    yield one
    one.scheduler.stop()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_job_is_spoken_and_its_place_is_free_again(db: redis.Redis, runner: Runner) -> None:
    runner.begin(db)
    until(lambda: not runner.running())
    assert fetch(db, "a-job").get_status() is JobStatus.FINISHED
    assert db.hget(keys.control("a-job"), "state") == b"ended"
    assert runner.completed.is_set()
    assert runner.capacity._running == {"interactive": 0, "batch": 0}


@pytest.mark.parametrize("wanted", ["a-job", "a-run"])
def test_a_job_is_stopped_by_its_id_and_by_that_of_its_execution(db: redis.Redis, runner: Runner, wanted: str) -> None:
    runner.gate.clear()
    runner.begin(db)
    for other in (None, 7, "another-job"):
        runner.stop(other)
    assert len(runner.running()) == 1
    runner.stop(wanted)
    until(lambda: not runner.running())
    assert fetch(db, "a-job").get_status() is JobStatus.STOPPED


def test_jobs_that_are_handed_back_wait_at_the_front_of_their_queue(db: redis.Redis, runner: Runner) -> None:
    runner.gate.clear()
    runner.begin(db)
    enqueue(db, "another")
    runner.ask_back()
    assert runner.wait_until_back(time.monotonic() + WAIT_S) == []
    assert waiting(db) == ["a-job", "another"]


def test_a_job_whose_thread_does_not_end_is_returned(
    db: redis.Redis, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()
    monkeypatch.setattr(GatedSpeech, "speak", lambda *_: leave.wait(WAIT_S))
    claimed = runner.begin(db)
    runner.ask_back()
    assert runner.wait_until_back(time.monotonic() + 0.05) == [claimed.run]
    leave.set()
    until(lambda: not runner.running())


def test_a_run_that_lost_redis_is_released(db: redis.Redis, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object) -> None:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(GatedSpeech, "speak", lose)
    claimed = runner.begin(db)
    until(lambda: not runner.running())
    assert runner.released == [claimed.run]
