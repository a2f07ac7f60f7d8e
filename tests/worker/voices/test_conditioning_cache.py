"""The cache of conditioning without Redis: its tiers, its locks, and damaged files."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from voxspool.errors import MissingExtraError
from voxspool.protocol import keys
from voxspool_worker.voices import conditioning_format
from voxspool_worker.voices.conditioning_cache import ConditioningCache
from voxspool_worker.voices.conditioning_format import (
    MAX_VALUE_BYTES,
    UnfitConditioningError,
    conditioning_key,
    encode,
)

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from voxspool_worker.voices.conditioning_format import Arrays

KEY = conditioning_key(["aa"], {"seconds": 30}, "model", "1.0")
LATENTS: Arrays = {"gpt": np.arange(64, dtype=np.float32).reshape(1, 8, 8), "speaker": np.ones((1, 4, 1), np.float32)}


class Model:
    """Computes LATENTS, and counts how often."""

    def __init__(self) -> None:
        self.computed = 0

    def __call__(self) -> Arrays:
        self.computed += 1
        return LATENTS


@pytest.fixture
def model() -> Model:
    return Model()


def cache(folder: Path, max_values: int = 256) -> ConditioningCache[float]:
    """Return a cache whose memory holds the sum of the latents."""
    return ConditioningCache(
        lambda arrays: float(arrays["gpt"].sum()), folder=folder, redis=None, max_values=max_values
    )


SUM = float(LATENTS["gpt"].sum())


def test_a_value_is_computed_then_read_from_memory_then_from_the_disk(tmp_path: Path, model: Model) -> None:
    first = cache(tmp_path)
    found = [first.get(KEY, model), first.get(KEY, model), cache(tmp_path).get(KEY, model)]
    assert [value for value, _ in found] == [SUM] * 3
    assert [prepared.source for _, prepared in found] == ["computed", "memory", "disk"]
    assert all(prepared.seconds >= 0 for _, prepared in found)
    assert model.computed == 1


def test_the_log_says_whether_a_value_was_computed_or_cached(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        cache(tmp_path).get(KEY, model)
    computed, cached = caplog.messages
    assert computed.startswith(f"voice.computed key={KEY} seconds=")
    assert cached.startswith(f"voice.cached key={KEY} source=disk seconds=")


@pytest.mark.parametrize("damage", ["empty", "short", "header", "flipped", "another", "folder"])
def test_a_damaged_file_is_computed_again_and_replaced(
    tmp_path: Path, model: Model, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache(tmp_path).get(KEY, model)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    other = encode({"gpt": np.zeros(3)}).replace(b"gpt", b"tpg")
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        damaged = {"empty": b"", "short": data[:-1], "header": b"\xff" * 99, "flipped": flipped, "another": other}
        path.write_bytes(damaged[damage])
    value, prepared = cache(tmp_path).get(KEY, model)
    assert (value, prepared.source, model.computed) == (SUM, "computed", 2)
    assert any("conditioning.damaged" in said or "conditioning.unreadable" in said for said in caplog.messages)
    if damage != "folder":
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path], "no partial file is left"


def test_a_folder_that_cannot_be_written_is_logged_and_the_value_is_returned(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cache(tmp_path / "file" / "deeper").get(KEY, model)[0] == SUM
    assert any("conditioning.unwritable" in said for said in caplog.messages)


def test_memory_drops_the_least_recently_used_value(tmp_path: Path, model: Model) -> None:
    small = cache(tmp_path, max_values=2)
    sources = [small.get(key, model)[1].source for key in ("a", "b", "a", "c", "a", "b")]
    assert sources == ["computed", "computed", "memory", "computed", "memory", "disk"]


def test_threads_that_need_a_value_at_the_same_time_compute_it_once(tmp_path: Path) -> None:
    entered, second, computed = threading.Barrier(8), threading.Event(), []
    shared = cache(tmp_path)

    def compute() -> Arrays:
        computed.append(threading.get_ident())
        if len(computed) > 1:
            second.set()
        second.wait(0.3)  # long enough for another to come in, if it could
        return LATENTS

    def ask() -> tuple[float, str]:
        entered.wait(10)
        value, prepared = shared.get(KEY, compute)
        return value, prepared.source

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert len(computed) == 1
    assert sorted(found) == [(SUM, "computed")] + [(SUM, "memory")] * 7


def test_two_keys_do_not_wait_for_each_other(tmp_path: Path, model: Model) -> None:
    shared = cache(tmp_path)

    def compute() -> Arrays:
        return LATENTS if shared.get("other", model) else {}

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(shared.get, KEY, compute).result(10)[0] == SUM


def test_an_error_of_the_computation_is_raised_and_the_next_call_computes_again(tmp_path: Path, model: Model) -> None:
    shared = cache(tmp_path)

    def broken() -> Arrays:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shared.get(KEY, broken)
    assert shared.get(KEY, model)[1].source == "computed"


def test_without_safetensors_the_error_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditioning_format.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"worker\[xtts\]'$"):
        cache(tmp_path)


BAD: list[Arrays] = [
    {"gpt": np.zeros((1, 8, 9), np.float32)},
    {"gpt": np.zeros((1, 8, 8), np.float64)},
    {"gpt": np.full((1, 8, 8), np.nan, np.float32)},
    {"other": np.zeros(1, np.float32)},
]


def fitting(arrays: Arrays) -> float:
    """Return the sum of latents that fit."""
    latents = arrays["gpt"]
    if (latents.shape, latents.dtype) != ((1, 8, 8), np.float32) or not np.isfinite(latents).all():
        raise UnfitConditioningError(f"gpt is {latents.dtype} {latents.shape}")
    return float(latents.sum())


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["disk", "redis"])
def test_a_value_that_does_not_fit_the_model_is_named_computed_again_and_never_copied(
    db: redis.Redis, tmp_path: Path, model: Model, bad: Arrays, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    shared, path = keys.conditioning(KEY), tmp_path / f"{KEY}.safetensors"
    if where == "disk":
        path.write_bytes(encode(bad))
    else:
        db.set(shared, encode(bad))
    value, prepared = ConditioningCache(fitting, folder=tmp_path, redis=db).get(KEY, model)
    assert (value, prepared.source, model.computed) == (SUM, "computed", 1)
    assert path.read_bytes() == db.get(shared) == encode(LATENTS)
    (line,) = [line for line in caplog.messages if line.startswith("conditioning.")]
    assert line.startswith("conditioning.damaged ")
    assert (str(path) if where == "disk" else KEY) in line
    assert "no array 'gpt'" in line or "gpt is" in line


@pytest.mark.parametrize("bad", BAD)
def test_a_computed_value_that_does_not_fit_is_an_error_and_is_stored_nowhere(
    db: redis.Redis, tmp_path: Path, bad: Arrays
) -> None:
    with pytest.raises((UnfitConditioningError, KeyError)):
        ConditioningCache(fitting, folder=tmp_path, redis=db).get(KEY, lambda: bad)
    assert list(tmp_path.iterdir()) == []
    assert db.keys() == []


@pytest.mark.parametrize("kind", ["pipe", "device", "long", "sparse"])
def test_a_file_that_is_not_a_small_regular_file_is_not_read(
    tmp_path: Path, model: Model, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"{KEY}.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "long":
        path.write_bytes(bytes(MAX_VALUE_BYTES + 1))
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    assert cache(tmp_path).get(KEY, model)[1].source == "computed"
    (line,) = [line for line in caplog.messages if "conditioning." in line]
    assert line.startswith(f"conditioning.unreadable file={path} ")
    assert cache(tmp_path).get(KEY, model)[1].source == "disk", "the file was replaced"
