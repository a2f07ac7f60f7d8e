"""The example of an engine in another package: jobs, commands and messages with it, and messages without it."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.support.bare import uv
from tests.support.processes import ROOT, WorkerProcess, clean_env, until
from tests.support.shared import made_once
from voxspool.protocol.jobs import queue_name
from voxspool.protocol.stream import Begin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import redis

    from tests.support.processes import RedisServer
    from voxspool import Client, Speech

    Start = Callable[[], WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

RATE_HZ = 16_000
DOT = 960
"""The length of a dot, in samples."""
LETTERS = {
    "...": "s", "---": "o", "....-": "4", "..---": "2", ".-": "a", "..--..": "?",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example, and return the folder that contains only it."""

    def install(folder: Path) -> None:
        command = [uv(), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", folder, ROOT / "examples" / "engine"], check=True, timeout=120)

    return made_once(tmp_path_factory, "engine-example", install)


@pytest.fixture
def start_morse(start_worker: Callable[..., WorkerProcess], installed: Path) -> Start:
    return lambda: start_worker("morse", environ={"PYTHONPATH": str(installed)})


def received(pcm: npt.NDArray[np.int16]) -> str:
    """Decode Morse code from the lengths of its tones and silences, in dots."""
    loud = np.abs(pcm[: len(pcm) // DOT * DOT].reshape(-1, DOT)).max(axis=1) > 1_000
    text, letter = "", ""
    for on, run in groupby(loud):
        dots = len(list(run))
        if on:
            letter += {1: ".", 3: "-"}[dots]
        elif dots >= 3:
            text, letter = text + LETTERS[letter] + (" " if dots == 7 else ""), ""
    return text.strip()


def heard(speech: Speech) -> str:
    return received(np.frombuffer(b"".join(chunk.pcm for chunk in speech), np.int16))


def test_the_audio_is_the_morse_code_of_the_text(client: Client, start_morse: Start) -> None:
    start_morse()
    speech = client.enqueue("SOS Sao", engine="morse")
    assert heard(speech) == "sos sao"
    assert heard(client.enqueue("São 42 so 字", engine="morse", voice="low-radio")) == "sao 42 so ?"
    begin = next(received.entry for received in speech.entries() if isinstance(received.entry, Begin))
    assert (begin.engine, begin.model, begin.voice, begin.sample_rate) == ("morse", "morse-1", "radio", RATE_HZ)


def test_the_commands_speak_with_the_engine_and_list_it(
    client: Client, start_morse: Start, run_cli: RunCli, tmp_path: Path
) -> None:
    worker = start_morse()
    out = tmp_path / "sos.wav"
    done = run_cli("speak", "SOS", "--engine", "morse", "-o", str(out))
    assert done.returncode == 0, done.stderr
    pcm, rate_hz = soundfile.read(out, dtype="int16")
    assert (received(pcm), rate_hz) == ("sos", RATE_HZ)
    assert client.overview().workers[0].engine == "morse"
    assert f"{worker.name}  " in (shown := run_cli("status").stdout.decode())
    assert "morse" in shown
    assert b"low-radio" in run_cli("voices").stdout


def test_a_job_without_an_engine_is_spoken_by_the_engine_of_the_only_worker(client: Client, start_morse: Start) -> None:
    start_morse()
    assert heard(client.enqueue("SOS")) == "sos"


def test_a_job_waits_for_the_engine_and_a_misspelt_name_gets_a_suggestion(
    client: Client, start_morse: Start, run_cli: RunCli, redis_server: RedisServer
) -> None:
    said = run_cli("enqueue", "SOS", "--engine", "morse", "--job-id", "waits").stderr.decode()
    start = f"Start one: voxspool-worker run --engine morse --redis {redis_server.url}\n"
    assert said.endswith(f"no live worker serves the queue voxspool-morse-interactive; the job waits. {start}")
    assert client.overview().queues == {"voxspool-morse-interactive": 1}
    start_morse()
    assert heard(client.speech("waits")) == "sos"
    near = run_cli("enqueue", "SOS", "--engine", "mors").stderr.decode()
    assert "serves the queue voxspool-mors-interactive (did you mean the engine morse?); the job waits" in near
    near = run_cli("enqueue", "SOS", "--engine", "pipper").stderr.decode()
    assert "(did you mean the engine piper?)" in near


def test_pause_with_the_name_of_the_engine_pauses_its_queues_until_resume(
    client: Client, start_morse: Start, db: redis.Redis, run_cli: RunCli
) -> None:
    refused = run_cli("pause", "morse")
    assert (refused.returncode, refused.stderr.startswith(b'Error: there is no queue "morse"')) == (2, True)
    start_morse()
    done = run_cli("pause", "morse")
    assert done.stdout.split() == [b"paused", b"voxspool-morse-interactive", b"paused", b"voxspool-morse-batch"]
    client.enqueue("SOS", engine="morse", id="waits")
    client.enqueue("SOS").wait(timeout_s=20)
    assert client.overview().queues == {"voxspool-morse-interactive": 1}
    client.resume()
    assert (client.paused(), heard(client.speech("waits"))) == ([], "sos")
    assert db.llen("rq:queue:voxspool-morse-interactive") == 0


@pytest.mark.parametrize(("engine", "event"), [("morse", "job.rescued"), ("auto", "job.passed_on")])
def test_the_job_of_a_killed_worker_is_finished_by_another_worker_with_the_same_engine(
    client: Client,
    start_worker: Callable[..., WorkerProcess],
    start_morse: Start,
    db: redis.Redis,
    engine: str,
    event: str,
) -> None:
    victim = start_morse()
    client.enqueue("SOS. " * 400, engine=engine, id="long")
    until(lambda: client.speech("long").status().segments_done, "a segment")
    victim.kill()
    state = client.speech("long").status()
    assert state.segments_done < state.segments, "the worker was killed after the end of its job"
    queue = queue_name("morse", "interactive")
    tone = start_worker("tone")
    until(
        lambda: re.search(rf"{event} job=long (queue|to)={queue}", tone.said()),
        "the worker with tone to requeue the job",
    )
    assert db.llen(f"rq:queue:{queue}") == 1, "the worker with tone does not speak the job"
    start_morse()
    speech = client.speech("long")
    speech.wait(timeout_s=60)
    begins = [received.entry for received in speech.entries() if isinstance(received.entry, Begin)]
    assert [(begin.engine, begin.sample_rate) for begin in begins] == [("morse", RATE_HZ)] * 2


def test_check_lists_the_engine_and_error_messages_suggest_it(installed: Path, redis_server: RedisServer) -> None:
    def worker(*arguments: str, **environ: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "voxspool_worker", *arguments, "--redis", redis_server.url]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=clean_env() | environ
        )
        return done.returncode, done.stdout + done.stderr

    code, said = worker("check", "--engine", "morse", PYTHONPATH=str(installed))
    assert code == 0
    assert re.search(r"^ok +morse +morse-1 on cpu, 16000 Hz, voices: radio \(any\), low-radio", said, re.MULTILINE)
    code, said = worker("run", "--engine", "mors", PYTHONPATH=str(installed))
    assert (code, said) == (2, "Error: there is no engine 'mors' (did you mean morse?)\n")
    code, said = worker("run", "--engine", "morse")
    assert (code, said) == (2, "Error: there is no engine 'morse' (there is: piper, tone, xtts)\n")
