"""A segment store that is open, metrics and processes that speak segments, for the tests of narration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.segments import NarrationProcess
from voxspool.store.segments import Store
from voxspool_worker.monitoring.metrics import Metrics
from voxspool_worker.narration import segment_speaker, segment_workers
from voxspool_worker.narration.store_handle import StoreHandle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis


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


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for segments, and renew leases, every few milliseconds."""
    monkeypatch.setattr(segment_workers, "IDLE_POLL_S", 0.005)
    monkeypatch.setattr(segment_workers, "GIVE_BACK_POLL_S", 0.001)
    monkeypatch.setattr(segment_workers, "RENEW_S", 0.005)
    monkeypatch.setattr(segment_speaker, "CHUNK_WAIT_S", 0.05)


@pytest.fixture
def new_process(db: redis.Redis, store_handle: StoreHandle) -> Iterator[Callable[..., NarrationProcess]]:
    processes: list[NarrationProcess] = []

    def new(name: str = "a-worker", rows: int = 8) -> NarrationProcess:
        processes.append(NarrationProcess(db, store_handle, name, rows))
        return processes[-1]

    yield new
    for process in processes:
        process.stop()


@pytest.fixture
def process(new_process: Callable[..., NarrationProcess]) -> NarrationProcess:
    """Return a process whose engine waits until the test opens its gate."""
    process = new_process()
    process.engine.gate.clear()
    return process
