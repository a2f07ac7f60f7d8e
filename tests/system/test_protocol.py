"""The commands of docs/protocol.md for producers without Python work, and its description of the keys is right."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT, until
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

DOCS = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
ENQUEUE, CANCEL, ACKNOWLEDGE = (block for block in re.findall(r"```sh\n(redis-cli .*?)```", DOCS, re.DOTALL))
(DIGEST,) = re.findall(r"```sh\n(printf .*?)```", DOCS, re.DOTALL)


def run_as_documented(db: redis.Redis, line: str) -> object:
    """Send what `redis-cli --eval` makes of a documented line (script, keys, a comma, arguments); return the reply."""
    redis_cli, option, name, *words = shlex.split(line)
    assert (redis_cli, option) == ("redis-cli", "--eval")
    comma = words.index(",")
    script = (ROOT / "producer" / "voxspool" / "lua" / name).read_text(encoding="utf-8")
    return db.execute_command("EVAL", script, comma, *words[:comma], *words[comma + 1 :])


def enqueue_as_documented(db: redis.Redis) -> object:
    """Send the documented script, and return its reply."""
    return run_as_documented(db, ENQUEUE.replace("\\\n", " "))


def missing_in_docs(fields: dict[bytes, bytes]) -> list[str]:
    """Return the fields of a hash that docs/protocol.md does not name."""
    return [field.decode() for field in fields if f"`{field.decode()}`" not in DOCS]


def test_a_job_enqueued_by_the_documented_commands_is_spoken(
    db: redis.Redis, client: Client, start_worker: StartWorker
) -> None:
    assert enqueue_as_documented(db) == b"enqueued"
    assert enqueue_as_documented(db) == b"enqueued", "sent again after a lost reply: it is its own job"
    assert db.llen("rq:queue:voxspool-auto-interactive") == 1
    assert client.enqueue("Good morning.", id="my-1").id == "my-1", "the Python client treats it as the same job"

    start_worker()
    assert client.speech("my-1").wait(timeout_s=20).segments == 1
    assert client.speech("my-1").spec() is not None
    until(lambda: db.hget("rq:job:my-1", "status") == b"finished", "RQ to record the end")
    for key in ("rq:job:my-1", keys.audio("my-1"), keys.control("my-1")):
        assert 3500 < db.ttl(key) <= 3600
    assert db.zcard("rq:wip:voxspool-auto-interactive") == 0


def test_a_digest_made_as_documented_is_that_of_the_client_and_stands_in_the_documented_command() -> None:
    made = subprocess.run(["bash", "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    assert made == JobSpec("Good morning.", id="my-1").digest
    assert made in ENQUEUE


@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_a_job_enqueued_by_plain_commands_is_spoken_with_plain_or_compressed_data(
    db: redis.Redis, client: Client, start_worker: StartWorker, pack: Callable[[bytes], bytes]
) -> None:
    start_worker()
    (example,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL))
    data = pack(json.dumps(["voxspool_worker.tasks.synthesize", None, [example], {}]).encode())
    queue = f"voxspool-{example['engine']}-{example['priority']}"
    with db.pipeline() as transaction:
        transaction.hset(f"rq:job:{example['id']}", mapping={"data": data, "origin": queue, "status": "queued"})
        transaction.rpush(f"rq:queue:{queue}", example["id"])
        transaction.execute()
    assert client.speech(example["id"]).wait(timeout_s=20).segments > 0


def test_a_waiting_job_is_cancelled_as_documented(db: redis.Redis, client: Client) -> None:
    enqueue_as_documented(db)
    assert run_as_documented(db, CANCEL) == b"cancelled"
    assert client.speech("my-1").status().state == "cancelled"
    assert run_as_documented(db, CANCEL) == b"cancelled"


def test_a_reader_acknowledges_as_documented(db: redis.Redis) -> None:
    position = shlex.split(ACKNOWLEDGE)[-2]
    assert run_as_documented(db, ACKNOWLEDGE) == b"noted", "the job waits"
    assert db.hget(keys.acknowledged("my-1"), "pos") == position.encode()
    db.hset(keys.control("my-1"), "state", "running")
    assert run_as_documented(db, ACKNOWLEDGE) == b"unasked", "the job has neither live_s nor window_s"
    db.hset(keys.control("my-1"), "live_s", "6")
    assert run_as_documented(db, ACKNOWLEDGE) == b"noted"
    db.hset(keys.control("my-1"), "state", "done")
    assert run_as_documented(db, ACKNOWLEDGE) == b"done"


def test_the_cancel_field_alone_stops_a_job(db: redis.Redis, client: Client, start_worker: StartWorker) -> None:
    enqueue_as_documented(db)
    db.hset("voxspool:{my-1}:ctl", "cancel", "alice")
    start_worker()
    until(lambda: client.speech("my-1").status().state == "cancelled", "the job to end")
    ((_, fields),) = db.xrevrange(keys.audio("my-1"), count=1)
    assert json.loads(fields[b"data"]) == {"by": "alice"}


def test_every_field_of_the_control_hash_and_of_a_worker_hash_is_documented(
    db: redis.Redis, client: Client, start_worker: StartWorker
) -> None:
    worker = start_worker()
    speech = client.enqueue("Good morning. " * 500)
    until(lambda: db.hexists(keys.control(speech.id), "holder"), "a running job")
    assert not missing_in_docs(db.hgetall(keys.control(speech.id)))
    assert not missing_in_docs(db.hgetall(keys.worker(worker.name)))
    speech.cancel()
