"""XTTS in real workers with a random checkpoint: its audio is noise, but the stream is as with the real one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.support.checkpoints import small_checkpoint
from tests.support.processes import ROOT, until
from voxspool import SpeechFailedError
from voxspool.protocol.stream import Begin, End, Mark
from voxspool_worker.voices.conditioning_format import encode

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client, Speech

    StartWorker = Callable[..., WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

TEXT = "The ferry leaves at seven. Do not be late for it. Nobody waits for long on this side of the river."
ENDS_SELDOM = 2.0
"""Stop bias with which the random checkpoint seldom ends a segment early."""


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return small_checkpoint(stop_bias=ENDS_SELDOM)


@pytest.fixture
def start_xtts(start_worker: StartWorker, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> StartWorker:
    """Start a worker with XTTS on the CPU. All workers of a test run share a cache folder."""
    cache = tmp_path_factory.getbasetemp() / "cache"

    def start(*options: str, **environ: str) -> WorkerProcess:
        found = {"VOXSPOOL_XTTS_DIR": str(checkpoint), "VOXSPOOL_CACHE_DIR": str(cache), "VOXSPOOL_DEVICE": "cpu"}
        return start_worker("xtts", *options, environ=found | environ)

    return start


def samples(speech: Speech) -> bytes:
    """Return all samples of a speech."""
    return b"".join(chunk.pcm for chunk in speech)


def test_a_stream_describes_how_its_text_is_spoken(client: Client, start_xtts: StartWorker) -> None:
    worker = start_xtts()
    speech = client.enqueue(TEXT, engine="xtts", voice="Ada Random", language="en", seed=4)
    entries = [received.entry for received in speech.entries()]
    begin, end = entries[0], entries[-1]
    assert isinstance(begin, Begin)
    assert isinstance(end, End)
    assert (begin.sample_rate, begin.engine, begin.voice, begin.language) == (24_000, "xtts", "Ada Random", "en")
    assert begin.model.startswith("xtts ")
    assert begin.model.endswith(" int8")
    assert end.duration_s > 1
    assert end.voice_source == "built-in"
    marks = [entry for entry in entries if isinstance(entry, Mark)]
    assert [mark.segment for mark in marks] == list(range(end.segments))
    assert "".join(TEXT[mark.start : mark.end] for mark in marks) == TEXT
    assert all(mark.fault in ("", "rate", "cap", "noise", "silence") for mark in marks)
    until(lambda: "job.end" in worker.said(), "the job to end")
    again = client.enqueue(TEXT, engine="xtts", voice="Ada Random", language="en", seed=4)
    assert samples(again) == samples(speech), "the same seed produces the same samples"
    other = client.enqueue(TEXT, engine="xtts", voice="Ada Random", language="en", seed=5)
    assert samples(other) != samples(speech)


@pytest.mark.long
def test_another_worker_resumes_the_job_of_a_killed_worker(client: Client, start_xtts: StartWorker) -> None:
    text = TEXT * 4
    whole = start_xtts()
    wanted = client.enqueue(text, engine="xtts", seed=1)
    end = wanted.wait(timeout_s=120)
    speech = client.enqueue(text, engine="xtts", seed=1, keep_s=100)
    stream = speech.entries()
    while not isinstance(next(stream).entry, Mark):
        pass
    whole.process.kill()
    start_xtts()
    speech.wait(timeout_s=120)
    assert speech.status().attempt == 2
    marks = {one.entry.segment: one.entry for one in speech.entries() if isinstance(one.entry, Mark)}
    before = {one.entry.segment: one.entry for one in wanted.entries() if isinstance(one.entry, Mark)}
    assert len(marks) == end.segments
    same = [number for number in marks if marks[number].seed == before[number].seed]
    assert same, "at least one segment has the same seed in both speeches"
    heard, expected = (np.frombuffer(samples(one), np.int16) for one in (speech, wanted))
    for number in same:
        one, other = marks[number], before[number]
        assert np.array_equal(heard[one.pos : one.end_pos], expected[other.pos : other.end_pos])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Write a clip of 4 s with the spectrum and rhythm of a voice, and return its path."""
    at = np.arange(4 * 24_000) / 24_000
    sound = sum(np.sin(2 * np.pi * 140 * n * at) / n for n in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * at))
    soundfile.write(tmp_path / "clara.wav", 0.2 * sound, 24_000)
    return tmp_path / "clara.wav"


def _shift(clip: Path) -> None:
    """Make another recording of a clip."""
    sound, rate = soundfile.read(clip)
    soundfile.write(clip, sound[::-1], rate)


