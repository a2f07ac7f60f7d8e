"""Scripts that other clients flush from Redis while they are used, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from redis.exceptions import NoScriptError

from voxspool_worker import lua

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import RedisServer


class FlushedRedis(redis.Redis):
    """A client whose scripts are flushed right after they are loaded, `flushes` times."""

    flushes = 0

    def script_load(self, script: str) -> str:  # type: ignore[override] # redis-py also takes bytes
        loaded: str = super().script_load(script)
        if self.flushes:
            self.flushes -= 1
            self.script_flush()
        return loaded


@pytest.fixture
def client(shared_redis_server: RedisServer) -> Iterator[FlushedRedis]:
    client = FlushedRedis(port=shared_redis_server.port)
    client.flushall()
    client.script_flush()
    yield client
    client.close()


def beat(client: redis.Redis) -> bytes:
    keys = [f"{{job}}:{number}" for number in range(6)]
    said: bytes = lua.load(client, "beat")(keys=keys, args=["job:run", "run", 9, 60])
    return said


def test_a_script_that_was_flushed_is_sent_again(client: FlushedRedis) -> None:
    for client.flushes in (0, 1, lua.TRIES - 1):
        client.script_flush()
        assert beat(client) == b"lost"
        assert client.flushes == 0


def test_a_script_that_is_flushed_every_time_raises_an_error(client: FlushedRedis) -> None:
    client.flushes = 99
    with pytest.raises(NoScriptError):
        beat(client)
