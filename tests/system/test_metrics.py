"""The figures of a worker are correct in the stream, on its card, in its log and in Prometheus."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import socket
import sys
import threading
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import free_port, until
from tests.support.reference import SENTENCE
from voxspool import AsyncClient, SpeechCancelledError, SpeechFailedError
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.stream import Audio, End, Mark
from voxspool_worker.engines.base import AudioChunk, Prepared, SpokenSegment
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.jobs.cancellation import CancelToken
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration.speech_cache import SpeechCache
from voxspool_worker.narration.store_handle import StoreHandle
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.scheduler import Scheduler
from voxspool_worker.speech.speech_job import SpeechJob, segment_seed

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client
    from voxspool.reading.reader import Received
    from voxspool_worker.voices.catalog import Voice

    StartWorker = Callable[..., WorkerProcess]
    Cli = Callable[..., subprocess.CompletedProcess[bytes]]

LIVE: Final = "sine-live"


class Scrape:
    """The metrics of a worker at one moment."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        self.samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels; 0 if there are none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"voxspool_{name}" and labels.items() <= sample.labels.items()
        )


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


def test_the_prometheus_metrics_match_the_streams_of_the_jobs(client: Client, start_worker: StartWorker) -> None:
    unknown = client.enqueue("Hello.", voice="nobody")  # without a worker the client cannot check the voice
    port = free_port()
    start_worker("tone", "--metrics", str(port))
    speeches = [client.enqueue(SENTENCE * count) for count in (1, 2, 3)]
    ends = [speech.wait() for speech in speeches]
    with pytest.raises(SpeechFailedError):
        unknown.wait()
    stopped = client.enqueue(SENTENCE * 9, voice=LIVE)
    next(iter(stopped))
    assert Scrape(port)("jobs_running") == 1
    assert Scrape(port)("rows_in_use") > 0
    stopped.cancel()
    with pytest.raises(SpeechCancelledError):
        stopped.wait()
    until(lambda: Scrape(port)("jobs_total") == 5, "the last run to end")
    until(lambda: Scrape(port)("rows_in_use") == 0, "the rows of the cancelled job to be free")

    entries = [one.entry for speech in (*speeches, stopped) for one in _entries(client, speech.id)]
    audio = [entry for entry in entries if isinstance(entry, Audio)]
    marks = [entry for entry in entries if isinstance(entry, Mark)]
    shown = Scrape(port)
    assert shown("jobs_total", outcome="ended") == 3
    assert shown("jobs_total", outcome="failed", code="unknown-voice") == 1
    assert shown("jobs_total", outcome="cancelled") == 1
    assert shown("chunks_total") == len(audio)
    assert shown("audio_seconds_total") == pytest.approx(sum(len(entry.pcm) for entry in audio) / 48_000)
    assert shown("segments_total") == len(marks)
    assert shown("characters_total") == sum(mark.end - mark.start for mark in marks)
    assert shown("first_chunk_seconds_count") == 4
    assert shown("real_time_factor_count") == 3
    assert shown("real_time_factor_sum") == pytest.approx(sum(end.real_time_factor or 0 for end in ends))
    assert shown("voices_ready_total", source="built-in") == shown("voices_ready_total") == 4
    assert shown("segments_spoken_again_total") == shown("segments_faulty_total") == 0
    assert shown("jobs_rescued_total") == shown("redis_outages_total") == 0
    assert (shown("jobs_running"), shown("jobs_limit"), shown("rows_in_use"), shown("rows")) == (0, 32, 0, 8)
    assert shown("engine_row_steps_total") >= shown("engine_steps_total") > 0
    assert shown("engine_busy_seconds_total") > 0
    assert shown("worker_info", engine="tone", model="sine-1", device="cpu") == 1


def _entries(client: Client, job: str) -> list[Received]:
    return list(client.speech(job).entries())


def test_metrics_are_served_on_loopback_only(start_worker: StartWorker) -> None:
    port = free_port()
    start_worker("tone", "--metrics", str(port))
    assert not refused("127.0.0.1", port)
    others = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)}
    if sys.platform == "linux":  # Linux has all of 127/8, so a server on every interface would answer here too
        others.add("127.0.0.2")
    assert all(refused(host, port) for host in others - {"127.0.0.1"})


