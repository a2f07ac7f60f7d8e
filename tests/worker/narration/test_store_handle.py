"""Opening the worker's segment store in the background, and retrying a store that fails now and then."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import until
from voxspool.errors import StoreError
from voxspool.store.segments import Store
from voxspool_worker.narration import store_handle
from voxspool_worker.narration.store_handle import RETRY_WAITS_S, StoreHandle, retry_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def obstacle(tmp_path: Path) -> Path:
    """Return a file at the path of the store's parent folder."""
    path = tmp_path / "file"
    path.write_text("not a folder")
    return path


class FailingStore:
    """Counts calls; the first `failures` of them raise."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error

    def check(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return "stored"


# Opening


def test_a_store_that_opens_has_its_id_and_is_returned(tmp_path: Path) -> None:
    handle = StoreHandle(tmp_path / "store")
    assert handle.id == "", "nothing is opened before the start"
    handle.start()
    assert handle.store().id == handle.id == Store(tmp_path / "store").id


def test_the_first_attempt_to_open_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, may_open = threading.Event(), threading.Event()

    def slow_store(place: Path) -> Store:
        opening.set()
        may_open.wait(10)
        return Store(place)

    monkeypatch.setattr(store_handle, "Store", slow_store)
    handle = StoreHandle(tmp_path / "store")
    handle.start()
    assert opening.wait(10)
    monkeypatch.setattr(store_handle, "OPEN_LIMIT_S", 0.01)
    with pytest.raises(StoreError, match="it is being opened"):
        handle.store()
    monkeypatch.setattr(store_handle, "OPEN_LIMIT_S", 10)
    threading.Timer(0.02, may_open.set).start()
    assert handle.store().id


def test_a_store_that_cannot_be_opened_is_reported_with_the_reason_and_the_setting(obstacle: Path) -> None:
    handle = StoreHandle(obstacle / "store")
    handle.start()
    with pytest.raises(StoreError, match=r"cannot be used \(StoreError: .*correct VOXSPOOL_STORE"):
        handle.store()
    assert handle.id == ""
    handle.stop()


def test_a_store_is_opened_again_until_it_opens_and_the_same_reason_is_logged_once(
    obstacle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[Path] = []

    def counted(place: Path) -> Store:
        attempts.append(place)
        return Store(place)

    monkeypatch.setattr(store_handle, "Store", counted)
    monkeypatch.setattr(store_handle, "REOPEN_S", 0.001)
    handle = StoreHandle(obstacle / "store")
    handle.start()
    until(lambda: len(attempts) > 3, "several attempts")
    obstacle.unlink()
    until(lambda: handle.id, "the store to open")
    assert handle.store().id == handle.id
    assert [message[:10] for message in caplog.messages] == ["store.away"]


def test_a_handle_that_is_stopped_makes_no_further_attempt(obstacle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_handle, "REOPEN_S", 60.0)
    before = set(threading.enumerate())
    handle = StoreHandle(obstacle / "store")
    handle.start()
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "store")
    handle.stop()
    thread.join(10)
    assert not thread.is_alive()


# Retrying


def test_a_store_that_fails_twice_and_then_works_gives_its_result(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    waits: list[float] = []
    failing = FailingStore(2, StoreError("the network is slow"))
    assert retry_store(failing.check, waits.append) == "stored"
    assert waits == [0.5, 1.0]
    assert caplog.messages == ["store.away error=the network is slow"] * 2


def test_a_store_that_never_works_fails_after_the_last_wait() -> None:
    waits: list[float] = []
    failing = FailingStore(100, OSError("no space"))
    with pytest.raises(StoreError, match=r"segment store failed \(no space\)"):
        retry_store(failing.check, waits.append)
    assert waits == list(RETRY_WAITS_S)
    assert failing.calls == len(waits) + 1


def test_an_error_that_is_not_the_stores_is_raised_at_once() -> None:
    failing = FailingStore(1, ValueError("a mistake in the call"))
    with pytest.raises(ValueError, match="a mistake"):
        retry_store(failing.check, pytest.fail)
    assert failing.calls == 1
