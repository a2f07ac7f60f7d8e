"""Dialogues with Redis, written once and held by a plain client or an asyncio one.

A dialogue is a generator. It yields each request as a Call and is resumed with Redis's reply, or with the error that
the request raised. It yields a Pause to wait. All other values that it yields are for its caller. A dialogue does no
I/O; `stream` and `run` do, and their asyncio versions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import redis
from redis import asyncio as redis_asyncio

from voxspool.connections.retries import retrying_for

T = TypeVar("T")
R = TypeVar("R")

RETRY_S: Final = 10.0
"""How long a request is tried again, in seconds: as long as ten tries take where connections are refused."""
REPLY_S: Final = 20.0
"""The longest wait for a reply in asyncio, with all tries of redis-py, in seconds; a plain client's is like it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to Redis."""

    send: Callable[[Any], Any]
    """Called with a client of redis-py. Its result is the reply, or an awaitable of it for an asyncio client."""
    retry_s: float = RETRY_S
    """How long the request is tried again, in seconds."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait, after which the dialogue is resumed."""

    seconds: float


Dialogue: TypeAlias = Generator[Call | Pause | T, Any, R]
"""Yields calls, pauses and values of type T, and returns an R."""


class _Talk(Generic[T, R]):
    """A dialogue and its current step; None when it is over."""

    def __init__(self, dialogue: Dialogue[T, R]) -> None:
        self._dialogue = dialogue
        self.step: Call | Pause | T | None = None
        self.result: Any = None
        self.resume(None)

    def resume(self, reply: Any) -> None:  # noqa: ANN401 - a reply of Redis
        """Continue with a reply."""
        self._advance(self._dialogue.send, reply)

    def fail(self, error: redis.RedisError) -> None:
        """Continue with an error where the request stands."""
        self._advance(self._dialogue.throw, error)

    def _advance(self, go: Callable[[Any], Call | Pause | T], value: Any) -> None:  # noqa: ANN401 - see above
        try:
            self.step = go(value)
        except StopIteration as done:
            self.step, self.result = None, done.value


def stream(dialogue: Dialogue[T, Any], client: redis.Redis) -> Iterator[T]:
    """Hold a dialogue, and yield its values. Raises what the dialogue does, and redis.RedisError."""
    talk = _Talk(dialogue)
    while talk.step is not None:
        if isinstance(talk.step, Call):
            _answer(talk, talk.step, client)
        elif isinstance(talk.step, Pause):
            time.sleep(talk.step.seconds)
            talk.resume(None)
        else:
            yield talk.step
            talk.resume(None)


def run(dialogue: Dialogue[Any, R], client: redis.Redis) -> R:
    """Hold a dialogue that yields calls alone, and return its result. Raises as `stream` does."""
    talk = _Talk(dialogue)
    while isinstance(talk.step, Call):
        _answer(talk, talk.step, client)
    result: R = talk.result
    return result


async def stream_async(dialogue: Dialogue[T, Any], client: redis_asyncio.Redis) -> AsyncIterator[T]:
    """Hold a dialogue in an event loop; see `stream`."""
    talk = _Talk(dialogue)
    while talk.step is not None:
        if isinstance(talk.step, Call):
            await _answer_async(talk, talk.step, client)
        elif isinstance(talk.step, Pause):
            await asyncio.sleep(talk.step.seconds)
            talk.resume(None)
        else:
            yield talk.step
            talk.resume(None)


async def run_async(dialogue: Dialogue[Any, R], client: redis_asyncio.Redis) -> R:
    """Hold a dialogue in an event loop; see `run`."""
    talk = _Talk(dialogue)
    while isinstance(talk.step, Call):
        await _answer_async(talk, talk.step, client)
    result: R = talk.result
    return result


def _answer(talk: _Talk[Any, Any], call: Call, client: redis.Redis) -> None:
    try:
        with retrying_for(call.retry_s):
            reply = call.send(client)
    except redis.RedisError as error:
        talk.fail(error)
    else:
        talk.resume(reply)


async def _answer_async(talk: _Talk[Any, Any], call: Call, client: redis_asyncio.Redis) -> None:
    try:
        with retrying_for(call.retry_s):
            reply = await _bounded(call.send(client))
    except redis.RedisError as error:
        talk.fail(error)
    else:
        talk.resume(reply)


async def _bounded(work: Awaitable[T]) -> T:
    """Wait for a reply, REPLY_S at the longest. Raises redis.TimeoutError.

    redis-py's own timeout uses asyncio.wait_for, which before Python 3.12 sometimes swallows a cancellation.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=REPLY_S)
        if not done:
            raise redis.TimeoutError(f"no reply within {REPLY_S:g} s")
        return task.result()
    finally:
        task.cancel()
