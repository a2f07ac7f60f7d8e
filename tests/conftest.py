"""What all tests share: the order in which they start; and nothing reports home, neither from here nor from a child."""

from __future__ import annotations

import pytest
from hypothesis import settings

from voxspool.settings import forbid_telemetry

forbid_telemetry()
settings.register_profile("voxspool", deadline=None)  # a busy machine is slow
settings.load_profile("voxspool")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the tests that take longest first, so that none of them runs on alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
