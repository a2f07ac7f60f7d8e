"""Speeches that use the segment store, with tone, a real Redis and a real store."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes import until
from tests.support.segments import ControlledTone
from voxspool import Client
from voxspool.errors import StoreError
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.stream import Audio, Mark
from voxspool_worker.engines.base import SpokenSegment
from voxspool_worker.engines.tone import CHAR_S
from voxspool_worker.jobs.cancellation import CancelToken
from voxspool_worker.jobs.execution import JobExecution
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration import speech_cache
from voxspool_worker.narration.speech_cache import PAUSE_S, SpeechCache
from voxspool_worker.speech.pipeline import Pipeline
from voxspool_worker.speech.scheduler import Scheduler
from voxspool_worker.speech.speech_job import SpeechJob, plan_speech

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer
    from voxspool_worker.narration.store_handle import StoreHandle

KEEPER = "The keeper counted every lamp before the night began."
BOATS = "Then he went down to the boats, and nobody came."
TWICE = f"{KEEPER}\n\n{BOATS}\n\n{KEEPER}"


@pytest.fixture
def engine() -> ControlledTone:
    return ControlledTone(rows=2)


@pytest.fixture
def client(shared_redis_server: RedisServer) -> Iterator[Client]:
    with Client(shared_redis_server.url) as made:
        yield made


@pytest.fixture
def cache(engine: ControlledTone, store_handle: StoreHandle) -> SpeechCache:
    return SpeechCache(engine, store_handle, "a-worker")


@pytest.fixture
def speak(
    engine: ControlledTone, cache: SpeechCache, db: redis.Redis, client: Client
) -> Iterator[Callable[..., tuple[list[Mark], bytes]]]:
    """Return a function that runs a job to its end and returns its marks and its samples."""
    scheduler = Scheduler(engine)
    thread = threading.Thread(target=scheduler.run, args=(lambda: None,))
    thread.start()

    def run(text: str, **options: object) -> tuple[list[Mark], bytes]:
        engine.admitted.clear()
        spec = JobSpec(text, **options)  # type: ignore[arg-type]
        execution = dataclasses.replace(JobExecution("voxspool-auto-interactive", "", "a-run"), job=spec.id)
        db.zadd(execution.lease_key, {execution.composite: 2**40})
        pipeline = Pipeline(engine, db, "a-worker")
        pipeline.run(pipeline.prepare(spec, execution, CancelToken(60)), SpeechJob(engine, scheduler, Metrics(), cache))
        entries = [one.entry for one in client.speech(spec.id).entries()]
        audio = b"".join(entry.pcm for entry in entries if isinstance(entry, Audio))
        return [entry for entry in entries if isinstance(entry, Mark)], audio

    yield run
    scheduler.stop()
    thread.join()


def test_a_sentence_is_spoken_once_within_a_job_and_across_jobs(
    engine: ControlledTone, speak: Callable[..., tuple[list[Mark], bytes]]
) -> None:
    marks, first = speak(TWICE, reuse=True)
    assert engine.spoken_texts == [KEEPER, BOATS]
    assert [mark.reused for mark in marks] == [False, False, True]

    marks, second = speak(TWICE, reuse=True)
    assert engine.spoken_texts == []
    assert [mark.reused for mark in marks] == [True, True, True]
    assert second == first

    speak(f"{BOATS}\n\nAnd something that nobody has ever said before is here, too.", reuse=True)
    assert engine.spoken_texts == ["And something that nobody has ever said before is here, too."]


def test_another_seed_or_speed_is_spoken_anew(
    engine: ControlledTone, speak: Callable[..., tuple[list[Mark], bytes]]
) -> None:
    speak(KEEPER, reuse=True)
    for options in ({"seed": 7}, {"speed": 1.5}):
        speak(KEEPER, reuse=True, **options)
        assert engine.spoken_texts == [KEEPER]


def test_a_job_without_the_option_neither_reads_nor_writes_the_store(
    engine: ControlledTone, speak: Callable[..., tuple[list[Mark], bytes]]
) -> None:
    marks, _ = speak(TWICE)
    assert engine.spoken_texts == [KEEPER, BOATS, KEEPER]
    assert not any(mark.reused for mark in marks)
    speak(KEEPER, reuse=True)
    assert engine.spoken_texts == [KEEPER]


def test_stored_audio_waits_for_the_reader_of_a_job_with_a_window(
    db: redis.Redis, speak: Callable[..., tuple[list[Mark], bytes]]
) -> None:
    text = "\n\n".join([KEEPER] * 5)
    speak(KEEPER, reuse=True)
    results: list[list[Mark]] = []
    thread = threading.Thread(
        target=lambda: results.append(speak(text, reuse=True, id="windowed", window_s=1, live_s=60)[0])
    )
    thread.start()
    until(lambda: db.hget(keys.control("windowed"), "pos"), "the first audio")
    thread.join(0.5)
    assert thread.is_alive()
    published = int(db.hget(keys.control("windowed"), "pos"))
    assert published <= ControlledTone.sample_rate * (1 + len(KEEPER) * CHAR_S + 1), "a segment past the window"
    db.hset(keys.acknowledged("windowed"), mapping={"pos": 2**40, "at": 2**45, "n": 1})
    thread.join(20)
    assert [mark.reused for mark in results[0]] == [True] * 5


def test_a_segment_whose_audio_is_damaged_is_spoken(
    engine: ControlledTone, speak: Callable[..., tuple[list[Mark], bytes]], tmp_path: Path
) -> None:
    _, first = speak(TWICE, reuse=True)
    (damaged, *_) = sorted(tmp_path.rglob("*.flac"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    marks, second = speak(TWICE, reuse=True)
    assert second == first
    assert len(engine.spoken_texts) in (1, 2), "the damaged segment alone, at each of its places"
    assert [mark.end for mark in marks] == sorted(mark.end for mark in marks)


def test_a_store_that_fails_does_not_fail_the_speech_and_is_left_alone_for_a_while(
    engine: ControlledTone,
    speak: Callable[..., tuple[list[Mark], bytes]],
    store_handle: StoreHandle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise StoreError("the disk is gone")

    monkeypatch.setattr(store_handle, "store", fail)
    _, audio = speak(TWICE, reuse=True)
    assert audio
    assert sorted(engine.spoken_texts) == sorted([KEEPER, BOATS, KEEPER])
    assert len(calls) == 1
    assert "the disk is gone" in caplog.text
    assert f"pause_s={PAUSE_S:g}" in caplog.text


def test_a_store_that_hangs_costs_one_wait(
    cache: SpeechCache, engine: ControlledTone, store_handle: StoreHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    calls: list[int] = []

    def hang() -> None:
        calls.append(1)
        released.wait()

    monkeypatch.setattr(store_handle, "store", hang)
    monkeypatch.setattr(speech_cache, "STORE_WAIT_S", 0.05)
    segments = plan_speech(JobSpec(KEEPER), "a-run", engine)
    assert cache.find(segments) == set()
    assert cache.read(segments[0]) is None
    released.set()
    assert len(calls) == 1, "it does not ask again"


def test_audio_with_a_fault_is_not_stored(cache: SpeechCache, engine: ControlledTone) -> None:
    (segment,) = plan_speech(JobSpec(KEEPER), "a-run", engine)
    noise = np.random.default_rng(0).integers(-3000, 3000, 22_050 * 5).astype(np.int16)
    cache.write(segment, noise, SpokenSegment(segment.seed, 3, "noise"))
    cache.write(segment, noise[:100], SpokenSegment(segment.seed))  # too short for its text
    assert cache.find([segment]) == set()
    cache.write(segment, noise, SpokenSegment(segment.seed))
    assert cache.find([segment]) == {0}
