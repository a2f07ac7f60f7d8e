"""What the tests of the queue package share: a clock of the test, and a client as a worker has it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.manual_clock import ManualClock
from voxspool.connections import connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.support.processes import RedisServer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def workers_client(db: redis.Redis, shared_redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Yield a client as a worker has it: ids may have any bytes."""
    assert db.ping()  # it has emptied the server
    with contextlib.closing(connection.connect(shared_redis_server.url)) as client:
        yield client
