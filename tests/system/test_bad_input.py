"""Malformed jobs in Redis: the worker refuses each with one clear line, and continues to work."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import JSONSerializer, PickleSerializer

from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from voxspool import SpeechFailedError
from voxspool.protocol.jobs import TASK, JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

QUEUE = "voxspool-auto-interactive"
GOOD = JobSpec(SENTENCE, id="odd").encode()


def put(db: redis.Redis, function: str, *args: object, serializer: object = JSONSerializer, **options: Any) -> None:  # noqa: ANN401 - RQ's
    queue: Any = Queue(QUEUE, connection=db, serializer=serializer)
    queue.enqueue_call(function, args=args, job_id="odd", **options)


def assert_refused(client: Client, db: redis.Redis, worker: WorkerProcess, *, saying: str) -> None:
    """Assert that the reader gets the reason, RQ has the job as failed, no key is left, and the next job is spoken."""
    with pytest.raises(SpeechFailedError, match=saying) as failed:
        client.speech("odd").wait(timeout_s=20)
    assert "\n" not in str(failed.value)
    until(lambda: db.hget("rq:job:odd", "status") == b"failed", "the job to have failed in RQ")
    assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
    until(lambda: not db.keys("rq:wip:*"), "the leases to be deleted")
    assert db.keys("rq:queue:voxspool-*") == []
    assert worker.process.poll() is None
    assert "Traceback" not in worker.said()


@pytest.mark.parametrize(
    ("spec", "saying"),
    [
        (GOOD | {"version": 9}, "protocol version 9"),
        (GOOD | {"voice": 7}, "voice is 7"),
        (GOOD | {"speed": 9.5}, "speed 9.5 is outside"),
        (GOOD | {"surprise": 1}, 'an unknown field: "surprise"'),
        ({"version": 1, "id": "odd"}, "the job has no text"),
        (GOOD | {"text": "x" * 100_001}, "100,001 characters and the limit is 100,000"),
        (GOOD | {"id": "another"}, "job's id is 'odd', but its speech has the id 'another'"),
        ("just words", "JSON object"),
        (None, "JSON object"),
        (GOOD | {"engine": "piper"}, "speaks with tone, not piper"),
    ],
)
def test_a_malformed_spec_is_refused(
    spec: object, saying: str, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    put(db, TASK, spec)
    assert_refused(client, db, worker, saying=saying)


@pytest.mark.parametrize("function", ["os.system", "builtins.print", "voxspool_worker.tasks.speaker.get", "", "é.ü"])
def test_a_job_for_another_function_is_refused(
    function: str, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    put(db, function, "echo pwned > /tmp/pwned", description="x")
    assert_refused(client, db, worker, saying="names the function")


def test_a_pickled_job_is_refused(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    put(db, TASK, GOOD, serializer=PickleSerializer)
    assert_refused(client, db, worker, saying="not JSON")


def test_more_than_one_argument_is_refused(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    put(db, TASK, GOOD, "and", "more")
    assert_refused(client, db, worker, saying="exactly one argument")


def test_callbacks_are_refused(client: Client, start_worker: StartWorker, db: redis.Redis) -> None:
    worker = start_worker()
    put(db, TASK, GOOD, on_success=Callback("os.system"))
    assert_refused(client, db, worker, saying="callbacks or webhooks")


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "queued"},
        {"status": "queued", "data": b"\x80\x04garbage"},
        {"status": "queued", "data": zlib.compress(pickle.dumps((TASK, None, (GOOD,), {}))), "created_at": "yesterday"},
        {"status": "no such status", "data": b"[]"},
        {"status": "queued", "data": b"[]", "timeout": "soon"},
    ],
    ids=["no data", "garbage", "bad date", "bad status", "bad timeout"],
)
def test_a_malformed_job_hash_is_refused(
    fields: dict[str, Any], client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    db.hset("rq:job:odd", mapping=fields)
    db.rpush(f"rq:queue:{QUEUE}", "odd")
    assert_refused(client, db, worker, saying="cannot be taken|not JSON")


def expanding(count: int) -> bytes:
    """Return zlib's text of `count` megabytes of spaces."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(count)) + packer.flush()


MANY = b'["voxspool_worker.tasks.narrate",null,[{"passages":[' + b'["",0,null,null],' * 6_000_000 + b"0]}],{}]"


@pytest.mark.parametrize(
    "data", [expanding(500), zlib.compress(MANY, 1), b"[" + b"[]," * 20_000_000], ids=["spaces", "passages", "lists"]
)
def test_a_small_job_that_expands_to_gigabytes_is_refused_in_little_memory(
    data: bytes, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    before_bytes = peak_bytes(worker)
    db.hset("rq:job:odd", mapping={"status": "queued", "data": data})
    db.rpush(f"rq:queue:{QUEUE}", "odd")
    assert_refused(client, db, worker, saying="bytes")
    assert peak_bytes(worker) - before_bytes < 100 * 2**20


def peak_bytes(worker: WorkerProcess) -> int:
    """Return the largest memory that a worker has had, in bytes."""
    lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    (peak_kb,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak_kb) * 1024


@pytest.mark.parametrize("job_id", [b"\xff\xfe", b"a b", b"../../etc", "жук".encode(), b"x" * 5000, b"gone"])
def test_an_id_without_a_job_is_skipped(
    job_id: bytes, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    db.rpush(f"rq:queue:{QUEUE}", job_id)
    assert b"".join(chunk.pcm for chunk in client.enqueue(SENTENCE)) == tone(SENTENCE)
    until(lambda: db.keys("rq:queue:*") == [], "the queues to be empty")
    assert worker.process.poll() is None
    assert "Traceback" not in worker.said()


def test_a_refused_job_is_in_the_failed_registry_of_rq(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    worker = start_worker()
    put(db, "os.system", "true", description="x")
    assert_refused(client, db, worker, saying="names the function")
    job = Job.fetch("odd", connection=db, serializer=JSONSerializer)
    assert "names the function 'os.system'" in (job.latest_result().exc_string or "")
    assert Queue(QUEUE, connection=db).failed_job_registry.get_job_ids() == ["odd"]
