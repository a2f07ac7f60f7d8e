"""The Redis keys of RQ that the worker reads and writes; tests compare them with RQ's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def queue_key(queue: str) -> str:
    """Return the key of a queue. List: the ids of the jobs that wait."""
    return Queue.redis_queue_namespace_prefix + queue


def scheduled_key(queue: str) -> str:
    """Return the key of the jobs that wait for a time before they go into a queue. Sorted set: ids by that time."""
    return ScheduledJobRegistry.key_template.format(queue)


def job_key(job: str) -> str:
    """Return the key of a job. Hash: RQ's record of the job."""
    return Job.redis_job_namespace_prefix + job


def worker_key(worker: str) -> str:
    """Return the key of a worker. Hash: RQ's record of the worker."""
    return BaseWorker.redis_worker_namespace_prefix + worker


def workers_keys(queues: Sequence[str]) -> list[str]:
    """Return the keys of RQ's lists of workers. Sets: the keys of all workers, then of those that serve each queue."""
    return [BaseWorker.redis_workers_keys, *(WORKERS_BY_QUEUE_KEY % queue for queue in queues)]


def runs_key(worker: str) -> str:
    """Return the key of a worker's runs. Set: the names of its runs, as in RQ's registries."""
    return f"rq:worker:{worker}:executions"


def flat(fields: Mapping[str, Any]) -> list[Any]:
    """Return a mapping in the form of a script's arguments: field, value, field, value."""
    return [item for pair in fields.items() for item in pair]
