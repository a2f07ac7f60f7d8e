"""One job from its text to its readers, through a real Redis and a real worker with the engine tone."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool import (
    AsyncClient,
    DeadlineError,
    JobExistsError,
    OutputError,
    SpeechCancelledError,
    SpeechFailedError,
    StreamError,
    StreamReplacedError,
    UnknownJobError,
    UnknownVoiceError,
)
from voxspool.protocol import keys
from voxspool.protocol.stream import Audio, Begin, End, Mark

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

FORMATS = ("wav", "flac", "mp3", "ogg", "opus")
TEXT = SENTENCE * 6 + "\n\nA second paragraph follows. " + SENTENCE * 3


def samples_of(chunks: object) -> bytes:
    """Return the samples of all chunks of a speech."""
    return b"".join(chunk.pcm for chunk in chunks)  # type: ignore[attr-defined]


def test_the_samples_of_a_speech_equal_the_reference(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(TEXT, seed=7, speed=1.25)
    assert samples_of(speech) == tone(TEXT, seed=7, speed=1.25)


def test_concurrent_late_and_resuming_readers_get_the_same_samples(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 2, voice="sine-live", engine="tone")
    live: dict[str, bytes] = {}
    reader = threading.Thread(target=lambda: live.update(second=samples_of(client.speech(speech.id))))
    reader.start()
    first, last_id = b"", ""
    for chunk in speech:
        first, last_id = first + chunk.pcm, chunk.id
        if len(first) > 48_000:
            break
    assert speech.status().state == "running", "the first second is read before the speech is complete"
    returned = samples_of(speech.chunks(after=last_id))
    reader.join(30)
    expected = tone(SENTENCE * 2)
    assert first + returned == expected
    assert live["second"] == expected
    assert samples_of(client.speech(speech.id)) == expected


def test_reading_after_the_terminal_entry_yields_nothing(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE)
    *_, (last_id, entry) = speech.entries()
    assert isinstance(entry, End)
    assert list(speech.entries(str(last_id))) == []


def test_a_stream_has_a_begin_entry_a_mark_per_segment_and_an_end_entry(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker()
    entries = [received.entry for received in client.enqueue(TEXT, seed=3).entries()]
    begin, *middle, end = entries
    assert isinstance(begin, Begin)
    assert (begin.engine, begin.voice, begin.sample_rate, begin.seed) == ("tone", "sine", 24_000, 3)
    marks = [entry for entry in middle if isinstance(entry, Mark)]
    assert [mark.segment for mark in marks] == list(range(len(marks)))
    assert "".join(TEXT[mark.start : mark.end] for mark in marks) == TEXT
    assert [mark.end_pos for mark in marks] == [mark.pos for mark in marks[1:]] + [end.pos]
    assert sum(len(entry.pcm) // 2 for entry in middle if isinstance(entry, Audio)) == end.pos
    assert isinstance(end, End)
    assert end.segments == len(marks)


@pytest.mark.parametrize("text", ["", "   \n ", "*** --- !!! 🎉", "\x00\x07\u200f"])
def test_a_text_without_letters_is_a_valid_empty_speech(
    text: str, client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    speech = client.enqueue(text)
    end = speech.save(tmp_path / "nothing.wav")
    assert (end.pos, end.segments) == (0, 0)
    assert soundfile.info(tmp_path / "nothing.wav").frames == 0


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "שלום עולם. \u202eأهلا بالعالم",
        "a\x00b\x1bc. Then more words here.",
        "日本語の文章です。これは二番目です。",
        "👩‍👩‍👧 hello 🎉 world",
    ],
    ids=["no-space", "right-to-left", "control", "japanese", "emoji"],
)  # fmt: skip
def test_an_unusual_text_is_spoken_to_its_end(text: str, client: Client, start_worker: StartWorker) -> None:
    start_worker()
    assert client.enqueue(text).wait(timeout_s=60).pos * 2 == len(tone(text))


def test_enqueueing_an_id_again_is_the_same_job_and_refused_with_another_text(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE, id="mine")
    again = client.enqueue(SENTENCE, id="mine", priority="batch")
    assert (again.id, db.llen("rq:queue:voxspool-auto-interactive")) == (speech.id, 1)
    with pytest.raises(JobExistsError, match="'mine' is taken"):
        client.enqueue("Another text.", id="mine")
    start_worker()
    assert samples_of(speech) == tone(SENTENCE)
    assert client.enqueue(SENTENCE, id="mine").status().state == "ended"


def test_a_saved_file_contains_the_samples_of_the_speech(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    client.enqueue(SENTENCE).save(tmp_path / "speech.flac")
    samples, rate = soundfile.read(tmp_path / "speech.flac", dtype="int16")
    assert (samples.astype("<i2").tobytes(), rate) == (tone(SENTENCE), 24_000)


@pytest.mark.parametrize("name", FORMATS)
def test_a_speech_is_encoded_as_bytes_or_into_a_file_while_it_is_made(
    name: str, client: Client, redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 2, voice="sine-live", engine="tone")
    pieces = speech.encode(name)
    first = next(pieces)
    assert speech.status().state == "running", "the first bytes arrive before the speech is complete"
    live = first + b"".join(pieces)
    with (tmp_path / "ended").open("w+b") as file:
        assert speech.encode(name, to=file) == speech.end()
    with (tmp_path / "ended").open("rb") as file:
        samples, rate_hz = soundfile.read(file, dtype="int16")
    assert rate_hz == 24_000
    assert abs(2 * len(samples) - len(tone(SENTENCE * 2))) <= 4 * 2 * 1_152
    if name in ("wav", "flac"):
        assert samples.astype("<i2").tobytes() == tone(SENTENCE * 2)

    async def again() -> tuple[bytes, bytes]:
        async with AsyncClient(redis_server.url) as other:
            handle, file = other.speech(speech.id), io.BytesIO()
            data = b"".join([data async for data in handle.encode(name)])
            assert await handle.encode(name, to=file) == await handle.end()
            return data, file.getvalue()

    ended = (tmp_path / "ended").read_bytes()
    assert len(live) == len(ended)
    if name in ("wav", "flac", "mp3"):  # OGG and Opus files contain a random serial number
        assert asyncio.run(again()) == (ended, ended)
    else:
        assert [len(data) for data in asyncio.run(again())] == [len(ended)] * 2


def test_an_unknown_format_is_refused_before_the_stream_is_read(client: Client, redis_server: RedisServer) -> None:
    with pytest.raises(OutputError, match="choose one of wav, flac, mp3, ogg, opus"):
        client.speech("nobody").encode("aac")
    with pytest.raises(OutputError, match="choose one of wav"):
        AsyncClient(redis_server.url).speech("nobody").encode("aac")


def test_encoding_a_cancelled_speech_raises_an_error(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE * 5, voice="sine-live")
    pieces = speech.encode("opus")
    next(pieces)
    speech.cancel()
    with pytest.raises(SpeechCancelledError):
        list(pieces)


def test_a_chunk_converts_to_numpy_arrays(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    chunks = list(client.enqueue(SENTENCE))
    whole = np.concatenate([chunk.as_int16() for chunk in chunks])
    assert (whole.dtype, whole.tobytes()) == (np.int16, tone(SENTENCE))
    scaled = np.concatenate([chunk.as_float32() for chunk in chunks])
    assert (scaled.dtype, scaled.shape) == (np.float32, whole.shape)
    np.testing.assert_array_equal(scaled * 32_768, whole)
    assert not chunks[0].as_int16().flags.writeable
    assert chunks[0].as_float32().flags.writeable


def test_asyncio_reads_saves_and_cancels_speeches(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()

    async def listen() -> None:
        async with AsyncClient(redis_server.url) as client:
            speech = await client.enqueue(SENTENCE)
            chunks = [chunk async for chunk in speech]
            assert b"".join(chunk.pcm for chunk in chunks) == tone(SENTENCE)
            rest = [chunk async for chunk in speech.chunks(after=chunks[3].id)]
            assert rest == chunks[4:]
            assert (await speech.save(tmp_path / "a.wav")).pos * 2 == len(tone(SENTENCE))
            assert (await speech.status()).state == "ended"
            assert set(await client.voices()) == {"sine", "sine-live"}
            long = await client.enqueue(SENTENCE * 5, voice="sine-live")
            async for _ in long:
                break
            assert await long.cancel() == "asked"
            with pytest.raises(SpeechCancelledError):
                await long.wait(timeout_s=10)
            with pytest.raises(UnknownJobError):
                await client.speech("nobody").wait()
            assert len((await client.overview()).workers) == 1

    asyncio.run(listen())


def test_a_queued_job_is_cancelled_at_once_and_never_spoken(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    speech = client.enqueue(SENTENCE)
    assert speech.cancel("a test") == "cancelled"
    with pytest.raises(SpeechCancelledError, match="a test"):
        speech.wait()
    assert db.llen("rq:queue:voxspool-auto-interactive") == 0
    start_worker()
    assert samples_of(client.enqueue("Something else is said.")) == tone("Something else is said.")
    assert speech.cancel() == "cancelled"


def test_a_running_job_stops_at_its_next_chunk(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 5, voice="sine-live")
    neighbour = client.enqueue(SENTENCE, voice="sine-live")
    chunks = iter(speech)
    for _ in range(4):
        next(chunks)
    assert speech.cancel("kim") == "asked"
    late: list[bytes] = []
    with pytest.raises(SpeechCancelledError):
        late.extend(chunk.pcm for chunk in chunks)
    samples = speech.status().spoken_s * 24_000
    assert samples <= 7 * 1200, "at most three chunks of 50 ms after the fourth"
    assert samples_of(neighbour) == tone(SENTENCE), "another job on the same engine continues"
    assert speech.status().state == "cancelled"
    until(lambda: f"job.ended_early job={speech.id} reason=cancelled by=kim" in worker.said(), "the end in the log")


def test_a_job_that_is_cancelled_and_enqueued_again_while_it_runs_is_never_mixed_with_the_old_one(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    """Stop and play in quick succession under one id: each reader hears one text or a clear end."""
    start_worker()
    old = client.enqueue(SENTENCE * 5, id="again", voice="sine-live")
    for number in range(8):
        reader = old.chunks(timeout_s=20)
        assert next(reader).pos == 0
        assert old.cancel() == "asked"
        text = SENTENCE * (1 + number % 3)
        new = client.enqueue(text, id="again")
        assert samples_of(new) == tone(text)
        with pytest.raises((SpeechCancelledError, StreamReplacedError)):
            list(reader)
        client.speech("again").delete()
        old = client.enqueue(SENTENCE * 5, id="again", voice="sine-live")
    old.delete()
    until(lambda: not [key for key in db.scan_iter() if b"again" in key], "every trace to be gone")


def test_metadata_comes_back_in_the_begin_and_end_entries(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    meta = {"page": 3, "of": {"title": "Köln"}}
    begin, *_, end = (received.entry for received in client.enqueue(SENTENCE, meta=meta).entries(timeout_s=20))
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    assert begin.meta == end.meta == meta


def test_errors_for_an_unknown_voice_suggest_similar_ones(client: Client, start_worker: StartWorker) -> None:
    early = client.enqueue("Nobody can check this voice yet.", voice="sinus", engine="tone")
    start_worker()
    with pytest.raises(UnknownVoiceError, match=r"'sin'.*did you mean sine"):
        client.enqueue("Now somebody can.", voice="sin", engine="tone")
    with pytest.raises(SpeechFailedError, match=r"no voice 'sinus'.*did you mean sine") as failed:
        early.wait()
    assert failed.value.code == "unknown-voice"


def test_an_expired_stream_is_reported_as_expired(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE, keep_s=1)
    speech.wait()
    assert 0 < db.ttl(keys.audio(speech.id)) <= 1
    until(lambda: not db.exists(keys.audio(speech.id)), "the stream to expire")
    until(lambda: not db.exists(keys.control(speech.id)), "the control hash to expire")
    until(lambda: not db.exists(f"rq:job:{speech.id}"), "RQ's record to expire")
    with pytest.raises(UnknownJobError, match="expired"):
        speech.wait()


def test_continuing_after_an_unknown_entry_is_refused(client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE)
    speech.wait()
    with pytest.raises(StreamError, match="no entry 7-7"):
        next(speech.chunks(after="7-7"))


def test_a_reader_raises_deadline_error_after_its_timeout_without_entries(client: Client) -> None:
    waits = []
    speech = client.enqueue(SENTENCE)
    with pytest.raises(DeadlineError, match="it is queued"):
        for _ in speech.entries(timeout_s=0.5, on_wait=waits.append):
            pass


def test_status_shows_progress_queues_workers_and_voices(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 20, voice="sine-live")
    next(iter(speech))
    client.enqueue("A piper job that waits.", engine="piper", priority="batch")
    until(lambda: client.overview().workers[0].running == 1, "the worker's record to show the running job")
    overview = client.overview()
    assert overview.queues == {"voxspool-piper-batch": 1}
    (info,) = overview.workers
    assert (info.name, info.engine, info.device, info.jobs) == (worker.name, "tone", "cpu", 32)
    (running,) = overview.running
    assert (running.id, running.state, running.engine, running.voice) == (speech.id, "running", "tone", "sine-live")
    assert running.spoken_s > 0
    assert running.segments == 20
    assert client.serving("voxspool-piper-batch") == []


def test_cancelling_an_asyncio_task_that_reads_takes_effect_at_once(
    redis_server: RedisServer, start_worker: StartWorker, client: Client
) -> None:
    start_worker()
    job = client.enqueue(SENTENCE * 20, voice="sine-live").id

    async def cancel_often() -> None:
        async with AsyncClient(redis_server.url) as listener:
            for number in range(40):
                task = asyncio.create_task(listener.speech(job).wait())
                await asyncio.sleep(0.005 * number)  # cancel at a different moment each time
                task.cancel()
                _, pending = await asyncio.wait({task}, timeout=1)
                assert not pending, "the cancellation was swallowed"
                assert task.cancelled()

    asyncio.run(cancel_often())


def test_invalid_worker_records_and_leases_of_other_programs_are_ignored(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    db.sadd(keys.WORKERS, "stranger", b"\xff")
    db.hset(keys.worker("stranger"), mapping={"engine": "tone"})
    db.zadd("rq:wip:voxspool-tone-batch", {"bad id:xyz": 9e10, b"\xff\xfe:xyz": 9e10})
    assert len(client.overview().workers) == 1
    assert client.enqueue("A voice is looked up.", voice="sine").wait().pos > 0


def test_the_status_of_a_job_whose_worker_died_is_queued(client: Client, start_worker: StartWorker) -> None:
    worker = start_worker()
    speech = client.enqueue(SENTENCE * 20, voice="sine-live")
    next(iter(speech))
    assert speech.status().state == "running"
    worker.process.kill()
    until(lambda: speech.status().state == "queued", "the lease to expire")
    assert speech.status().spoken_s > 0
