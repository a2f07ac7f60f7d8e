"""What all tests share: their order and their signals; and nothing reports home, neither from here nor from a child."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from voxspool.settings import forbid_telemetry

if TYPE_CHECKING:
    from collections.abc import Generator

forbid_telemetry()
# A busy machine is slow, in a test and in making its examples.
settings.register_profile("voxspool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("voxspool")


# A shell starts a command in the background with SIGINT ignored, and nohup ignores SIGHUP. A child inherits that, but
# not a handler: with one here, the programs under test react to Ctrl-C and to a closed terminal as they do elsewhere.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run what computes with PyTorch, and start the tests that take longest first.

    Two PyTorch programs on two cores take many times as long as one after the other, as their threads wait in a loop.
    """
    for item in items:
        if item.path.parent.name == "xtts" or item.path.name in {"test_xtts.py", "test_bench_xtts.py"}:
            item.add_marker(pytest.mark.xdist_group("xtts"))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Let a test fail on half a surrogate pair: in a report, it would end the whole run, as xdist cannot send it."""
    return sendable((yield))


def sendable(data: object) -> object:
    match data:
        case str():
            return data.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {sendable(key): sendable(value) for key, value in data.items()}
        case list() | tuple():
            return type(data)(sendable(value) for value in data)
        case _:
            return data
