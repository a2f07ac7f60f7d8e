"""Receive the commands that RQ's tools send to a worker: stop one job or execution, or shut the worker down."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import redis.exceptions
from rq.command import PUBSUB_CHANNEL_TEMPLATE, parse_payload

from voxspool.connections.namespaces import prefix_of, qualified

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis
    from redis.client import PubSub, PubSubWorkerThread

log = logging.getLogger(__name__)

POLL_S: Final = 5.0
"""How long the thread waits for a message before it waits again, in seconds. Between two waits redis-py connects afresh
if another connection of its pool found that the server is no longer the primary."""


class CommandListener:
    """Listens on the worker's channel, in a thread of its own. No message can end the thread: anybody may publish."""

    def __init__(
        self,
        redis: Redis,
        worker: str,
        *,
        stop_job: Callable[[object], None],
        shut_down: Callable[[], None],
        redis_away: Callable[[Exception], None],
        wait: Callable[[float], object],
    ) -> None:
        """Store the callbacks. `stop_job` receives the id of a job or an execution; `wait` waits for some seconds."""
        self.channel = qualified(PUBSUB_CHANNEL_TEMPLATE % worker, prefix_of(redis))  # replies name it so
        self._redis = redis
        self._stop_job = stop_job
        self._shut_down = shut_down
        self._redis_away = redis_away
        self._wait = wait
        self._thread: PubSubWorkerThread | None = None

    def start(self) -> None:
        """Subscribe, and start the thread. Raises RedisError if Redis is not available."""
        pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call] # redis-py's own
        pubsub.subscribe(**{self.channel: self.handle})
        self._thread = pubsub.run_in_thread(sleep_time=POLL_S, daemon=True, exception_handler=self._failed)

    def stop(self) -> None:
        """Ask the thread to end; it closes its connection."""
        if self._thread:
            self._thread.stop()

    def handle(self, message: dict[str, Any]) -> None:
        """Execute the command in a message. Ignore messages that are not commands, and unknown commands."""
        try:
            payload = parse_payload(message)
            command = payload["command"]
        except Exception as error:  # noqa: BLE001 - anybody may publish, and this thread must not end
            log.warning("command.unreadable error=%s", type(error).__name__)
            return
        if command == "shutdown":
            self._shut_down()
        elif command in ("stop-job", "stop-execution"):
            self._stop_job(payload.get("execution_id") or payload.get("job_id"))

    def _failed(self, error: Exception, pubsub: PubSub, thread: PubSubWorkerThread) -> None:
        """Wait after an error of Redis: redis-py subscribes again by itself."""
        del pubsub, thread
        if not isinstance(error, redis.exceptions.RedisError):
            raise error
        self._redis_away(error)
        self._wait(1.0)
