"""The cards of live workers, for a job that fails unless another worker can run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from voxspool import workers
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool.workers import WorkerCard

CARD_WAIT_S: Final = 4.5
"""How long to wait for a card that is missing, in seconds: the next beat of a live worker is due within 3 s."""


def live_workers(redis: Redis, wait: Callable[[float], object]) -> list[WorkerCard]:
    """Return the cards of live workers.

    If a registered worker has no card, call `wait` with CARD_WAIT_S and look again: the worker is dead, or lives and
    its card expired because Redis's clock jumped.
    """
    members: Any = redis.smembers(keys.WORKERS)
    names = workers.names_of(members)
    replies: Any = workers.ask_cards(names, redis)
    if all(replies):
        return workers.cards(names, replies)
    wait(CARD_WAIT_S)
    return workers.live(redis)
