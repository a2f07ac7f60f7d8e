"""Overload: paused queues, a full Redis, too long queues, an endless speech, and workers that use too much memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.faults import FAULTY
from tests.support.oracle import Expected, check_jobs, whole
from tests.support.processes import clean_env, until
from tests.support.reference import SENTENCE, tone
from voxspool import BusyError, DeadlineError, UnknownQueueError
from voxspool.protocol import keys
from voxspool.protocol.jobs import MAX_KEEP_S, JobSpec
from voxspool.queue.admission import MAX_WAITING
from voxspool_worker.engines.base import AudioChunk
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.cancellation import CancelToken
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration.speech_cache import SpeechCache
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.queue.rq_records import RqRecords
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.scheduler import Scheduler
from voxspool_worker.speech.speech_job import SpeechJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

LIVE = "sine-live"


# Paused queues


def test_jobs_of_a_paused_queue_wait_while_other_queues_are_served(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    assert sorted(client.pause("batch")) == client.paused()
    waits = client.enqueue(SENTENCE, priority="batch", id="waits")
    client.enqueue(SENTENCE, id="goes").wait(timeout_s=20)
    with pytest.raises(DeadlineError, match="it is queued"):
        waits.wait(timeout_s=2)
    assert client.overview().paused == client.paused()
    client.resume("voxspool-auto-batch")
    waits.wait(timeout_s=20)
    check_jobs(db, {"waits": Expected(tone(SENTENCE)), "goes": Expected(tone(SENTENCE))})
    client.resume()
    assert client.paused() == []


def test_a_worker_beside_a_paused_queue_starts_jobs_of_other_queues_at_once(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    client.pause("voxspool-auto-batch")
    client.enqueue(SENTENCE, priority="batch", id="waits")
    commands = db.info("stats")["total_commands_processed"]
    with pytest.raises(DeadlineError):
        client.speech("waits").wait(timeout_s=2)
    assert db.info("stats")["total_commands_processed"] - commands < 200, "the worker does not poll continuously"
    client.enqueue(SENTENCE, id="goes").wait(timeout_s=20)
    assert client.speech("waits").cancel() == "cancelled", "a job in a paused queue can be cancelled"


def test_a_running_job_of_a_paused_queue_continues(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    next(iter(speech))
    client.pause()
    speech.wait(timeout_s=20)
    check_jobs(db, {speech.id: Expected(tone(SENTENCE))})


def test_commands_pause_and_resume_queues(client: Client, run_cli: RunCli) -> None:
    said = run_cli("pause", "batch", "tone").stdout.decode()
    assert sorted(said.splitlines()) == [f"paused {name}" for name in client.paused()]
    assert "voxspool-tone-interactive" in client.paused()
    shown = run_cli("status").stdout.decode()
    assert "voxspool-auto-batch is paused; resume it with: voxspool resume voxspool-auto-batch" in shown
    assert json.loads(run_cli("status", "--json").stdout)["paused"] == client.paused()
    waits = run_cli("enqueue", "Hello.", "--priority", "batch")
    assert b"voxspool-auto-batch is paused; the job waits" in waits.stderr
    refused = run_cli("pause", "bach")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b'Error: there is no queue "bach" (did you mean batch')
    assert run_cli("resume").returncode == 0
    assert client.paused() == []
    with pytest.raises(UnknownQueueError):
        client.resume("nothing")


# Admission


def test_a_client_refuses_a_job_with_a_retry_time_if_redis_is_nearly_full(
    client: Client, db: redis.Redis, run_cli: RunCli, redis_server: RedisServer
) -> None:
    db.setrange("ballast", 20_000_000, b"x")
    db.expire("ballast", 100)
    db.config_set("maxmemory", round(db.info("memory")["used_memory"] / 0.9))
    db.config_set("hz", 100)
    until(lambda: db.info("keyspace")["db0"]["avg_ttl"] > 0, "Redis to know the mean lifetime of its keys")
    with pytest.raises(
        BusyError, match=r"^busy \(Redis has \d+ MB in use of \d+ MB\); try again in about \d+ s$"
    ) as busy:
        client.enqueue(SENTENCE, priority="batch")
    assert 1 <= busy.value.retry_after_s <= 200
    assert not db.keys("rq:job:*"), "nothing was enqueued"
    client.enqueue(SENTENCE)  # interactive jobs have a higher limit than batch jobs
    db.config_set("maxmemory", db.info("memory")["used_memory"])
    refused = run_cli("enqueue", "Hello.")
    assert refused.returncode == 1
    assert refused.stderr.startswith(b"Error: busy (")
    db.delete("ballast")
    assert run_cli("enqueue", "Hello.").returncode == 0
    assert redis_server.answers()


def test_a_job_that_a_full_redis_refuses_raises_busy_error(client: Client, db: redis.Redis) -> None:
    client.enqueue(SENTENCE)  # reads the memory use of Redis, which the client caches for a second
    db.config_set("maxmemory", db.info("memory")["used_memory"] // 2)
    with pytest.raises(BusyError, match="try again in about") as busy:
        client.enqueue(SENTENCE, id="late")
    assert busy.value.retry_after_s > 0
    assert not db.exists("rq:job:late")


def test_a_client_refuses_a_job_if_its_queue_is_too_long(client: Client, db: redis.Redis) -> None:
    db.rpush("rq:queue:voxspool-auto-batch", *range(MAX_WAITING))
    with pytest.raises(BusyError, match=f"{MAX_WAITING:,} jobs wait already"):
        client.enqueue(SENTENCE, priority="batch")
    client.enqueue(SENTENCE, priority="interactive")


def test_a_worker_that_starts_while_redis_is_full_waits_for_room(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    db.config_set("maxmemory", 1)
    worker = start_worker(wait=False)
    until(lambda: "redis.full" in worker.said(), "the worker to notice the full Redis")
    db.config_set("maxmemory", 0)
    speech.wait(timeout_s=20)
    check_jobs(db, {speech.id: Expected(tone(SENTENCE))})


# Lifetimes of streams and limits of speeches


def test_the_keys_of_a_running_job_have_a_maximum_lifetime(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE, keep_s=60)
    next(iter(speech))
    for key in (keys.audio(speech.id), keys.control(speech.id)):
        until(lambda key=key: db.ttl(key) > 0, "the worker's next heartbeat")
        assert MAX_KEEP_S - 60 < db.ttl(key) <= MAX_KEEP_S
    speech.wait()
    for key in (keys.audio(speech.id), keys.control(speech.id)):
        assert 0 < db.ttl(key) <= 60


class EndlessEngine(ToneEngine):
    """An engine that never ends a segment."""

    def step(self) -> list[AudioChunk]:
        rows = [row.segment for row in self._rows]
        return [AudioChunk(one.job, one.index, np.zeros(24_000, np.int16), last=False) for one in rows]


def test_an_endless_speech_fails_at_the_maximum_length_for_its_text(
    client: Client, db: redis.Redis, tmp_path: Path
) -> None:
    speech = client.enqueue("Hello.", id="endless")
    claim = RqRecords(lambda **_: db, "w").claim(["voxspool-auto-interactive"], "run")
    assert claim
    engine = EndlessEngine()
    scheduler = Scheduler(engine)
    thread = threading.Thread(target=scheduler.run, args=(lambda: None,), daemon=True)
    thread.start()
    spec = speech.spec()
    assert isinstance(spec, JobSpec)
    pipeline = Pipeline(engine, db, "w")
    job = pipeline.prepare(spec, claim.run, CancelToken(60))
    with pytest.raises(SpeechGivenUpError, match="longer than 72 s, the limit for 6 characters") as failed:
        pipeline.run(job, SpeechJob(engine, scheduler, Metrics(), SpeechCache(engine, StoreHandle(tmp_path), "w")))
    scheduler.stop()
    thread.join(10)
    assert failed.value.code == "too-long"
    assert int(db.hget(keys.control("endless"), "pos")) == 72 * 24_000
    assert db.hget(keys.control("endless"), "state") == b"failed"


# Memory limit and health of the worker process


def test_a_worker_above_its_memory_limit_exits_between_jobs(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker("tone", program=FAULTY, environ={"VOXSPOOL_WORKER_MEMORY_MB": "500"})
    texts = {"swells": "Now let it swell.", "neighbour": SENTENCE * 12}
    for job, text in texts.items():
        client.enqueue(text, id=job, voice=LIVE)
    assert worker.wait() == 75
    assert re.search(r"worker\.grown .* memory_mb=\d+ limit_mb=500", worker.said())
    check_jobs(db, whole(texts))
    assert db.smembers(keys.WORKERS) == set()


def test_a_worker_whose_memory_limit_is_too_low_does_not_start_and_says_so(start_worker: StartWorker) -> None:
    worker = start_worker(environ={"VOXSPOOL_WORKER_MEMORY_MB": "1"}, wait=False)
    assert worker.wait() == 2
    assert "Error: VOXSPOOL_WORKER_MEMORY_MB is 1, but this worker uses" in worker.said()
    assert "Traceback" not in worker.said()


def health(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `voxspool-worker health` for the workers whose health files are in a folder."""
    command = [sys.executable, "-m", "voxspool_worker", "health"]
    environ = clean_env() | {"VOXSPOOL_HEALTH_DIR": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def test_the_health_command_tells_whether_workers_are_healthy(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    folder = tmp_path / "health"
    assert health(folder).returncode == 1, "there is no worker"
    worker = start_worker()
    until(lambda: list(folder.glob("*.worker")), "the first health file")
    client.enqueue(SENTENCE).wait()
    said = health(folder)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith(f"ok    tone (process {worker.process.pid}): ")
    (file,) = folder.glob("*.worker")
    sign = json.loads(file.read_text())
    worker.process.send_signal(signal.SIGSTOP)
    file.write_text(json.dumps(sign | {"at": sign["at"] - 31}))  # as after 31 s in which the process was stopped
    said = health(folder)
    assert said.returncode == 1
    assert said.stdout.startswith("MISS  tone")
    worker.process.send_signal(signal.SIGCONT)
    until(lambda: health(folder).returncode == 0, "the worker to be healthy again")
    worker.process.send_signal(signal.SIGTERM)
    worker.wait()
    assert not folder.exists()


def test_a_worker_without_redis_reports_that_it_is_healthy(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    def at_s() -> float:
        """Return the time of the latest health file."""
        (file,) = (tmp_path / "health").glob("*.worker")
        return float(json.loads(file.read_text())["at"])

    worker = start_worker()
    until(lambda: list((tmp_path / "health").glob("*.worker")), "the first health file")
    redis_server.stop()
    until(lambda: "redis.away" in worker.said(), "the worker to notice the outage")
    lost_at_s = at_s()
    until(lambda: at_s() > lost_at_s + 6, "two more updates of the health file")


def test_a_worker_warms_up_its_engine_before_the_first_job(start_worker: StartWorker) -> None:
    assert "warm_s=" in start_worker().said()
