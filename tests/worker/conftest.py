"""A real Redis server for the worker's unit tests: started once in each test process, emptied before each test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.processes import RedisServer
from voxspool import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def db(shared_redis_server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis(port=shared_redis_server.port)) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        yield client


@pytest.fixture
def client(shared_redis_server: RedisServer, db: redis.Redis) -> Iterator[Client]:
    """Yield a client of the emptied Redis."""
    assert db.ping()
    with Client(f"redis://127.0.0.1:{shared_redis_server.port}/0") as client:
        yield client
