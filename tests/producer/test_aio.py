"""AsyncClient and AsyncSpeech have the methods of Client and Speech. tests/system/test_speech.py uses them."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import cast

import pytest

from voxspool import AsyncClient, AsyncEnqueue, AsyncSpeech, Client, Speech

PAIRS = [(Client, AsyncClient), (Speech, AsyncSpeech)]
METHODS = [(plain, asynchronous, name) for plain, asynchronous in PAIRS for name in vars(plain) if name[0] != "_"]
IMMEDIATE = {"speech", "encode", "keep", "enqueue"}
"""Methods that return at once: an iterator or an awaitable (`encode`), a context manager (`keep`), or both."""


def public(owner: type) -> list[str]:
    """Return the names of the public methods, in the order of the source."""
    return [name for name in vars(owner) if name[0] != "_"]


def parameters(owner: type, name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(vars(owner)[name]).parameters.values())


def returned(owner: type, name: str) -> str:
    """Return the annotation of what a method returns, without the difference between plain and asyncio."""
    annotation = str(inspect.signature(vars(owner)[name]).return_annotation)
    annotation = annotation.replace("AsyncEnqueue", "AsyncSpeech")  # which it returns when it is awaited
    return re.sub(r"Awaitable\[(\w+)\]", r"\1", re.sub("Async(?=Speech|Iterator)", "", annotation))


def test_the_call_that_enqueues_is_a_coroutine() -> None:
    async def call() -> AsyncSpeech:
        return cast("AsyncSpeech", "its handle")

    async def use() -> list[object]:
        task = asyncio.create_task(AsyncEnqueue(call()))
        return [await AsyncEnqueue(call()), await task, *await asyncio.gather(AsyncEnqueue(call()))]

    assert asyncio.run(use()) == ["its handle"] * 3
    assert asyncio.run(AsyncEnqueue(call())) == "its handle"
    left = AsyncEnqueue(call())
    assert inspect.isawaitable(left)
    left.close()


@pytest.mark.parametrize(("plain", "asynchronous"), PAIRS)
def test_both_have_the_same_methods_in_the_same_order(plain: type, asynchronous: type) -> None:
    assert public(asynchronous) == public(plain)
    assert len(public(plain)) > 10


@pytest.mark.parametrize(("plain", "asynchronous", "name"), METHODS)
def test_both_take_and_return_the_same(plain: type, asynchronous: type, name: str) -> None:
    assert parameters(asynchronous, name) == parameters(plain, name)
    assert returned(asynchronous, name) == returned(plain, name)


@pytest.mark.parametrize(("plain", "asynchronous", "name"), METHODS)
def test_both_have_the_same_first_line_of_documentation(plain: type, asynchronous: type, name: str) -> None:
    first, *_ = str(vars(asynchronous)[name].__doc__).splitlines()
    assert first == str(vars(plain)[name].__doc__).splitlines()[0]


@pytest.mark.parametrize(("plain", "asynchronous", "name"), METHODS)
def test_every_method_that_waits_for_redis_is_asynchronous(plain: type, asynchronous: type, name: str) -> None:
    method = vars(asynchronous)[name]
    iterates = inspect.isgeneratorfunction(vars(plain)[name])
    kind = inspect.isasyncgenfunction if iterates else inspect.iscoroutinefunction
    assert name in IMMEDIATE or kind(method)


def test_both_are_made_with_the_same_parameters_and_asyncio_with_one_more_for_rq() -> None:
    names = [one.name for one in parameters(Client, "__init__")]
    assert [one.name for one in parameters(AsyncClient, "__init__")] == [*names, "sync_redis"]
