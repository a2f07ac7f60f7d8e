"""The commands of RQ's tools: which jobs they stop, and which messages are ignored. No test uses Redis."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq.command import send_command, send_shutdown_command

from voxspool_worker.queue.commands import CommandListener


class Channel:
    """The part of a Redis client that sends a command: it stores the published messages."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, channel: str, message: str) -> None:
        self.published.append((channel, message.encode()))


class Listener(CommandListener):
    """A listener whose callbacks record their calls."""

    def __init__(self) -> None:
        self.stopped: list[object] = []
        self.shut_down = 0
        super().__init__(
            redis.Redis(unix_socket_path="/nowhere", retry=None), "a-worker", stop_job=self.stopped.append,
            shut_down=self._count, redis_away=lambda _: None, wait=lambda _: None,
        )  # fmt: skip

    def _count(self) -> None:
        self.shut_down += 1


@pytest.mark.parametrize(
    ("command", "named", "stopped"),
    [
        ("stop-job", {"job_id": "one"}, ["one"]),
        ("stop-execution", {"job_id": "two", "execution_id": "3"}, ["3"]),
        ("stop-job", {}, [None]),
        ("kill-horse", {}, []),
        ("a-command-of-tomorrow", {"job_id": "one"}, []),
    ],
)
def test_a_command_names_the_job_or_the_execution_to_stop(
    command: str, named: dict[str, str], stopped: list[str | None]
) -> None:
    channel, listener = Channel(), Listener()
    send_command(channel, "a-worker", command, **named)  # type: ignore[arg-type]
    ((name, data),) = channel.published
    assert name == listener.channel == "rq:pubsub:a-worker"
    listener.handle({"type": "message", "channel": name.encode(), "data": data})
    assert (listener.stopped, listener.shut_down) == (stopped, 0)


def test_the_shutdown_command_stops_the_worker() -> None:
    channel, listener = Channel(), Listener()
    send_shutdown_command(channel, "a-worker")  # type: ignore[arg-type]
    listener.handle({"data": channel.published[0][1]})
    assert (listener.stopped, listener.shut_down) == ([], 1)


@pytest.mark.parametrize(
    "message",
    [
        {}, {"data": None}, {"data": 1}, {"data": b""}, {"data": b"\xff"}, {"data": b"[]"}, {"data": b"{}"},
        {"data": b"7"},
    ],
)  # fmt: skip
def test_a_message_that_is_not_a_command_is_ignored(message: dict[str, Any]) -> None:
    listener = Listener()
    listener.handle(message)
    assert (listener.stopped, listener.shut_down) == ([], 0)
