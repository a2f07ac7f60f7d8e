"""Jobs on a real Redis for tests of the worker's queue package: enqueue as a producer, claim as a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from voxspool.protocol.jobs import TASK, JobSpec
from voxspool_worker.queue.job_spec import ClaimedJob, decode_job
from voxspool_worker.queue.rq_records import RqRecords

if TYPE_CHECKING:
    import redis

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
