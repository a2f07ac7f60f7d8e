"""Routing of jobs to engines: at enqueueing, without a worker of the engine, after the start, and with a fallback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import clean_env, until
from tests.support.queued_jobs import begin, put, waiting, write_card
from tests.support.reference import SENTENCE, tone
from voxspool import SpeechFailedError
from voxspool.protocol.jobs import JobSpec, queue_name
from voxspool.protocol.stream import Begin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client, Speech

    Cli = Callable[..., subprocess.CompletedProcess[bytes]]
    StartWorker = Callable[..., WorkerProcess]

AUTO, PIPER, TONE, XTTS = (queue_name(engine, "interactive") for engine in ("auto", "piper", "tone", "xtts"))
LIVE = "sine-live"
NO_XTTS = {"VOXSPOOL_XTTS_DIR": "/nonexistent"}
NO_PIPER = {"VOXSPOOL_PIPER_VOICES": "/nonexistent"}


def samples_of(speech: Speech) -> bytes:
    """Return all samples of a speech."""
    return b"".join(chunk.pcm for chunk in speech)


def begins(speech: Speech) -> list[tuple[str, int]]:
    """Return engine and sample rate of each begin entry of a speech."""
    return [
        (entry.engine, entry.sample_rate) for entry in (one.entry for one in speech.entries()) if type(entry) is Begin
    ]


# The choice of a queue


def test_enqueue_shows_the_chosen_queue_and_options_override_it(client: Client, db: redis.Redis, run_cli: Cli) -> None:
    write_card(db, "piper", {"joe": ["en-us"]})
    write_card(db, "xtts", {"ana": ["en", "de"]})

    def enqueue(*arguments: str) -> tuple[str, str]:
        """Enqueue a job with the command, and return its queue and the reason for it."""
        done = run_cli("enqueue", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert waiting(db, said["queue"])[-1] == said["job"]
        return said["queue"], said["why"]

    assert enqueue("Hello.") == (PIPER, "it is interactive and has at most 200 characters")
    assert enqueue("x" * 201)[0] == XTTS
    assert enqueue("Hello.", "--priority", "batch")[0] == queue_name("xtts", "batch")
    assert enqueue("Hello.", "--language", "de") == (XTTS, "only one live engine can speak it")
    assert enqueue("Hello.", "--engine", "xtts") == (XTTS, "it names an engine")
    spec = client.speech(waiting(db, PIPER)[0]).spec()
    assert spec is not None
    assert spec.engine == "auto", "the job keeps the requested engine"


def test_a_job_enqueued_again_stays_in_its_queue(client: Client, db: redis.Redis) -> None:
    spec = JobSpec("Hello.", id="once")
    assert client.place(spec).queue == AUTO
    write_card(db, "piper", {"joe": ["en-us"]})
    write_card(db, "tone", {"sine": []})
    assert {info.engine for info in client.workers()} == {"piper", "tone"}
    assert client.place(JobSpec("Hello.", id="another")).queue == PIPER
    again = client.place(spec)
    assert (again.queue, again.why) == (AUTO, "a job with this id exists already")
    assert waiting(db, PIPER) == ["another"]


def test_a_job_without_an_engine_is_spoken_by_piper_not_by_tone(client: Client, start_worker: StartWorker) -> None:
    start_worker("tone")
    start_worker("piper")
    speeches = [client.enqueue("Good morning.") for _ in range(3)]
    for speech in speeches:
        speech.wait()
        assert [engine for engine, _ in begins(speech)] == ["piper"]


def test_a_stopping_worker_is_ignored_when_a_queue_is_chosen(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    running = client.enqueue(SENTENCE * 9, voice=LIVE)
    next(iter(running))
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: [info.queues for info in client.workers()] == [[]], "the worker's record to list no queue")
    assert client.place(JobSpec("Hello.")).why == "no worker is live"
    assert client.serving(AUTO) == []


# Jobs in the queue of an engine without a worker


def test_another_engine_speaks_the_jobs_of_an_engine_without_worker_unless_they_need_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    for job in ("one", "two", "three"):
        put(db, XTTS, job)
    put(db, XTTS, "named", engine="xtts")
    put(db, XTTS, "cloned", voice="anna")
    worker = start_worker("tone", "--jobs", "1")
    for job in ("one", "two", "three"):
        assert samples_of(client.speech(job)) == tone(SENTENCE)
        assert client.speech(job).status().queue == AUTO
    said = worker.said()
    assert [said.index(f"job.begin job={job} ") for job in ("one", "two", "three")] == sorted(
        said.index(f"job.begin job={job} ") for job in ("one", "two", "three")
    ), "the jobs keep their order"
    assert waiting(db, XTTS) == ["named", "cloned"]
    assert client.speech("named").status().queue == XTTS


# Started jobs


def test_a_started_job_is_passed_on_to_the_engine_that_started_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    put(db, AUTO, "tones")
    begin(db, AUTO)
    piper = start_worker("piper")
    until(lambda: f"job.passed_on job=tones to={TONE}" in piper.said(), "the Piper worker to pass the job on")
    assert (waiting(db, AUTO), waiting(db, TONE)) == ([], ["tones"])
    assert (client.speech("tones").status().state, client.speech("tones").status().queue) == ("queued", TONE)
    start_worker("tone")
    assert samples_of(client.speech("tones")) == tone(SENTENCE)
    assert begins(client.speech("tones")) == [("tone", 24_000)] * 2


def test_the_job_of_a_killed_worker_is_finished_by_the_same_engine(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    victim = start_worker("tone")
    speech = client.enqueue(SENTENCE * 3, voice=LIVE)
    next(iter(speech))
    victim.process.kill()
    victim.wait()
    piper = start_worker("piper")
    until(lambda: f"job.passed_on job={speech.id}" in piper.said(), "the Piper worker to pass the job on")
    start_worker("tone")
    assert samples_of(speech) == tone(SENTENCE * 3)
    assert begins(speech) == [("tone", 24_000)] * 2
    until(lambda: not db.keys("rq:wip:*"), "all leases to be released")
    assert db.keys("rq:queue:voxspool-*") == []


# Jobs that the claiming worker cannot speak


def test_a_job_whose_voice_a_worker_lacks_is_passed_on_to_an_engine_that_has_it(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    write_card(db, "tone", {"sine": []})
    put(db, AUTO, "sines", voice="sine")
    piper = start_worker("piper")
    until(lambda: "job.passed_on job=sines" in piper.said(), "the job to be passed on")
    assert waiting(db, TONE) == ["sines"]
    assert client.speech("sines").status().queue == TONE
    start_worker("tone")
    assert samples_of(client.speech("sines")) == tone(SENTENCE)
    assert client.speech("sines").status().attempt == 1


def test_a_job_with_a_voice_that_no_engine_has_fails(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    write_card(db, "xtts", {"ana": ["en"]})
    put(db, AUTO, "nobodys", voice="nobody")
    start_worker("tone")
    with pytest.raises(SpeechFailedError, match="has no voice 'nobody'") as failed:
        client.speech("nobodys").wait(timeout_s=20)
    assert failed.value.code == "unknown-voice"


def test_a_job_in_the_wrong_queue_is_passed_on_to_the_engine_that_it_names(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    put(db, AUTO, "astray", engine="tone")
    write_card(db, "tone", {"sine": []})
    piper = start_worker("piper")
    until(lambda: "job.passed_on job=astray" in piper.said(), "the job to be passed on")
    assert waiting(db, TONE) == ["astray"]
    assert client.speech("astray").status().state == "queued"


def test_a_started_job_with_another_sample_rate_fails(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    put(db, TONE, "slow")
    begin(db, TONE, sample_rate=16_000)
    start_worker("tone")
    with pytest.raises(SpeechFailedError, match="began at 16000 Hz") as failed:
        client.speech("slow").wait(timeout_s=20)
    assert failed.value.code == "engine"
    assert begins(client.speech("slow"))[0] == ("tone", 16_000)


# Fallback to Piper


def check(redis_server: RedisServer, **environ: str) -> tuple[int, str]:
    """Run `voxspool-worker check` for XTTS without a checkpoint, and return its exit code and output."""
    command = [sys.executable, "-m", "voxspool_worker", "check", "--redis", redis_server.url]
    environment = clean_env() | {"VOXSPOOL_WORKER_ENGINE": "xtts"} | NO_XTTS | environ
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    return done.returncode, done.stdout.decode()


def test_a_worker_without_xtts_falls_back_to_piper_and_reports_it(
    client: Client, start_worker: StartWorker, run_cli: Cli
) -> None:
    worker = start_worker("xtts", environ=NO_XTTS)
    assert "ERROR engine.fallback wanted=xtts error=" in worker.said()
    assert "serving=piper" in worker.said()
    (info,) = client.workers()
    assert (info.engine, info.fallback_from.partition(": ")[0]) == ("piper", "xtts")
    assert info.fallback_from.partition(": ")[2] in worker.said(), "the log has the same reason"
    client.enqueue("Good morning.").wait()
    assert f"{worker.name} speaks with piper instead of xtts: " in run_cli("status").stdout.decode()
    assert json.loads(run_cli("status", "--json").stdout)["workers"][0]["fallback_from"] == info.fallback_from


def test_a_job_that_names_xtts_does_not_run_on_a_worker_that_fell_back(
    client: Client, start_worker: StartWorker, run_cli: Cli
) -> None:
    start_worker("xtts", environ=NO_XTTS)
    done = run_cli("enqueue", "--engine", "xtts", "--job-id", "waits", "Good morning.")
    assert f"no live worker serves the queue {XTTS}" in done.stderr.decode()
    client.enqueue("Good morning.").wait()
    assert client.speech("waits").status().state == "queued"


def test_a_worker_without_xtts_and_piper_exits_with_the_error_of_xtts(
    start_worker: StartWorker, redis_server: RedisServer
) -> None:
    worker = start_worker("xtts", wait=False, environ=NO_XTTS | NO_PIPER)
    assert worker.wait() == 2
    line = worker.said().strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert "PIPER" not in line
    assert line.removeprefix("Error: ") in check(redis_server)[1]


def test_check_reports_the_fallback_and_fails_only_without_one(redis_server: RedisServer) -> None:
    code, said = check(redis_server)
    assert code == 0
    (line,) = (line for line in said.splitlines() if line[6:].startswith("xtts"))
    assert line.startswith("note")
    assert line.endswith("until then `voxspool-worker run` speaks with piper instead")
    code, said = check(redis_server, **NO_PIPER)
    assert code == 1
    assert [line[:4] for line in said.splitlines() if line[6:].startswith(("xtts", "piper"))] == ["MISS", "note"]


def test_a_private_worker_that_fell_back_raises_an_error(tmp_path: Path) -> None:
    program = "from voxspool.embedded import Embedded\nwith Embedded('xtts'): pass"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=clean_env() | NO_XTTS, timeout=60, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"EmbeddedError: the private worker speaks with piper instead of xtts: " in done.stderr
