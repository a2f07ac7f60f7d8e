"""The place of a waiting job in its queue, and an estimate of how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError

from voxspool import workers
from voxspool.protocol import keys
from voxspool.reading.dialogue import Call
from voxspool.reading.follow import ask_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Never

    from voxspool.reading.dialogue import Dialogue
    from voxspool.workers import WorkerCard


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a waiting job is."""

    queue: str
    ahead: int
    """Jobs that its workers take before it: in its queue, and in the queues that they empty first."""
    wait_s: float | None
    """The estimated wait until a worker takes it, in seconds, from the jobs that the workers of its queue end in a
    minute; None if no worker serves it or none has ended a job yet. Jobs that come later in queues that are emptied
    first, and long texts, make it longer."""


def ask_queue_place(job: str) -> Dialogue[Never, QueuePlace | None]:
    """Return the place of a job in its queue; None if it does not wait in one, or this user of Redis may not ask.

    Raises UnknownJobError.
    """
    state = yield from ask_state(job)
    if state.state != "queued" or not state.queue:
        return None
    try:
        members = yield Call(lambda redis: redis.smembers(keys.WORKERS))
        names = workers.names_of(members)
        live = workers.cards(names, (yield Call(partial(workers.ask_cards, names))))
        serving = [card for card in live if state.queue in card.queues]
        first = sorted({queue for card in serving for queue in card.queues[: card.queues.index(state.queue)]})
        place, *lengths = yield Call(partial(_ask_lengths, job, state.queue, first))
    except NoPermissionError:
        return None
    if place is None:
        return None  # a worker has taken it, and has not begun its stream
    ahead = place + sum(lengths)
    return QueuePlace(state.queue, ahead, _estimate_s(ahead, serving))


def _estimate_s(ahead: int, serving: Sequence[WorkerCard]) -> float | None:
    """Return how long the workers take until they take a job with so many jobs ahead of it, in seconds."""
    if ahead < sum(max(0, card.jobs - card.running) for card in serving):
        return 0.0
    per_minute = sum(card.jobs_per_minute or 0 for card in serving)
    return (ahead + 1) / per_minute * 60 if per_minute else None


def _ask_lengths(job: str, queue: str, first: Sequence[str], redis: Any) -> Any:  # noqa: ANN401 - a plain or an asyncio client, untyped replies
    pipeline = redis.pipeline(transaction=False)
    pipeline.lpos(f"rq:queue:{queue}", job)
    for one in first:
        pipeline.llen(f"rq:queue:{one}")
    return pipeline.execute()
