"""RQ's SimpleWorker with a function that does nothing: what RQ alone costs, beside ours. Run as a script.

python rq_worker.py REDIS_URL
"""

from __future__ import annotations

import sys
from typing import Final

QUEUE: Final = "bench"
NOTHING: Final = "rq_worker.nothing"


def nothing() -> None:
    """Do nothing."""


def main(url: str) -> None:
    """Work until killed."""
    from redis import Redis
    from rq import Queue
    from rq import SimpleWorker as Worker
    from rq.serializers import JSONSerializer

    connection = Redis.from_url(url)
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    Worker([queue], connection=connection, serializer=JSONSerializer).work(logging_level="WARNING")


if __name__ == "__main__":
    main(sys.argv[1])
