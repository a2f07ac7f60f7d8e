"""RQ's record of this worker: the hash from which `rq info`, `Worker.all` and dashboards read it."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError
from rq.utils import now, utcformat
from rq.version import VERSION
from rq.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis


class RqWorkerRecord:
    """The fields of the hash that RQ's own workers write."""

    def __init__(self, name: str, queues: Sequence[str], redis: Redis) -> None:
        """Read what never changes. `redis` is asked for this worker's own address."""
        self._birth = {
            "birth": utcformat(now()),
            "queues": ",".join(queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": own_address(redis, name),
            "version": VERSION,
            "python_version": sys.version,
        }

    def fields(self, *, running: int, suspended: bool, statistics: dict[str, float]) -> dict[str, Any]:
        """Return all fields. `running` is the number of jobs, `suspended` whether RQ's workers are suspended."""
        state = WorkerStatus.SUSPENDED if suspended else WorkerStatus.IDLE
        return {
            **self._birth,
            "last_heartbeat": utcformat(now()),
            "state": (WorkerStatus.BUSY if running else state).value,
            **statistics,
        }


def own_address(redis: Redis, name: str) -> str:
    """Return the address from which Redis sees this worker, and name its connection; "unknown" if Redis cannot tell.

    redis-py 8 (`parse_client_info`) raises ValueError for the path of a Unix socket that holds a space or "=".
    """
    try:
        redis.client_setname(name)
        return str(redis.client_info()["addr"])
    except (ResponseError, ValueError):
        return "unknown"
