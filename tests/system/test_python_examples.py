"""The examples in Python do what they say, as programs of their own, against a real Redis and a real worker."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.support.processes import ROOT, RedisServer, WorkerProcess, clean_env, until
from tests.support.reference import SENTENCE, tone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]
    Start = Callable[..., subprocess.Popen[str]]

EXAMPLES = ROOT / "examples" / "python"
LIMIT_S = 60
REDIS_TIMEOUT_S = 5
"""How long redis-py 8 waits for an answer, unless it is told otherwise, in seconds."""
ALONE = (
    "import runpy, sys; sys.modules.update(voxspool=None, voxspool_worker=None); del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a script where neither of our packages can be imported."""


@pytest.fixture
def start(redis_server: RedisServer, tmp_path: Path) -> Start:
    """Start an example in the test's folder, against the test's Redis."""

    def started(
        name: str, *arguments: str, program: tuple[str, ...] = (), stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *(program or (str(EXAMPLES / name),)), *arguments]
        environ = clean_env() | {"REDIS_URL": redis_server.url}
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True)

    return started


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; give the exit code, what was printed and what was reported."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return process.returncode, out, err or ""


# articles.py


@pytest.fixture
def articles(tmp_path: Path) -> list[str]:
    """Three short articles; give their names."""
    names = [f"article-{number}.txt" for number in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(SENTENCE * (number + 1))
    return names


def test_articles_are_spoken_once_however_often_it_runs(
    client: Client, start_worker: StartWorker, start: Start, db: redis.Redis, tmp_path: Path, articles: list[str]
) -> None:
    arguments = ("articles.py", *articles, "-o", "spoken", "--suffix", ".wav")
    first = start(*arguments)
    until(lambda: db.llen("rq:queue:voxspool-auto-batch") == 3, "the articles to be enqueued")
    first.send_signal(signal.SIGINT)
    finish(first)
    second = start(*arguments)
    start_worker()
    assert finish(second) == (0, "", "")
    assert len(db.keys("rq:job:*")) == 3
    for number, name in enumerate(articles):
        pcm, _ = soundfile.read(tmp_path / "spoken" / name.replace(".txt", ".wav"), dtype="int16")
        assert pcm.tobytes() == tone(SENTENCE * (number + 1))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "spoken").iterdir()}
    db.flushall()
    assert finish(start(*arguments)) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "spoken").iterdir()} == written
    assert db.keys("rq:job:*") == []
    assert client.overview().running == []


def test_an_article_that_cannot_be_spoken_is_named_and_the_others_are_spoken(
    start_worker: StartWorker, start: Start, tmp_path: Path, articles: list[str]
) -> None:
    start_worker()
    (tmp_path / "long.txt").write_text("x" * 100_001)
    code, out, err = finish(start("articles.py", "long.txt", *articles, "-o", "spoken"))
    assert (code, out) == (1, "")
    assert err.startswith("long.txt: the text has 100,001 characters and the limit is 100,000; ")
    assert err.count("\n") == 1
    assert len(list((tmp_path / "spoken").glob("*.mp3"))) == 3


def test_on_a_terminal_the_articles_progress_is_shown(
    start_worker: StartWorker, start: Start, articles: list[str]
) -> None:
    start_worker()
    ours, theirs = pty.openpty()
    process = start("articles.py", *articles, "-o", "spoken", stderr=theirs)
    os.close(theirs)
    shown = b""
    while part := _read(ours):
        shown += part
    assert finish(process)[:2] == (0, "")
    assert b"articles" in shown
    assert b"100%" in shown


def _read(terminal: int) -> bytes:
    """Read from a terminal; nothing where its last writer has gone, which Linux reports as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


# resume.py


@pytest.mark.parametrize("ends_by", [signal.SIGINT, signal.SIGKILL])
def test_a_speech_is_received_whole_though_its_reader_stops(
    client: Client, start_worker: StartWorker, start: Start, tmp_path: Path, ends_by: signal.Signals
) -> None:
    start_worker()
    client.enqueue(SENTENCE * 2, voice="sine-live", id="speech")
    target, position = tmp_path / "speech.pcm", tmp_path / "speech.pcm.position"
    first = start("resume.py", "speech", "speech.pcm")
    until(lambda: position.exists() and target.stat().st_size > 48_000, "a second of speech")
    first.send_signal(ends_by)
    code, _, err = finish(first)
    assert code == (130 if ends_by is signal.SIGINT else -signal.SIGKILL)
    had = target.stat().st_size
    assert had < len(tone(SENTENCE * 2)), "it stopped before the end"
    with target.open("ab") as file:
        file.write(b"written, and its position was not")
    assert finish(start("resume.py", "speech", "speech.pcm")) == (0, "", f"complete: {len(tone(SENTENCE * 2))} bytes\n")
    assert target.read_bytes() == tone(SENTENCE * 2)
    assert "24000 Hz" in err or ends_by is signal.SIGKILL


def test_what_is_not_of_this_speech_is_not_written_to(
    client: Client, start_worker: StartWorker, start: Start, tmp_path: Path
) -> None:
    start_worker()
    client.enqueue(SENTENCE, id="one")
    client.enqueue(SENTENCE, id="two")
    (tmp_path / "mine").write_bytes(b"something else")
    assert finish(start("resume.py", "one", "one.pcm"))[0] == 0
    for job, name in (("one", "mine"), ("two", "one.pcm")):
        before = (tmp_path / name).read_bytes()
        assert finish(start("resume.py", job, name)) == (
            1, "", f"{name} is not what was read of job {job} before; name another file\n"
        )  # fmt: skip
        assert (tmp_path / name).read_bytes() == before
    code, _, err = finish(start("resume.py", "nobody", "new.pcm"))
    assert (code, err.count("\n")) == (1, 1)
    assert "nobody" in err


# plain_rq.py


def test_a_producer_without_our_package_speaks_however_long_it_waits(
    start_worker: StartWorker, start: Start, tmp_path: Path
) -> None:
    process = start("", SENTENCE, "out.wav", program=("-c", ALONE, str(EXAMPLES / "plain_rq.py")))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(REDIS_TIMEOUT_S + 1)
    start_worker()
    assert finish(process) == (0, "", "")
    pcm, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert (pcm.tobytes(), rate_hz) == (tone(SENTENCE), 24_000)


def test_a_producer_without_our_package_learns_why_a_speech_failed(start_worker: StartWorker, start: Start) -> None:
    start_worker()
    code, out, err = finish(start("plain_rq.py", "x" * 100_001, "out.wav"))
    assert (code, out) == (1, "")
    assert err.startswith("not spoken: the text has 100,001 characters and the limit is 100,000")
