"""Set up all tests: their order, their signal handlers, and no telemetry in this process and its children."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from voxspool.settings import forbid_telemetry

if TYPE_CHECKING:
    from collections.abc import Generator

    from xdist.remote import Producer

forbid_telemetry()
# On a busy machine a test and the generation of its examples can be slow.
settings.register_profile("voxspool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("voxspool")


# A shell starts background commands with SIGINT ignored, and nohup ignores SIGHUP. Children inherit an ignored signal,
# but not a handler. With handlers here, the programs under test react to Ctrl-C and to a closed terminal as usual.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that they do not run alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


class Scheduling(LoadScopeScheduling):
    """Run all tests that compute with PyTorch in one process, and each other test in the next free process.

    Two PyTorch programs at once on two cores take many times as long as one after the other: their threads busy-wait.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of the test's group. One process runs a whole group; most tests are a group of their own."""
        return "xtts" if re.match(r"tests/(worker/engines/xtts/|system/test_(bench_)?xtts\.py)", nodeid) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Escape lone surrogates in a report: xdist cannot send them, and would stop the whole run."""
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
