"""The registration of a worker: its card, RQ's record of it, and its name in the lists of workers.

`rq info`, `Worker.all` and dashboards read RQ's record; producers read the card.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError
from rq.utils import now, utcformat
from rq.version import VERSION

from voxspool.protocol import keys
from voxspool_worker import lua
from voxspool_worker.queue.rq_keys import flat, runs_key, worker_key, workers_keys
from voxspool_worker.speech.publisher import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis
    from rq.worker import WorkerStatus

DEATH_S: Final = 60
"""Time for which RQ's record of a stopped worker is kept, in seconds: as by RQ's own workers."""


class RqRegistration:
    """The registration of one worker, which serves these queues."""

    def __init__(self, redis: Redis, worker: str, queues: Sequence[str]) -> None:
        """Create the record, with the address of this worker as `redis` sees it."""
        self._worker = worker
        self._lists = workers_keys(queues)
        self._card = lua.load(redis, "card")
        self._birth = {
            "birth": utcformat(now()),
            "queues": ",".join(queues),
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "ip_address": own_address(redis, worker),
            "version": VERSION,
            "python_version": sys.version,
        }

    def renew(self, card: Mapping[str, Any], state: WorkerStatus, statistics: Mapping[str, float]) -> list[str]:
        """Write the card and RQ's record, renew their lifetimes, and add the worker to all lists.

        Return the lists that have another type, each as a sentence.

        `statistics` are the fields of RQ's record that count the jobs and the working time in seconds.
        """
        offered = flat(card)
        record = {**self._birth, "last_heartbeat": utcformat(now()), "state": state.value, **statistics}
        every_worker, *by_queue = self._lists
        spoilt: list[bytes] = self._card(
            keys=[
                keys.worker(self._worker), keys.WORKERS, worker_key(self._worker), every_worker,
                runs_key(self._worker), *by_queue,
            ],
            args=[
                self._worker, keys.WORKER_TTL_S, keys.WORKER_TTL_S + LEASE_S, len(offered), *offered, *flat(record),
            ],
        )  # fmt: skip
        return [one.decode(errors="replace") for one in spoilt]

    def sign_off(self, redis: Redis) -> None:
        """Remove the card, and the worker from all lists, over this connection. RQ's record stays for DEATH_S."""
        record = worker_key(self._worker)
        with redis.pipeline() as pipeline:
            pipeline.srem(keys.WORKERS, self._worker)
            pipeline.delete(keys.worker(self._worker), runs_key(self._worker))
            for listed in self._lists:
                pipeline.srem(listed, record)
            pipeline.hset(record, "death", utcformat(now()))
            pipeline.expire(record, DEATH_S)
            pipeline.execute()


def own_address(redis: Redis, name: str) -> str:
    """Name the connection after the worker, and return its address as Redis sees it; "unknown" if Redis does not tell.

    redis-py 8 (`parse_client_info`) raises ValueError if the path of a Unix socket contains a space or "=".
    """
    try:
        redis.client_setname(name)
        return str(redis.client_info()["addr"])
    except (ResponseError, ValueError):
        return "unknown"