@pytest.mark.long
def test_the_conditioning_of_a_cloned_voice_is_computed_once_and_cached_unless_it_is_bad(
    client: Client, start_xtts: StartWorker, run_cli: RunCli, clip: Path, db: redis.Redis
) -> None:
    first = start_xtts()
    for name in ("clara", "dora"):
        added = run_cli("voices", "add", name, str(clip))
        assert added.returncode == 0, added.stderr
        _shift(clip)
    assert client.enqueue("The ferry leaves.", voice="dora").wait(timeout_s=120).voice_source == "computed"
    (of_dora,) = db.keys("voxspool:conditioning:*")
    ends = [client.enqueue("The ferry leaves.", voice=voice).wait(timeout_s=120) for voice in ("clara", "clara")]
    assert [end.voice_source for end in ends] == ["computed", "memory"]
    mixed = client.enqueue("The ferry leaves.", voice="clara(2)+Ada Random")
    mixed.wait(timeout_s=120)
    assert [one.entry.voice for one in mixed.entries() if isinstance(one.entry, Begin)] == ["Ada Random(1)+clara(2)"]
    first.process.terminate()
    first.wait()
    whole = db.get(of_dora)
    db.set(of_dora, encode({"latents": np.ones((3200, 8), np.float32), "speaker": np.ones((1, 512, 1), np.float32)}))
    second = start_xtts(VOXSPOOL_CACHE_DIR=str(clip.parent / "another machine's"))
    assert client.enqueue("The ferry leaves.", voice="clara").wait(timeout_s=120).voice_source == "redis"
    until(lambda: "voice_source=redis" in second.said(), "the log line")
    assert client.enqueue("The ferry leaves.", voice="dora").wait(timeout_s=120).voice_source == "computed"
    assert "conditioning.damaged" in second.said()
    assert "latents is float32 (3200, 8), not float32 (32, " in second.said()
    assert db.get(of_dora) == whole, "the same bytes were computed again"


def test_a_worker_without_a_checkpoint_falls_back_to_piper_and_reports_it(
    client: Client, start_worker: StartWorker, run_cli: RunCli, tmp_path: Path
) -> None:
    worker = start_worker("xtts", environ={"VOXSPOOL_XTTS_DIR": str(tmp_path / "nowhere")})
    assert "engine.fallback wanted=xtts" in worker.said()
    assert "nowhere" in worker.said()
    client.enqueue("Spoken all the same.").wait(timeout_s=60)
    (info,) = json.loads(run_cli("status", "--json").stdout)["workers"]
    assert info["engine"] == "piper"
    assert info["fallback_from"].startswith("xtts: ")


def test_long_and_unusual_texts_are_spoken_to_their_end(client: Client, start_xtts: StartWorker) -> None:
    start_xtts()
    for text, language in [
        ("1234567890 " * 30, "en"),
        ('"Really?" "No?" — "…"', "en"),
        ("今日は雨です。明日は晴れるでしょう。", "ja"),
        ("안녕하세요. 오늘은 12월 24일입니다.", "ko"),
        ("北京的秋天很美，我们去公园吧。", "zh-cn"),
        ("مرحبا بكم في محطة القطار.", "ar"),
    ]:
        end = client.enqueue(text, engine="xtts", language=language).wait(timeout_s=240)
        assert end.duration_s > 0.2, text


UNEQUIPPED = ROOT / "tests" / "support" / "unequipped"
"""Folder with a sitecustomize module that hides the modules in the variable ABSENT."""
EAST_ASIAN = "cutlet,fugashi,unidic_lite,mojimoji,pypinyin,spacy_pkuseg,mecab_ko"
"""Modules of the extras xtts-ja, xtts-zh and xtts-ko."""


def test_a_job_in_a_language_without_its_extra_fails_or_runs_on_a_worker_that_has_it(
    client: Client, start_xtts: StartWorker
) -> None:
    plain = start_xtts(PYTHONPATH=str(UNEQUIPPED), ABSENT=EAST_ASIAN)
    (info,) = client.workers()
    assert {"en", "ko"} <= set(info.voices["Ada Random"])
    assert not {"ja", "zh-cn"} & set(info.voices["Ada Random"])
    assert client.enqueue("안녕하세요.", engine="xtts", language="ko").wait().segments == 1
    for language, extra in (("ja", "xtts-ja"), ("zh", "xtts-zh")):
        with pytest.raises(SpeechFailedError, match=rf"; install .* pip install .*worker\[{extra}\]'$") as caught:
            client.enqueue("你好。", engine="xtts", language=language).wait()
        assert caught.value.code == "missing-extra"
        assert not caught.value.retryable
    start_xtts()
    jobs = [client.enqueue("こんにちは。", engine="xtts", language="ja") for _ in range(4)]
    assert [job.wait().segments for job in jobs] == [1] * 4
    assert "Traceback" not in plain.said()
