"""The example consumer in JavaScript follows real jobs by the rules in docs/protocol.md."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import soundfile as sf

from tests.support.processes import ROOT, RedisServer, clean_env, until
from voxspool.protocol import keys
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Entry, Mark, encode_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import WorkerProcess
    from tests.support.proxy import Proxy
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

TEXT = "Good morning. The train to Kiel leaves at seven. "
LIMIT_S = 60


def missing(what: str) -> None:
    """Skip the test on a developer's machine, and fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@dataclass(frozen=True)
class Follow:
    """Runs `node follow.mjs` with the test's Redis."""

    folder: Path
    url: str

    def start(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        command = ["node", "follow.mjs", *arguments, "--redis", self.url]
        return subprocess.Popen(command, cwd=self.folder, stdout=stdout, stderr=subprocess.PIPE, env=clean_env())

    def run(self, *arguments: str) -> tuple[int, bytes, str]:
        with self.start(*arguments) as process:
            try:
                said, why = process.communicate(timeout=LIMIT_S)
            finally:
                process.kill()
        return process.returncode, said, why.decode()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example with its dependencies in the versions of its lock file."""
    if not (shutil.which("node") and shutil.which("npm")):
        missing("the example in JavaScript needs node and npm")
    folder = tmp_path_factory.mktemp("javascript")
    for name in ("package.json", "package-lock.json", "follow.mjs"):
        shutil.copy(ROOT / "examples" / "javascript" / name, folder)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        missing(f"npm ci ended with exit code {done.returncode}: {done.stderr[-500:]}")
    return folder


@pytest.fixture
def follow(example: Path, redis_server: RedisServer) -> Follow:
    return Follow(example, redis_server.url)


def pcm_of(client: Client, job: str, after: str = "0-0") -> bytes:
    return b"".join(chunk.pcm for chunk in client.speech(job).chunks(after))


def add(db: redis.Redis, job: str, entry_id: str, entry: Entry) -> None:
    """Write an entry to the stream of a job, as a worker does."""
    db.xadd(keys.audio(job), {"type": entry.type, "pos": entry.pos, "data": encode_data(entry)}, id=entry_id)


def begin(pos: int) -> Begin:
    return Begin(pos, 24_000, "tone", "sine-1", "sine", "en", 0)


def samples(start: int, end: int) -> bytes:
    return b"".join((number % 30_000).to_bytes(2, "little") for number in range(start, end))


def test_audio_arrives_while_the_job_is_spoken_and_is_complete_at_the_end(
    follow: Follow, client: Client, db: redis.Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    client.enqueue(TEXT * 100, id="long")
    heard = tmp_path / "heard.pcm"
    with heard.open("wb") as out, follow.start("long", stdout=out.fileno()) as process:
        worker = start_worker()
        until(lambda: db.xlen(keys.audio("long")) > 20, "the first entries")
        worker.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: heard.stat().st_size > 20_000, "audio in the middle of the job")
            assert db.hget(keys.control("long"), "state") == b"running"
        finally:
            worker.process.send_signal(signal.SIGCONT)
        said = process.communicate(timeout=LIMIT_S)[1].decode()
    assert process.returncode == 0, said
    assert heard.read_bytes() == pcm_of(client, "long")
    assert said.splitlines()[0] == "begin 1-1 at 0: 24000 Hz, tone, voice sine"
    marks = [line for line in said.splitlines() if line.startswith("mark ")]
    assert len(marks) == client.speech("long").status().segments


def test_a_reader_in_the_middle_of_a_job_that_was_enqueued_again_stops(follow: Follow, db: redis.Redis) -> None:
    """An attempt with `first` belongs to another speech: its samples must not continue those of the old one."""
    db.hset(keys.control("again"), mapping={"state": "running", "attempt": 1})
    add(db, "again", "1-1", begin(0))
    with follow.start("again") as process:
        assert process.stderr
        assert process.stderr.readline().startswith(b"begin 1-1")
        with db.pipeline() as restart:
            restart.delete(keys.audio("again"))
            restart.hset(keys.control("again"), mapping={"state": "ended", "past": 1})
            data = encode_data(begin(0)).replace(b"{", b'{"first":2,', 1)
            restart.xadd(keys.audio("again"), {"type": "begin", "pos": 0, "data": data}, id="2-1")
            restart.execute()
        add(db, "again", "2-2", Audio(0, samples(0, 100)))
        add(db, "again", "2-3", End(100, 0.1, 1, None, None))
        heard, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, heard) == (1, b"")
    assert b"was enqueued again after entry 1-1" in said
    assert follow.run("again")[:2] == (0, samples(0, 100)), "a new reader has the new speech"


def test_reading_resumes_after_any_entry(follow: Follow, client: Client, start_worker: StartWorker) -> None:
    start_worker()
    speech = client.enqueue(TEXT)
    received = list(speech.entries())
    whole = pcm_of(client, speech.id)
    middle = next(str(one.id) for one in received[5:] if isinstance(one.entry, Audio))
    mark = next(one for one in received if isinstance(one.entry, Mark))

    assert follow.run(speech.id)[:2] == (0, whole)
    assert follow.run(speech.id, "--from", middle)[:2] == (0, pcm_of(client, speech.id, middle))
    assert isinstance(mark.entry, Mark)
    assert follow.run(speech.id, "--from", str(mark.id))[:2] == (0, whole[2 * mark.entry.end_pos :])
    assert follow.run(speech.id, "--from", str(received[-1].id)) == (0, b"", "")

    status, said, why = follow.run(speech.id, "--from", "9-9")
    assert (status, said) == (1, b"")
    assert "has no entry 9-9" in why


def test_a_wav_file_is_complete_and_a_missing_job_leaves_no_file(
    follow: Follow, client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    speech = client.enqueue(TEXT)
    path = tmp_path / "speech.wav"
    assert follow.run(speech.id, "-o", str(path))[0] == 0
    pcm, rate_hz = sf.read(path, dtype="int16")
    assert (pcm.tobytes(), rate_hz) == (pcm_of(client, speech.id), 24_000)

    status, _, why = follow.run("nothing", "-o", str(tmp_path / "nothing.wav"))
    assert (status, why) == (1, "there is no job nothing, or its stream has expired\n")
    assert not list(tmp_path.glob("nothing*"))


def test_a_failed_job_ends_with_its_error_message(follow: Follow, client: Client, start_worker: StartWorker) -> None:
    speech = client.enqueue(TEXT, voice="nobody")
    start_worker()
    status, said, why = follow.run(speech.id)
    assert (status, said) == (1, b"")
    assert why.splitlines()[-1].startswith("the speech failed (unknown-voice): engine tone has no voice 'nobody'")
    status, _, why = follow.run(speech.id, "--from", "1-2")
    assert (status, why) == (1, f"job {speech.id} is failed, and its stream has no entry after 1-2\n")


def test_a_cancelled_job_ends_with_the_name_of_who_cancelled_it(follow: Follow, client: Client) -> None:
    speech = client.enqueue(TEXT)
    with follow.start(speech.id) as process:
        speech.cancel("alice")
        said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, *said) == (1, b"", b"the speech was cancelled by alice\n")


def test_after_a_crash_and_a_resume_each_sample_is_written_once(follow: Follow, db: redis.Redis) -> None:
    """The stream of the figure in docs/protocol.md gives each sample once."""
    job = "crash"
    db.hset(keys.control(job), "state", "running")
    entries = {
        "1-1": begin(0),
        "1-2": Audio(0, samples(0, 1200)), "1-3": Audio(1200, samples(1200, 2400)), "1-4": Mark(0, 2400, 0, 0, 6, 0),
        "1-5": Audio(2400, samples(2400, 3600)), "1-6": Audio(3600, samples(3600, 4800)),
        "2-1": begin(2400),
        "2-2": Audio(2400, samples(2400, 3600)), "2-3": Audio(3600, samples(3600, 4800)),
        "2-4": Audio(4800, samples(4800, 6000)), "2-5": Mark(2400, 6000, 1, 6, 12, 0),
        "2-6": End(6000, 0.25, 2, 0.1, 0.1),
    }  # fmt: skip
    for entry_id, entry in entries.items():
        add(db, job, entry_id, entry)
    assert follow.run(job)[:2] == (0, samples(0, 6000))
    assert follow.run(job, "--from", "1-6")[:2] == (0, samples(4800, 6000))
    assert follow.run(job, "--from", "1-4")[:2] == (0, samples(2400, 6000))


@pytest.mark.parametrize(
    ("entry_id", "entry", "why"),
    [
        ("1-3", Audio(0, b"\0\0"), "entry 1-3 follows 1-1: Redis lost the entries between them"),
        ("2-2", Audio(0, b"\0\0"), "entry 2-2 follows 1-1: Redis lost the entries between them"),
        ("1-2", Audio(7, b"\0\0"), "entry 1-2 starts at sample 7, but the samples before it end at 0"),
    ],
)
def test_lost_entries_and_samples_are_reported(
    follow: Follow, db: redis.Redis, entry_id: str, entry: Entry, why: str
) -> None:
    add(db, "hole", "1-1", begin(0))
    add(db, "hole", entry_id, entry)
    status, said, told = follow.run("hole")
    assert (status, said, told.splitlines()[-1]) == (1, b"", why)


def test_a_broken_connection_is_replaced(follow: Follow, db: redis.Redis) -> None:
    db.hset(keys.control("broken"), "state", "running")
    add(db, "broken", "1-1", begin(0))

    def connection() -> str | None:
        named = [one["id"] for one in db.client_list() if one["name"] == "voxspool-follow" and one["cmd"] == "xread"]
        return named[0] if named else None

    with follow.start("broken") as process:
        until(connection, "a waiting reader")
        before = connection()
        db.client_kill_filter(_id=before)
        until(lambda: connection() not in (None, before), "the reader's next connection")
        add(db, "broken", "1-2", Audio(0, samples(0, 50)))
        add(db, "broken", "1-3", End(50, 0.002, 0, 0.1, 0.1))
        said, why = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, samples(0, 50)), why


def test_it_comes_back_from_a_half_open_connection(
    example: Path, client: Client, start_worker: StartWorker, proxies: Callable[[], Proxy], tmp_path: Path
) -> None:
    proxy = proxies()
    start_worker()
    client.enqueue(TEXT * 10, id="far", voice="sine-live")
    heard = tmp_path / "heard.pcm"
    with heard.open("wb") as out, Follow(example, proxy.url).start("far", stdout=out.fileno()) as process:
        until(lambda: heard.stat().st_size > 20_000, "audio in the middle of the job")
        proxy.half_open()
        said = process.communicate(timeout=LIMIT_S)[1].decode()
    assert process.returncode == 0, said
    assert heard.read_bytes() == pcm_of(client, "far")


def test_it_keeps_a_live_job_whose_reader_is_slow(
    follow: Follow, client: Client, db: redis.Redis, start_worker: StartWorker
) -> None:
    client.enqueue(TEXT * 100, id="live", voice="sine-live", live_s=1)
    with follow.start("live") as process:
        until(lambda: db.exists(keys.acknowledged("live")), "a report of a job that waits")
        start_worker()
        until(lambda: db.hget(keys.acknowledged("live"), "pos") not in (None, b"0"), "a report")
        stuck_at = time.monotonic() + 4
        until(lambda: time.monotonic() > stuck_at, "longer than it may be unread")  # nobody reads the pipe meanwhile
        assert db.hget(keys.control("live"), "state") == b"running"
        process.kill()
    until(lambda: db.hget(keys.control("live"), "state") == b"cancelled", "the job to end without its reader")


def test_it_has_the_script_of_the_package(example: Path) -> None:
    script = (ROOT / "producer/voxspool/lua/ack.lua").read_text(encoding="utf-8")
    code = [line.partition(" -- ")[0] for line in script.splitlines() if not line.lstrip().startswith("--")]
    assert "".join("\n  " + line for line in code) in (example / "follow.mjs").read_text(encoding="utf-8")


def test_without_redis_it_gives_up_quickly(example: Path, redis_server: RedisServer) -> None:
    redis_server.stop()
    started = time.monotonic()
    status, said, why = Follow(example, redis_server.url).run("any")
    assert (status, said) == (1, b"")
    assert "ECONNREFUSED" in why
    assert time.monotonic() - started < LIMIT_S / 2


def test_a_read_only_user_can_follow(
    follow: Follow, client: Client, db: redis.Redis, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    start_worker()
    speech = client.enqueue(TEXT)
    speech.wait()
    docs = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    (line,) = (line for line in docs.splitlines() if line.startswith("ACL SETUSER listener "))
    db.execute_command(*line.split())
    url = redis_server.url.replace("redis://", "redis://listener:a-long-secret@")
    assert Follow(follow.folder, url).run(speech.id)[:2] == (0, pcm_of(client, speech.id))
    assert Follow(follow.folder, url).run("nobodys")[0] == 1


def test_wrong_usage_ends_with_exit_code_2(follow: Follow) -> None:
    assert follow.run()[0] == 2
    assert follow.run("job", "--from", "here")[0] == 2
    assert follow.run("job", "--loud")[0] == 2


@pytest.mark.usefixtures("example")
def test_the_wav_lines_in_the_docs_work(tmp_path: Path) -> None:
    docs = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    lines = docs.split("```js\n")[1].split("```")[0]
    given = 'import { writeFileSync } from "node:fs"; const rate = 22050, pcm = Buffer.from([1, 0, 2, 0]);'
    script = f"{given}\n{lines}"
    subprocess.run(["node", "--input-type=module", "-e", script], cwd=tmp_path, check=True, timeout=LIMIT_S)
    pcm, rate_hz = sf.read(tmp_path / "speech.wav", dtype="int16")
    assert (pcm.tolist(), rate_hz) == ([1, 2], 22_050)


def test_a_cancelled_entry_may_be_the_only_entry_of_its_attempt(follow: Follow, db: redis.Redis) -> None:
    add(db, "late", "1-1", begin(0))
    add(db, "late", "2-1", Cancelled(0, "bob"))
    status, said, why = follow.run("late")
    assert (status, said, why.splitlines()[-1]) == (1, b"", "the speech was cancelled by bob")
