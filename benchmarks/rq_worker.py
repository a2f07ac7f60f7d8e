"""RQ's SimpleWorker with a job that does nothing: the overhead of RQ alone, for comparison.

Run as a program: python -m benchmarks.rq_worker REDIS_URL
"""

from __future__ import annotations

import sys
from typing import Final

QUEUE: Final = "bench"
NOTHING: Final = "benchmarks.rq_worker.nothing"


def nothing() -> None:
    """Do nothing: the function of every job."""


def main(url: str) -> None:
    """Run a worker until the process is killed."""
    from redis import Redis
    from rq import Queue
    from rq import SimpleWorker as Worker
    from rq.serializers import JSONSerializer

    connection = Redis.from_url(url)
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    Worker([queue], connection=connection, serializer=JSONSerializer).work(logging_level="WARNING")


if __name__ == "__main__":
    main(sys.argv[1])
