"""Enqueue jobs as a producer and claim them as a worker, on a real Redis, for tests of the worker's queue package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.reference import SENTENCE
from voxspool.protocol import keys
from voxspool.protocol.jobs import TASK, JobSpec, priority_of, queue_names
from voxspool.protocol.stream import Begin
from voxspool_worker.queue.job_spec import ClaimedJob, decode_job
from voxspool_worker.queue.rq_records import RqRecords, Why
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    import redis

    from voxspool_worker.jobs.execution import JobExecution

QUEUE = "voxspool-tone-batch"


def enqueue(db: redis.Redis, id: str, depends_on: Job | None = None, **options: object) -> Job:  # noqa: A002 - RQ's name
    """Enqueue a short speech at batch priority, with options of RQ's `enqueue_call`."""
    spec = JobSpec("Hello.", id=id, engine="tone", priority="batch")
    queue = Queue(QUEUE, connection=db, serializer=JSONSerializer)
    return queue.enqueue_call(TASK, args=(spec.encode(),), job_id=id, depends_on=depends_on, description="x", **options)


def records_of(db: redis.Redis, worker: str = "a-worker") -> RqRecords:
    return RqRecords(lambda **_: db, worker)


def claim(records: RqRecords, run: str = "a-run") -> ClaimedJob:
    """Claim the first job of the queue."""
    found = records.claim([QUEUE], run)
    assert found
    job = records.empty_job(found.run.job)
    job.restore(found.fields)
    return decode_job(job, found.run)


def fetch(db: redis.Redis, id: str) -> Job:  # noqa: A002 - RQ's name
    return Job.fetch(id, connection=db, serializer=JSONSerializer)


def waiting(db: redis.Redis, queue: str = QUEUE) -> list[str]:
    """Return the ids of the jobs that wait in a queue, the first one first."""
    return [id_.decode() for id_ in db.lrange(f"rq:queue:{queue}", 0, -1)]


def put(db: redis.Redis, queue: str, job: str, **options: str) -> None:
    """Enqueue a job in a queue that the test chooses; options are those of JobSpec."""
    spec = JobSpec(SENTENCE, id=job, priority=priority_of(queue), **options)  # type: ignore[arg-type]
    rq_queue = Queue(queue, connection=db, serializer=JSONSerializer)
    rq_queue.enqueue_call(TASK, args=(spec.encode(),), job_id=job, description="x")


def begin(db: redis.Redis, queue: str, *, engine: str = "tone", sample_rate: int = 24_000) -> None:
    """Claim the first job of a queue, publish its `begin` entry, and requeue it, as a worker does that stops."""
    records = records_of(db, "w")
    found = records.claim([queue], "first")
    assert found
    Publisher(Scripts(db), found.run, keep_s=60).begin(Begin(0, sample_rate, engine, "m", "v", "en", 0), {})
    assert records.requeue(found.run, Why.RETURNED) == "requeued"


def write_card(db: redis.Redis, engine: str, voices: dict[str, list[str]]) -> None:
    """Write the card of a worker that does not exist."""
    card = {
        "engine": engine, "model": "m", "device": "cpu", "sample_rate": 24_000, "voices": json.dumps(voices),
        "queues": ",".join(queue_names(engine)), "jobs": 1, "running": 0, "rows": 1, "rows_in_use": 0, "host": "h",
        "pid": 1,
    }  # fmt: skip
    db.sadd(keys.WORKERS, f"{engine}-card")
    db.hset(keys.worker(f"{engine}-card"), mapping=card)


def remove_card(db: redis.Redis, engine: str) -> None:
    db.delete(keys.worker(f"{engine}-card"))


def lease_s(db: redis.Redis, run: JobExecution) -> float | None:
    """Return how long a lease still lasts by Redis's clock, in seconds; None if the run has none."""
    until_s = db.zscore(run.lease_key, run.composite)
    return None if until_s is None else until_s - db.time()[0]


def expire_lease(db: redis.Redis, run: JobExecution) -> None:
    """Set the lease of a run to a time long ago, so that it has expired."""
    assert db.zadd(run.lease_key, {run.composite: 1}, xx=True, ch=True) == 1


def deaths(db: redis.Redis, job: str) -> int:
    """Return how many workers a job has crashed, from its hash in Redis."""
    return int(db.hget(f"rq:job:{job}", "deaths") or 0)
