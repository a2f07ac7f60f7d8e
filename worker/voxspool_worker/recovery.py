"""What brings back the jobs of a dead worker. Every live worker runs it; it needs no process of its own.

A job whose lease ran out goes back to the front of its queue, without a retry. Each decision is one script, so any
number of rescuers at once bring a job back once. A job is popped and claimed in one step (lua/dequeue.lua), so there is
nothing else to bring back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from voxspool.protocol.jobs import all_queue_names

if TYPE_CHECKING:
    from voxspool_worker.ledger import Ledger

log = logging.getLogger(__name__)


def look(ledger: Ledger) -> None:
    """Bring back the jobs whose lease ran out, in every queue of voxspool."""
    for queue in all_queue_names():
        try:
            for run in ledger.expired(queue):
                if ledger.requeue(run, expired_only=True) == "requeued":
                    log.warning("job.rescued job=%s queue=%s", run.job, queue)
        except ResponseError as error:  # one queue's spoilt key must not keep the others' jobs from coming back
            log.error("rescue.refused queue=%s error=%s", queue, error)  # noqa: TRY400 - Redis's word says it all
