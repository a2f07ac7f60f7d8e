"""Accesses to a store that do not return, and objects in a store that are not files."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from tests.support.processes import until
from voxspool.errors import StoreError
from voxspool.store import bounded
from voxspool.store.bounded import BoundedBackend
from voxspool.store.segments import Store, StoredSegment, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = key_of("a")
PCM = np.arange(24_000, dtype=np.int16)
FIELDS: dict[str, Any] = {
    "sample_rate": 24_000, "engine": "tone", "model": "tone", "voice": "a", "language": "en", "seed": 7, "tries": 1,
    "fault": "", "elapsed_s": 0.5, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.1, "worker": "w",
}  # fmt: skip


class HangingBackend:
    """A place in memory; while `gone` is set, an access waits until it is cleared."""

    settle_s = 0.0

    def __init__(self) -> None:
        self.calls = 0
        self.there = threading.Event()
        self.there.set()

    def __str__(self) -> str:
        return "/mnt/dead"

    def get(self, name: str, most_bytes: int) -> bytes | None:
        del most_bytes
        self.calls += 1
        self.there.wait()
        return name.encode()

    def size_bytes(self, name: str) -> int | None:
        raise StoreError(f"{name} cannot be read")

    def put(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def create(self, name: str, data: bytes) -> bool:
        raise NotImplementedError

    def prepare(self) -> None: ...

    def tidy(self) -> None:
        self.there.wait()


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "CALL_LIMIT_S", 0.3)


@pytest.fixture
def place() -> Iterator[HangingBackend]:
    made = HangingBackend()
    yield made
    made.there.set()


def test_results_and_errors_are_those_of_the_place(place: HangingBackend) -> None:
    backend = BoundedBackend(place)
    assert backend.get("a", 1) == b"a"
    with pytest.raises(StoreError, match="b cannot be read"):
        backend.size_bytes("b")
    with pytest.raises(NotImplementedError):
        backend.put("c", b"")


def test_an_access_that_hangs_is_an_error_and_later_ones_are_refused_at_once_until_it_returns(
    place: HangingBackend,
) -> None:
    backend = BoundedBackend(place)
    place.there.clear()
    with pytest.raises(StoreError, match="/mnt/dead has not answered for 0 s; see that its disk or server is there"):
        backend.get("a", 1)
    calls, threads = place.calls, threading.active_count()
    for _ in range(20):
        with pytest.raises(StoreError, match="has not answered"):
            backend.get("b", 1)
    assert (place.calls, threading.active_count()) == (calls, threads)
    place.there.set()
    until(lambda: answers(backend), "the place to answer")


def answers(backend: BoundedBackend) -> bool:
    try:
        return backend.get("c", 1) == b"c"
    except StoreError:
        return False


def test_nobody_waits_for_a_tidying_that_hangs(place: HangingBackend) -> None:
    backend = BoundedBackend(place)
    place.there.clear()
    backend.tidy()
    place.there.set()
    assert answers(backend)


def test_threads_are_used_again_and_end_with_the_store(place: HangingBackend) -> None:
    before = threading.active_count()
    backend = BoundedBackend(place)
    for _ in range(50):
        backend.get("a", 1)
    assert threading.active_count() <= before + 2
    del backend
    until(lambda: threading.active_count() <= before, "the threads to end")


# Objects that are not files


def stored(store: Store) -> StoredSegment:
    return store.write(PCM, key=KEY, **FIELDS)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large"])
@pytest.mark.parametrize("suffix", ["json", "flac"])
@pytest.mark.parametrize("scheme", ["", "local://"])
def test_an_object_that_is_not_a_file_counts_as_damaged(tmp_path: Path, kind: str, suffix: str, scheme: str) -> None:
    store = Store(f"{scheme}{tmp_path / 'store'}")
    written = stored(store)
    (path,) = (tmp_path / "store").glob(f"*/*.{suffix}")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    assert store.find(KEY) is None
    assert store.check(KEY) is None
    with pytest.raises(StoreError, match="missing from the store"):
        store.read(KEY)
    if kind in {"pipe", "large"} and not scheme:
        assert stored(store) == written
        np.testing.assert_array_equal(store.read(KEY), PCM)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_place_whose_mark_is_not_a_file_is_no_store(tmp_path: Path, make: Any) -> None:  # noqa: ANN401
    make(tmp_path / "voxspool-store.json")
    with pytest.raises(StoreError, match="is damaged; remove it"):
        Store(tmp_path)


def test_a_record_in_a_remote_store_is_not_fetched_if_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://large")
    stored(store)
    files = fsspec.filesystem("memory")
    name = f"/large/{KEY[:2]}/{KEY}.json"
    files.pipe_file(name, b"{" + b" " * 2**17)
    monkeypatch.setattr(type(files), "cat_file", lambda *_: pytest.fail("it was fetched"))
    assert store._place.get(f"{KEY[:2]}/{KEY}.json", 2**16) == b""
