"""The commands as a person runs them, in real processes: output, pipes, signals and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.support.processes import RedisServer, clean_env, free_port, until
from tests.support.reference import SENTENCE, tone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    Cli = Callable[..., subprocess.CompletedProcess[bytes]]
    StartWorker = Callable[..., WorkerProcess]


def one_line(done: subprocess.CompletedProcess[bytes], code: int = 1) -> str:
    """Assert the exit code (1: failure, 2: wrong value), and return the error, which is the only line on stderr."""
    assert done.returncode == code, done.stderr.decode()
    (line,) = done.stderr.decode().strip().splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_speak_writes_every_format(suffix: str, run_cli: Cli, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    out = tmp_path / f"speech.{suffix}"
    done = run_cli("speak", SENTENCE, "-o", str(out))
    assert done.returncode == 0, done.stderr.decode()
    assert abs(soundfile.info(out).duration - len(tone(SENTENCE)) / 48_000) < 0.1
    assert done.stdout == b""
    assert len(done.stderr.decode().splitlines()) == 1, "without a terminal, only the last line is printed"


def test_speak_reads_stdin_and_writes_stdout(run_cli: Cli, start_worker: StartWorker) -> None:
    start_worker()
    done = run_cli("speak", "-", "-o", "-", "--seed", "4", "--speed", "1.5", stdin=SENTENCE.encode())
    assert (done.returncode, done.stdout) == (0, tone(SENTENCE, seed=4, speed=1.5))


def test_enqueue_prints_an_id_and_follow_reads_the_job_from_any_entry(
    run_cli: Cli, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    page = tmp_path / "page.txt"
    page.write_text(SENTENCE, encoding="utf-8")
    job = run_cli("enqueue", "--file", str(page), "--priority", "batch").stdout.decode().strip()
    assert run_cli("follow", job, "--raw").stdout == tone(SENTENCE)
    assert run_cli("follow", job).returncode == 0
    run_cli("follow", job, "-o", str(tmp_path / "page.wav"))
    assert soundfile.read(tmp_path / "page.wav", dtype="int16")[0].tobytes() == tone(SENTENCE)
    from_there = run_cli("follow", job, "--raw", "--from", "1-11")
    assert from_there.stdout == tone(SENTENCE)[10 * 2400 :]
    assert b"1-11" in from_there.stderr


def test_the_option_json_prints_json(run_cli: Cli, start_worker: StartWorker) -> None:
    worker = start_worker()
    said = json.loads(run_cli("enqueue", SENTENCE, "--json", "--job-id", "mine").stdout)
    assert said == {
        "job": "mine",
        "queue": "voxspool-auto-interactive",
        "why": "all live workers have the same engine",
    }
    run_cli("follow", "mine")
    assert json.loads(run_cli("status", "mine", "--json").stdout)["state"] == "ended"
    overview = json.loads(run_cli("status", "--json").stdout)
    assert [card["name"] for card in overview["workers"]] == [worker.name]
    assert {row["voice"] for row in json.loads(run_cli("voices", "--json").stdout)} == {"sine", "sine-live"}


def test_status_cancel_and_voices_print_readable_text(run_cli: Cli, start_worker: StartWorker, client: Client) -> None:
    waiting = client.enqueue(SENTENCE)
    assert b"queued" in run_cli("status", waiting.id).stdout
    assert b"is cancelled" in run_cli("cancel", waiting.id).stdout
    assert b"is cancelled" in run_cli("cancel", waiting.id).stdout
    start_worker()
    running = client.enqueue(SENTENCE * 9, voice="sine-live")
    next(iter(running))
    assert b"sine-live" in run_cli("status").stdout
    assert b"running" in run_cli("status", running.id).stdout
    assert b"stops at its next chunk" in run_cli("cancel", running.id).stdout
    ended = client.enqueue("Over soon.")
    ended.wait()
    assert b"had ended before: ended" in run_cli("cancel", ended.id).stdout
    assert b"sine-live" in run_cli("voices").stdout
    assert "cancelled by voxspool cancel" in one_line(run_cli("follow", running.id))


def test_enqueue_makes_each_line_a_job_and_waits_for_room(
    run_cli: Cli, client: Client, tmp_path: Path, db: redis.Redis
) -> None:
    page = tmp_path / "lines.txt"
    page.write_text("One.\n\nTwo.\n", encoding="utf-8")
    jobs = run_cli("enqueue", "--file", str(page), "--lines").stdout.decode().split()
    assert [spec.text for job in jobs if (spec := client.speech(job).spec())] == ["One.", "Two."]
    db.rpush("rq:queue:voxspool-auto-interactive", *range(9_998))
    full = run_cli("enqueue", "Three.", "--wait", "0.1")
    assert full.returncode == 1
    assert full.stderr.startswith(b"Error: busy (10,000 jobs wait already)")
    assert run_cli("enqueue", "--file", str(page), "--lines", "--job-id", "a").returncode == 2


def test_enqueue_without_a_worker_for_the_queue_shows_the_command_that_starts_one(
    run_cli: Cli, redis_server: RedisServer
) -> None:
    done = run_cli("enqueue", SENTENCE, "--engine", "piper", "--priority", "batch")
    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    assert "no live worker serves the queue voxspool-piper-batch; the job waits" in line
    assert line.endswith(f"voxspool-worker run --engine piper --redis {redis_server.url}")


def test_enqueue_reports_a_queue_without_a_worker_once_the_card_of_the_killed_worker_has_expired(
    run_cli: Cli, start_worker: StartWorker, client: Client
) -> None:
    start_worker().process.kill()
    until(lambda: not client.workers(), "the card to expire", limit_s=15)
    assert b"no live worker serves" in run_cli("enqueue", SENTENCE).stderr


def test_bad_arguments_give_one_clear_line(
    run_cli: Cli, start_worker: StartWorker, tmp_path: Path, db: redis.Redis
) -> None:
    start_worker()
    out = ["-o", str(tmp_path / "out.wav")]
    refused = {
        "did you mean sine": ["speak", "Hello.", "--voice", "sin", "--engine", "tone", *out],
        "speed 7.0 is outside": ["speak", "Hello.", "--speed", "7", *out],
        "has other characters": ["enqueue", "Hello.", "--job-id", "a b"],
        "no suffix of an audio file": ["speak", "Hello.", "-o", str(tmp_path / "out.mp5")],
        "there is no folder": ["speak", "Hello.", "-o", str(tmp_path / "nowhere" / "out.wav")],
    }
    for saying, arguments in refused.items():
        assert saying in one_line(run_cli(*arguments), code=2), arguments
    failed = {"there is no job 'nobody'": ["follow", "nobody"], "no job 'stranger'": ["status", "stranger"]}
    run_cli("enqueue", "Known.", "--job-id", "nobodys")
    for saying, arguments in failed.items():
        assert saying in one_line(run_cli(*arguments)), arguments
    assert "100,001 characters" in one_line(run_cli("enqueue", "-", stdin=b"x" * 100_001), code=2)
    assert "is not UTF-8" in one_line(run_cli("enqueue", "-", stdin=b"\xff\xfeh\x00"), code=2)
    assert "nobodys" in one_line(run_cli("enqueue", "Other.", "--job-id", "nobodys"), code=2)
    assert list(tmp_path.glob("out*")) == []
    assert db.llen("rq:queue:voxspool-auto-interactive") == 0


def test_a_missing_redis_a_wrong_url_and_a_wrong_password_give_one_clear_line(run_cli: Cli, tmp_path: Path) -> None:
    nobody = f"redis://:secret@127.0.0.1:{free_port()}/0"
    line = one_line(run_cli("enqueue", "Hello.", redis_url=nobody))
    assert "no Redis answers at redis://:***@127.0.0.1" in line
    assert "secret" not in line
    assert "is not a Redis URL" in one_line(run_cli("status", redis_url="http://example.org"), code=2)

    locked = RedisServer(tmp_path, ("--requirepass", "sesame"))
    locked.start()
    try:
        assert "refused the login" in one_line(run_cli("status", redis_url=locked.url))
        wrong = locked.url.replace("//", "//:wrong@")
        assert "wrong@" not in one_line(run_cli("status", redis_url=wrong))
        right = locked.url.replace("//", "//:sesame@")
        assert run_cli("status", redis_url=right).returncode == 0
    finally:
        locked.stop()


def test_a_worker_without_redis_ends_with_one_clear_line() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", "tone", "--redis", url]
    done = subprocess.run(command, capture_output=True, env=clean_env(), timeout=30, check=False)
    assert "no Redis answers" in one_line(done)
    assert b"secret" not in done.stderr


def test_a_value_that_the_worker_refuses_ends_speak_with_2_and_follow_with_1(
    run_cli: Cli, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("piper")
    german = ["Guten Tag.", "--engine", "piper", "--language", "de", "--job-id", "german"]
    assert "de" in one_line(run_cli("speak", *german, "-o", str(tmp_path / "a.wav")), code=2)
    one_line(run_cli("follow", "german"))


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["run", "--redis", "nonsense"], {}, "'nonsense' is not a Redis URL"),
        (["check", "--redis", "nonsense"], {}, "'nonsense' is not a Redis URL"),
        (["run"], {"VOXSPOOL_WORKER_JOBS": "0"}, "VOXSPOOL_WORKER_JOBS is '0'"),
        (["run"], {"VOXSPOOL_PIPER_VOICES": "/nonexistent"}, "no folder of Piper voices /nonexistent"),
        (["run", "--engine", "tone"], {"VOXSPOOL_STORE": "s4://bucket"}, "s4://bucket cannot be a segment store"),
        (["check"], {"VOXSPOOL_NONSENSE": "1"}, "unknown environment variable VOXSPOOL_NONSENSE"),
    ],
)
def test_a_wrong_value_ends_the_worker_command_with_exit_code_2(
    redis_server: RedisServer, arguments: list[str], environ: dict[str, str], said: str
) -> None:
    command = [sys.executable, "-m", "voxspool_worker", *arguments]
    variables = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url} | environ
    done = subprocess.run(command, capture_output=True, env=variables, timeout=60, check=False)
    assert said in one_line(done, code=2)


def test_check_lists_what_this_machine_has(redis_server: RedisServer) -> None:
    command = [sys.executable, "-m", "voxspool_worker", "check", "--redis"]
    good = subprocess.run([*command, redis_server.url], capture_output=True, env=clean_env(), timeout=60, check=False)
    said = good.stdout.decode()
    for what in ("python", "redis", "tone", "piper", "en_US-joe-medium", "licence"):
        assert what in said
    no_redis = [*command, f"redis://127.0.0.1:{free_port()}"]
    bad = subprocess.run(no_redis, capture_output=True, env=clean_env(), timeout=60, check=False)
    assert bad.returncode == 1
    assert b"MISS  redis" in bad.stdout


def start_speak(redis_server: RedisServer, out: Path, *, text: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "voxspool", "speak", text, "-o", str(out), "--redis", redis_server.url]
    return subprocess.Popen([*command, "--voice", "sine-live"], stderr=subprocess.PIPE, env=clean_env())


def test_ctrl_c_cancels_a_speak_and_leaves_no_file(
    redis_server: RedisServer, start_worker: StartWorker, client: Client, tmp_path: Path
) -> None:
    start_worker()
    speaking = start_speak(redis_server, tmp_path / "out.wav", text=SENTENCE * 9)
    until(lambda: client.overview().running and client.overview().running[0].spoken_s > 0.2, "the first audio")
    (job,) = client.overview().running
    until(lambda: list(tmp_path.glob(".out.wav.*.part")), "the partial file")
    speaking.send_signal(signal.SIGINT)
    _, error = speaking.communicate(timeout=20)
    assert speaking.returncode == 130
    assert b"interrupted" in error
    until(lambda: client.speech(job.id).status().state == "cancelled", "the job to be cancelled")
    assert list(tmp_path.glob("*out*")) == []


def test_a_killed_speak_leaves_no_file_under_the_final_name_and_the_job_continues(
    redis_server: RedisServer, start_worker: StartWorker, client: Client, tmp_path: Path
) -> None:
    start_worker()
    speaking = start_speak(redis_server, tmp_path / "out.wav", text=SENTENCE)
    until(lambda: client.overview().running and client.overview().running[0].spoken_s > 0.2, "the first audio")
    (job,) = client.overview().running
    speaking.kill()
    speaking.communicate()
    assert not (tmp_path / "out.wav").exists()
    assert client.speech(job.id).wait().pos * 2 == len(tone(SENTENCE))


def test_ctrl_c_ends_follow_and_not_the_job(
    redis_server: RedisServer, start_worker: StartWorker, client: Client
) -> None:
    start_worker()
    speech = client.enqueue(SENTENCE, voice="sine-live")
    command = [sys.executable, "-m", "voxspool", "follow", speech.id, "--raw", "--redis", redis_server.url]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env())
    assert following.stdout is not None
    assert following.stdout.read(4800)
    following.send_signal(signal.SIGINT)
    _, error = following.communicate(timeout=20)
    assert following.returncode == 130
    assert f"voxspool follow {speech.id}".encode() in error
    assert speech.wait().pos * 2 == len(tone(SENTENCE))


def test_a_full_disk_gives_one_clear_line_and_leaves_no_file(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    limited = 'ulimit -f 64; exec "$@"'  # 64 blocks: no file grows past 64 KiB, as on a full disk
    out = tmp_path / "out.wav"
    command = ["bash", "-c", limited, "-", sys.executable, "-m", "voxspool", "speak", SENTENCE * 3, "-o", str(out)]
    environ = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url}
    done = subprocess.run(command, capture_output=True, env=environ, timeout=60, check=False)
    assert f"cannot write {out}" in one_line(done)
    assert list(tmp_path.glob("*out*")) == []


def test_speak_shows_a_progress_line_on_a_terminal(
    redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    command = [
        sys.executable,
        "-m",
        "voxspool",
        "speak",
        SENTENCE,
        "-o",
        str(tmp_path / "a.wav"),
        "--redis",
        redis_server.url,
    ]
    terminal, end = os.openpty()
    environ = clean_env() | {"TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen([*command, "--voice", "sine-live"], stderr=end, stdout=end, env=environ) as speaking:
        os.close(end)
        shown = b""
        while True:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # the terminal's other end is closed
                break
            shown += part
        assert speaking.wait(30) == 0
    os.close(terminal)
    assert b"s of speech  first audio after" in shown
    assert b"%" in shown
