"""The examples in Python do what they describe, run as programs with a real Redis and a real worker."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.support.processes import ROOT, RedisServer, WorkerProcess, clean_env, free_port, until
from tests.support.reference import SENTENCE, tone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis
    from playwright.sync_api import Page

    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]
    Start = Callable[..., subprocess.Popen[str]]

BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
LISTEN = """() => {
  const context = new AudioContext(), ear = context.createAnalyser();
  context.createMediaElementSource(audio).connect(ear).connect(context.destination);
  read.addEventListener("click", () => context.resume());
  const sound = new Float32Array(ear.fftSize);
  window.peak = () => { ear.getFloatTimeDomainData(sound); return Math.max(...sound); };
}"""
"""JavaScript that defines `peak()`: how loud the page is at this moment, from 0 to 1."""
EXAMPLES = ROOT / "examples" / "python"
LIMIT_S = 60
"""Maximum run time of an example, in seconds."""
LIVE_S = 30
"""Time after which a job of the web page is cancelled if it has no reader, in seconds: LIVE_S of read_aloud.py."""
REDIS_TIMEOUT_S = 5
"""Default socket timeout of redis-py 8, in seconds."""
ALONE = (
    "import runpy, sys; sys.modules.update(voxspool=None, voxspool_worker=None); del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Python code that runs a script in a process that can import neither voxspool nor voxspool_worker."""


@pytest.fixture
def start(redis_server: RedisServer, tmp_path: Path) -> Start:
    """Start an example in the test's folder with the test's Redis."""

    def started(
        name: str, *arguments: str, program: tuple[str, ...] = (), stderr: int = subprocess.PIPE, voice: str = ""
    ) -> subprocess.Popen[str]:
        command = [sys.executable, *(program or (str(EXAMPLES / name),)), *arguments]
        environ = clean_env() | {"REDIS_URL": redis_server.url, "VOXSPOOL_VOICE": voice}
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True)

    return started


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of a process, and return its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return process.returncode, out, err or ""


def find_browser() -> str:
    """Return the path of a browser that decodes MP3; skip the test if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip("there is no Chromium: apt install chromium-headless-shell")


# articles.py


@pytest.fixture
def articles(tmp_path: Path) -> list[str]:
    """Write three short articles, and return their names."""
    names = [f"article-{number}.txt" for number in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(SENTENCE * (number + 1))
    return names


def test_articles_are_spoken_once_in_several_runs(
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


def test_articles_names_a_file_that_cannot_be_spoken_and_speaks_the_others(
    start_worker: StartWorker, start: Start, tmp_path: Path, articles: list[str]
) -> None:
    start_worker()
    (tmp_path / "long.txt").write_text("x" * 100_001)
    code, out, err = finish(start("articles.py", "long.txt", *articles, "-o", "spoken"))
    assert (code, out) == (1, "")
    assert err.startswith("long.txt: the text has 100,001 characters and the limit is 100,000; ")
    assert err.count("\n") == 1
    assert len(list((tmp_path / "spoken").glob("*.mp3"))) == 3


def test_articles_shows_progress_on_a_terminal(start_worker: StartWorker, start: Start, articles: list[str]) -> None:
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
    """Read from a terminal. Return nothing if all writers have closed it, which Linux reports as an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


# resume.py


@pytest.mark.parametrize("ends_by", [signal.SIGINT, signal.SIGKILL])
def test_resume_receives_a_whole_speech_in_two_runs(
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
    assert had < len(tone(SENTENCE * 2)), "the reader stopped before the end"
    with target.open("ab") as file:
        file.write(b"written without a position")
    assert finish(start("resume.py", "speech", "speech.pcm")) == (0, "", f"complete: {len(tone(SENTENCE * 2))} bytes\n")
    assert target.read_bytes() == tone(SENTENCE * 2)
    assert "24000 Hz" in err or ends_by is signal.SIGKILL


def test_resume_does_not_write_to_a_file_of_another_origin(
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
            1, "", f"{name} does not contain the beginning of job {job}; choose another file\n"
        )  # fmt: skip
        assert (tmp_path / name).read_bytes() == before
    code, _, err = finish(start("resume.py", "nobody", "new.pcm"))
    assert (code, err.count("\n")) == (1, 1)
    assert "nobody" in err


# plain_rq.py


def test_plain_rq_waits_for_a_worker_and_writes_the_speech_without_our_packages(
    start_worker: StartWorker, start: Start, tmp_path: Path
) -> None:
    process = start("", SENTENCE, "out.wav", program=("-c", ALONE, str(EXAMPLES / "plain_rq.py")))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(REDIS_TIMEOUT_S + 1)
    start_worker()
    assert finish(process) == (0, "", "")
    pcm, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert (pcm.tobytes(), rate_hz) == (tone(SENTENCE), 24_000)


def test_plain_rq_reports_why_a_speech_failed(start_worker: StartWorker, start: Start) -> None:
    start_worker()
    code, out, err = finish(start("plain_rq.py", "x" * 100_001, "out.wav"))
    assert (code, out) == (1, "")
    assert err.startswith("not spoken: the text has 100,001 characters and the limit is 100,000")


# read_aloud.py


@pytest.fixture
def page(start: Start) -> Iterator[Page]:
    """Open the page in a browser, with `peak()` connected to its <audio> element."""
    from playwright.sync_api import sync_playwright

    port = free_port()
    program = ("-m", "uvicorn", "read_aloud:app", "--app-dir", str(EXAMPLES), "--port", str(port))
    server = start("", program=program, voice="sine-live")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page()
        until(lambda: listens(port), "the web server")
        page.goto(f"http://127.0.0.1:{port}/")
        page.evaluate(LISTEN)
        yield page
        browser.close()
    server.terminate()
    code, _, said = finish(server)
    assert "Traceback" not in said
    assert code in (0, -signal.SIGTERM)


def listens(port: int) -> bool:
    """Return whether a program listens on a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_the_page_plays_a_speech_while_it_is_made_and_leaving_the_page_cancels_it(
    client: Client, start_worker: StartWorker, page: Page
) -> None:
    start_worker()
    page.fill("#text", SENTENCE * 40)
    page.click("#read")
    page.wait_for_function("audio.currentTime > 0.5 && peak() > 0.1")
    (running,) = client.overview().running
    assert running.segments_done < running.segments, "the page plays before the speech is complete"
    page.goto("about:blank")
    until(lambda: client.speech(running.id).status().state == "cancelled", "the job to be cancelled", LIVE_S / 2)


def test_the_page_plays_a_speech_to_its_end(client: Client, start_worker: StartWorker, page: Page) -> None:
    start_worker()
    page.fill("#text", SENTENCE)
    with page.expect_response("**/*.mp3") as replied:
        page.click("#read")
    page.wait_for_function("audio.ended")
    seconds = len(tone(SENTENCE)) / 2 / 24_000
    assert seconds <= page.evaluate("audio.currentTime") < seconds + 0.2, "the MP3 encoder adds a frame or two"
    job = replied.value.url.rpartition("/")[2].removesuffix(".mp3")
    assert client.speech(job).status().state == "ended"


def test_the_page_shows_why_a_text_cannot_be_read(page: Page, db: redis.Redis) -> None:
    page.fill("#text", "x" * 100_001)
    page.click("#read")
    page.wait_for_function("problem.value.startsWith('the text has 100,001 characters and the limit is 100,000')")
    assert db.keys("rq:job:*") == []
    assert page.request.get(page.url + "speeches/nobody.mp3").status == 503
