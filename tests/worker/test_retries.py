"""Retries of Redis commands while a real Redis is at its memory limit."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ResponseError

from voxspool_worker.retries import FIRST_WAIT_S, LONGEST_WAIT_S, retry_while_redis_is_full

if TYPE_CHECKING:
    import redis


class Waits:
    """Records each wait; after `full_for` waits it removes the memory limit of Redis."""

    def __init__(self, db: redis.Redis, full_for: int) -> None:
        self.seconds: list[float] = []
        self._db = db
        self._full_for = full_for
        db.config_set("maxmemory", 1)

    def __call__(self, wait_s: float) -> None:
        self.seconds.append(wait_s)
        if len(self.seconds) == self._full_for:
            self._db.config_set("maxmemory", 0)


def test_a_refused_write_is_repeated_with_growing_waits_until_redis_has_room(
    db: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits = Waits(db, full_for=6)
    assert retry_while_redis_is_full(lambda: db.rpush("list", "item"), waits, "job=a-job") == 1
    assert waits.seconds == [FIRST_WAIT_S, 0.2, 0.4, 0.8, 1.6, LONGEST_WAIT_S]
    assert db.lrange("list", 0, -1) == [b"item"], "the refused calls wrote nothing"
    refused, has_room = caplog.messages
    assert refused.startswith("redis.full job=a-job error=")
    assert has_room == "redis.has_room job=a-job waited_s=5.1"


def test_a_write_that_redis_accepts_is_neither_repeated_nor_logged(
    db: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert retry_while_redis_is_full(lambda: db.rpush("list", "item"), pytest.fail, "job=a-job") == 1
    assert caplog.messages == []


def test_an_error_other_than_a_full_memory_is_raised_at_once(db: redis.Redis) -> None:
    db.set("text", "a")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        retry_while_redis_is_full(lambda: db.rpush("text", "item"), pytest.fail, "job=a-job")


def test_an_exception_from_wait_ends_the_retries(db: redis.Redis) -> None:
    db.config_set("maxmemory", 1)

    def stop(wait_s: float) -> None:
        raise InterruptedError(wait_s)

    with pytest.raises(InterruptedError):
        retry_while_redis_is_full(lambda: db.rpush("list", "item"), stop, "job=a-job")
