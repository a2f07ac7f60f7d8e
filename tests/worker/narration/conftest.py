"""A segment store that is open, and metrics, for the tests of narration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.store.segments import Store
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration.store_handle import StoreHandle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def store_handle(store: Store, tmp_path: Path) -> StoreHandle:
    """Return a handle that has opened the store."""
    handle = StoreHandle(tmp_path / "store")
    handle.start()
    assert handle.store().id == store.id
    return handle


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()