def test_a_used_port_gives_one_line_before_the_engine_is_loaded(start_worker: StartWorker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        worker = start_worker("tone", "--metrics", str(port), wait=False)
        assert worker.wait() == 1
    (line,) = worker.said().splitlines()
    assert line.startswith(f"Error: metrics cannot be served on 127.0.0.1:{port}: Address already in use; choose ")


def test_a_rescue_and_an_outage_are_counted(
    client: Client, start_worker: StartWorker, redis_server: RedisServer, db: redis.Redis
) -> None:
    first = start_worker()
    speech = client.enqueue(SENTENCE, voice=LIVE)
    next(iter(speech))
    port = free_port()
    worker = start_worker("tone", "--metrics", str(port))
    first.process.kill()
    until(lambda: Scrape(port)("jobs_rescued_total") == 1, "the rescue")
    assert speech.wait().voice_source == "built-in"

    for outage in (1, 2):
        before = worker.said().count("redis.away")
        redis_server.stop()
        until(
            lambda before=before: worker.said().count("redis.away") > before + 3,
            "the worker to report several failed requests",
        )
        redis_server.start()
        until(lambda: db.smembers(keys.WORKERS), "the worker's next heartbeat")
        assert Scrape(port)("redis_outages_total") == outage


def test_the_log_line_of_a_job_has_all_fields_of_its_end_entry(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 3)
    end = speech.wait()
    until(lambda: "job.end " in worker.said(), "the log line")
    lines = [line for line in worker.said().splitlines() if speech.id in line]
    begun, over = lines
    assert f"INFO job.begin job={speech.id} attempt=1 segments={end.segments} voice=sine" in begun
    said = dict(re.findall(r"(\w+)=(\S+)", over))
    measured = {
        name: value for name, value in dataclasses.asdict(end).items() if name not in ("pos", "duration_s", "meta")
    }
    assert {name: said[name] for name in measured} == {name: str(value) for name, value in measured.items()}
    assert float(said["audio_s"]) == pytest.approx(end.duration_s, rel=1e-3)
    assert (said["characters"], said["voice_source"], said["voice_s"]) == (str(len(SENTENCE * 3)), "built-in", "0.0")


def test_an_end_entry_summarises_its_stream(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    received = list(client.enqueue(SENTENCE * 3).entries())
    end = received[-1].entry
    assert isinstance(end, End)
    marks = [one.entry for one in received if isinstance(one.entry, Mark)]
    assert [(mark.tries, mark.fault) for mark in marks] == [(1, "")] * end.segments
    assert end.chunks == sum(isinstance(one.entry, Audio) for one in received)
    assert end.elapsed_s
    assert end.first_chunk_s
    assert end.first_chunk_s < end.elapsed_s
    assert end.real_time_factor == pytest.approx(end.elapsed_s / end.duration_s, rel=2e-3)
    characters = sum(mark.end - mark.start for mark in marks)
    assert end.characters_per_s == pytest.approx(characters / end.elapsed_s, rel=2e-3)
    assert end.rows
    assert 1 <= end.rows <= end.segments
    assert (end.voice_source, end.spoken_again, end.faults) == ("built-in", 0, 0)


def test_a_text_without_words_ends_without_measurements(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    end = client.enqueue("…").wait()
    assert end == End(0, 0.0, 0, None, None, elapsed_s=end.elapsed_s)


def test_status_shows_the_times_of_a_job_and_of_the_last_jobs_of_a_worker(
    client: Client, start_worker: StartWorker, run_cli: Cli
) -> None:
    start_worker()
    assert "no ended jobs yet" in run_cli("status").stdout.decode()
    speech = client.enqueue(SENTENCE)
    end = speech.wait()
    assert speech.end() == end
    shown = run_cli("status", speech.id).stdout.decode()
    took = r"^  first audio after [\d.e-]+ s, [\d.]+x real time, \d+ chunks, voice built-in$"
    assert re.search(took, shown, re.MULTILINE)
    assert json.loads(run_cli("status", speech.id, "--json").stdout)["end"] == dataclasses.asdict(end)

    until(lambda: client.workers()[0].jobs_ended == 1, "the worker's next heartbeat")
    (card,) = client.workers()
    assert (card.jobs_failed, card.spoken_again, card.voice_hit_rate) == (0, 0, None)
    assert card.first_chunk_s == end.first_chunk_s
    assert card.real_time_factor == end.real_time_factor
    (shown_card,) = json.loads(run_cli("status", "--json").stdout)["workers"]
    assert shown_card == dataclasses.asdict(card)
    table = run_cli("status").stdout.decode()
    assert re.search(rf"^{card.name} +1 +0 +[\d.e-]+ s +[\d.]+x +- *$", table, re.MULTILINE)


def test_the_asyncio_client_returns_the_same_end(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE)
    end = speech.wait()

    async def ask() -> End | None:
        async with AsyncClient(client.url) as other:
            return await other.speech(speech.id).end()

    assert asyncio.run(ask()) == end


def test_a_speech_that_has_not_ended_has_no_end(client: Client, start_worker: StartWorker) -> None:
    speech = client.enqueue(SENTENCE, voice=LIVE)
    assert speech.end() is None, "the job is queued"
    start_worker()
    next(iter(speech))
    assert speech.end() is None, "the job is running"
    speech.cancel()
    with pytest.raises(SpeechCancelledError):
        speech.wait()
    assert speech.end() is None, "the job was cancelled"


def test_the_card_of_an_older_worker_is_read(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    name = start_worker().name
    card = db.hgetall(keys.worker(name))
    later = ("jobs_ended", "jobs_failed", "spoken_again", "voice_hit_rate", "first_chunk_s", "real_time_factor")
    db.hset(keys.worker("old"), mapping={key: value for key, value in card.items() if key.decode() not in later})
    db.sadd(keys.WORKERS, "old")
    (old,) = (card for card in client.workers() if card.name == "old")
    assert [getattr(old, field) for field in later] == [0, 0, 0, None, None, None]


class CheckedTone(ToneEngine):
    """The engine tone with given results of the output check, and with a voice that was computed."""

    def __init__(self, spoken: dict[int, SpokenSegment]) -> None:
        super().__init__()
        self.spoken = spoken

    def prepare(self, voice: Voice) -> Prepared:
        del voice
        return Prepared("computed", 1.25)

    def step(self) -> list[AudioChunk]:
        return [
            dataclasses.replace(chunk, spoken=self.spoken.get(chunk.segment)) if chunk.last else chunk
            for chunk in super().step()
        ]


def test_the_result_of_the_output_check_is_in_the_mark_of_its_segment_and_in_the_counts(
    client: Client, db: redis.Redis, tmp_path: Path
) -> None:
    engine, metrics = CheckedTone({1: SpokenSegment(77, 2), 2: SpokenSegment(78, 3, "rate")}), Metrics()
    scheduler = Scheduler(engine)
    thread = threading.Thread(target=scheduler.run, args=(lambda: None,))
    thread.start()
    spec, run = JobSpec(SENTENCE * 5), JobExecution("voxspool-auto-interactive", "", "a-run")
    run = dataclasses.replace(run, job=spec.id)
    db.zadd(run.lease_key, {run.composite: 2**40})
    try:
        pipeline = Pipeline(engine, db, "a-worker")
        cache = SpeechCache(engine, StoreHandle(tmp_path), "a-worker")
        pipeline.run(pipeline.prepare(spec, run, CancelToken(60)), SpeechJob(engine, scheduler, metrics, cache))
    finally:
        scheduler.stop()
        thread.join()
    received = list(client.speech(spec.id).entries())
    marks = [one.entry for one in received if isinstance(one.entry, Mark)]
    said = [(mark.seed, mark.tries, mark.fault) for mark in marks[:4]]
    assert said == [(segment_seed(0, 0), 1, ""), (77, 2, ""), (78, 3, "rate"), (segment_seed(0, 3), 1, "")]
    end = received[-1].entry
    assert isinstance(end, End)
    assert (end.voice_source, end.spoken_again, end.faults) == ("computed", 2, 1)
    counts = metrics.counts()
    assert (counts.spoken_again, counts.faults, counts.voices_s) == (2, {"rate": 1}, {"computed": 1.25})
