"""A dialogue is held alike by a plain and an asyncio client; here stand-ins that answer from a list."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis

from voxspool.reading.dialogue import Call, run, run_async, stream, stream_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool.reading.dialogue import Dialogue

    Held = tuple[list[str], list[str]]  # what was yielded, what was asked

LOST = redis.ConnectionError("lost")
LATE = redis.TimeoutError("late")


class Answers:
    """Answers requests in order; an error is raised."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def get(self, name: str) -> Any:  # noqa: ANN401 - as redis-py
        self.asked.append(name)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncAnswers(Answers):
    async def get(self, name: str) -> Any:  # noqa: ANN401 - as redis-py
        await asyncio.sleep(0)
        return super().get(name)


def get(name: str) -> Call:
    return Call(lambda client: client.get(name))


def added() -> Dialogue[str, int]:
    """Yield what each of two requests brought; return their sum. An error of the second counts as 0."""
    first = yield get("a")
    yield f"a is {first}"
    try:
        second = yield get("b")
    except redis.TimeoutError as error:
        yield f"b is {error}"
        second = 0
    else:
        yield f"b is {second}"
    return int(first + second)


def silent(*answers: int) -> Dialogue[str, int]:
    """Return the sum of replies."""
    total = 0
    for number in answers:
        total += yield get(str(number))
    return total


def plain_stream(dialogue: Dialogue[str, int], *answers: object) -> Held:
    client: Any = Answers(*answers)
    return list(stream(dialogue, client)), client.asked


def async_stream(dialogue: Dialogue[str, int], *answers: object) -> Held:
    client: Any = AsyncAnswers(*answers)

    async def collect() -> list[str]:
        return [value async for value in stream_async(dialogue, client)]

    return asyncio.run(collect()), client.asked


def plain_run(dialogue: Dialogue[str, int], *answers: object) -> int:
    client: Any = Answers(*answers)
    return run(dialogue, client)


def async_run(dialogue: Dialogue[str, int], *answers: object) -> int:
    client: Any = AsyncAnswers(*answers)
    return asyncio.run(run_async(dialogue, client))


STREAMS = [plain_stream, async_stream]
RUNS = [plain_run, async_run]


@pytest.mark.parametrize("hold", STREAMS)
def test_its_values_are_yielded_and_its_requests_are_sent_in_order(
    hold: Callable[..., Held],
) -> None:
    assert hold(added(), 1, 2) == (["a is 1", "b is 2"], ["a", "b"])


@pytest.mark.parametrize("hold", STREAMS)
def test_an_error_of_a_request_is_raised_where_it_was_made(hold: Callable[..., Held]) -> None:
    assert hold(added(), 1, LATE)[0] == ["a is 1", "b is late"]
    with pytest.raises(redis.ConnectionError, match="lost"):
        hold(added(), LOST)


@pytest.mark.parametrize("hold", RUNS)
def test_its_result_is_returned(hold: Callable[..., int]) -> None:
    assert hold(silent(), 1) == 0
    assert hold(silent(5, 6), 1, 2) == 3
    with pytest.raises(redis.ConnectionError, match="lost"):
        hold(silent(5, 6), 1, LOST)


def test_a_dialogue_that_is_dropped_sends_no_more_requests() -> None:
    client: Any = Answers(1, 2)
    values = stream(added(), client)
    assert next(values) == "a is 1"
    del values
    assert client.asked == ["a"]


def test_a_cancelled_wait_cancels_the_request() -> None:
    cancelled: list[str] = []

    class Silent:
        async def get(self, name: str) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

    async def wait() -> None:
        client: Any = Silent()
        task = asyncio.create_task(run_async(silent(7), client))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    asyncio.run(wait())
    assert cancelled == ["7"]
