"""What all tests share: the order in which they start; and nothing reports home, neither from here nor from a child."""

from __future__ import annotations

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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the tests that take longest first, so that none of them runs on alone at the end."""
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
