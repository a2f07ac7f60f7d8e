"""Text that others wrote into Redis: no command and no worker shows its control characters or a forged line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import RedisServer, clean_env, until
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

EVIL = "\x1b]0;title\x07\x9b2J\u202e[/b]\n2026-01-01 00:00:00,000 INFO forged"
CARD = {
    "engine": "tone", "model": EVIL, "device": EVIL, "sample_rate": 24_000, "voices": json.dumps({EVIL: [EVIL]}),
    "queues": f"voxspool-tone-interactive,{EVIL}", "jobs": 8, "running": 0, "rows": 8, "rows_in_use": 0, "host": EVIL,
    "pid": 1, "fallback_from": EVIL, "jobs_ended": 1,
}  # fmt: skip


def run(redis_server: RedisServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url}
    command = [sys.executable, "-m", "voxspool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)


def assert_fit_to_show(printed: str) -> None:
    assert [one for one in printed if one != "\n" and (one < " " or "\x7f" <= one <= "\x9f")] == []
    assert "\u202e" not in printed
    assert [line for line in printed.splitlines() if line.startswith("2026-01-01")] == []


@pytest.fixture
def evil_job(client: Client, db: redis.Redis) -> str:
    """A job whose stream and state somebody else wrote."""
    job = client.enqueue("Hello.", engine="tone").id
    begin = {
        "protocol": 1, "format": "s16le", "sample_rate": 24_000, "engine": EVIL, "model": EVIL, "voice": EVIL,
        "language": EVIL, "seed": 0,
    }  # fmt: skip
    for id_, kind, data in (
        ("1-1", "begin", json.dumps(begin)),
        ("1-2", "failed", json.dumps({"code": EVIL, "error": EVIL})),
    ):
        db.xadd(keys.audio(job), {"type": kind, "pos": 0, "data": data}, id=id_)
    db.hset(
        keys.control(job),
        mapping={"state": "failed", "attempt": 1, "engine": EVIL, "voice": EVIL, "worker": EVIL, "segments": 1},
    )
    return job


@pytest.mark.parametrize("columns", ["40", "400"])
def test_no_card_stream_or_name_acts_on_the_terminal(
    redis_server: RedisServer, db: redis.Redis, evil_job: str, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    db.sadd(keys.WORKERS, EVIL)
    db.hset(keys.worker(EVIL), mapping=CARD)
    db.sadd("rq:queues", f"rq:queue:voxspool-{EVIL}-batch")
    monkeypatch.setitem(os.environ, "COLUMNS", columns)
    for arguments in (
        ["status"],
        ["status", evil_job],
        ["follow", evil_job, "-o", os.devnull + EVIL.replace("/", "") + ".wav"],
        ["follow", evil_job, "--raw"],
        ["voices"],
        ["cancel", evil_job],
        ["cancel", EVIL],
        ["pause", "batch"],
        ["enqueue", "Hi.", "--voice", "nobody", "--engine", "tone"],
    ):
        done = run(redis_server, *arguments)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)
        assert_fit_to_show(done.stdout + done.stderr)
    shown = run(redis_server, "status").stdout
    assert r"\x1b]0;title\x07" in shown.replace("\n", "")
    whole = json.loads(run(redis_server, "status", "--json").stdout)
    assert whole["workers"][0]["host"] == EVIL


def test_no_job_or_command_forges_a_line_of_the_workers_log(
    start_worker: Callable[..., WorkerProcess],
    client: Client,
    db: redis.Redis,
    tmp_path: Path,
) -> None:
    start_worker()
    job = "evil\n2026-01-01 00:00:00,000 INFO forged \x1b[2J"
    db.hset(f"rq:job:{job}", mapping={"data": b"nonsense", "description": EVIL, "origin": "voxspool-tone-interactive"})
    db.lpush("rq:queue:voxspool-tone-interactive", job)
    running = client.enqueue("Hello. " * 100, engine="tone", voice="sine-live")
    until(lambda: running.status().attempt, "the speech")
    running.cancel(EVIL)
    (log,) = tmp_path.glob("worker-*.log")
    until(lambda: "job.ended_early" in log.read_text(), "the end of the job in the log")
    until(lambda: "evil" in log.read_text(), "the refusal of the other job in the log")
    said = log.read_text()
    assert_fit_to_show(said)
    assert re.search(r"evil\\n2026-01-01", said)
