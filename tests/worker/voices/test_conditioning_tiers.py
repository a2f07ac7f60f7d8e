"""The tiers of conditioning outside the process: the lock of a key in Redis, and errors of Redis and the disk."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from tests.support.processes import until
from voxspool.protocol import keys
from voxspool_worker.voices import conditioning_tiers
from voxspool_worker.voices.conditioning_format import MAX_VALUE_BYTES, decode, encode
from voxspool_worker.voices.conditioning_tiers import DiskTier, RedisTier

if TYPE_CHECKING:
    from pathlib import Path

KEY = "key"
LOCK = keys.conditioning_lock(KEY)
DATA = encode({"latents": np.arange(8, dtype=np.float32)})
LIFETIME_MS = 1000 * keys.CONDITIONING_LOCK_TTL_S


def test_the_lock_is_held_while_the_caller_computes_and_released_afterwards(db: Redis) -> None:
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is None
        assert 0 < db.pttl(LOCK) <= LIFETIME_MS
    assert not db.exists(LOCK)


def test_the_lock_is_released_if_the_computation_fails(db: Redis) -> None:
    with pytest.raises(ZeroDivisionError), RedisTier(db).value_or_lock(KEY):
        raise ZeroDivisionError
    assert not db.exists(LOCK)


def test_a_stored_value_is_returned_without_the_lock_and_lives_longer(db: Redis) -> None:
    RedisTier(db).write(KEY, DATA)
    assert 0 < db.ttl(keys.conditioning(KEY)) <= keys.CONDITIONING_TTL_S
    db.expire(keys.conditioning(KEY), 60)
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is not None
        assert found["latents"].tolist() == list(range(8))
        assert not db.exists(LOCK)
    assert db.ttl(keys.conditioning(KEY)) > keys.CONDITIONING_TTL_S - 60


def test_a_waiting_process_gets_the_value_of_the_one_that_computes(db: Redis) -> None:
    waiting = threading.Event()

    def wait() -> list[float]:
        waiting.set()
        with RedisTier(db).value_or_lock(KEY) as found:
            assert found is not None
            return found["latents"].tolist()

    with ThreadPoolExecutor(1) as pool:
        with RedisTier(db).value_or_lock(KEY):
            waiter = pool.submit(wait)
            waiting.wait(10)
            RedisTier(db).write(KEY, DATA)
        assert waiter.result(10) == list(range(8))


def test_a_value_that_was_written_just_before_the_lock_is_acquired_is_not_computed_again(
    db: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier, looks = RedisTier(db), []
    read = tier._read

    def write_after_the_first_look(key: str) -> object:
        looks.append(read(key))
        tier.write(key, DATA)
        return looks[-1]

    monkeypatch.setattr(tier, "_read", write_after_the_first_look)
    with tier.value_or_lock(KEY) as found:
        assert found is not None
        assert len(looks) == 2
        assert not db.exists(LOCK)


def test_the_lock_is_renewed_for_its_full_lifetime(db: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning_tiers, "RENEWAL_S", 0.01)
    with RedisTier(db).value_or_lock(KEY):
        db.pexpire(LOCK, LIFETIME_MS // 2)
        until(lambda: db.pttl(LOCK) > LIFETIME_MS * 2 / 3, "a renewal")
        assert db.pttl(LOCK) <= LIFETIME_MS


def test_a_lock_that_expired_and_is_held_by_another_is_neither_renewed_nor_released(
    db: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conditioning_tiers, "RENEWAL_S", 0.01)
    renewals, extend = [], conditioning_tiers._extend
    monkeypatch.setattr(conditioning_tiers, "_extend", lambda lock: renewals.append(extend(lock)))
    with RedisTier(db).value_or_lock(KEY):
        db.set(LOCK, "of another process", px=5_000)
        before = len(renewals)
        until(lambda: len(renewals) > before + 1, "a renewal")
        assert db.pttl(LOCK) <= 5_000
    assert db.get(LOCK) == b"of another process"
    assert not caplog.messages, "this is no failure of Redis"


def test_if_the_computing_process_dies_another_one_computes(db: Redis) -> None:
    db.set(LOCK, "of a process that was killed", px=30)
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is None
        assert db.get(LOCK) != b"of a process that was killed"


def test_a_process_that_has_waited_too_long_computes_without_the_lock(
    db: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(conditioning_tiers, "MAX_WAIT_S", 0.05)
    db.set(LOCK, "of a process that hangs")
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is None
    assert db.get(LOCK) == b"of a process that hangs"
    assert any("conditioning.awaited_in_vain" in line for line in caplog.messages)


def test_a_damaged_value_is_deleted_and_computed_again(db: Redis) -> None:
    db.set(keys.conditioning(KEY), DATA[:-1] + b"\xff")
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is None
        assert not db.exists(keys.conditioning(KEY))
        assert db.exists(LOCK)


def test_if_redis_is_full_the_value_is_computed_without_the_lock(db: Redis, caplog: pytest.LogCaptureFixture) -> None:
    db.config_set("maxmemory", 1)
    tier = RedisTier(db)
    with tier.value_or_lock(KEY) as found:
        assert found is None
        tier.write(KEY, DATA)
    db.config_set("maxmemory", 0)
    assert db.keys() == []
    assert [line.split()[0] for line in caplog.messages] == ["conditioning.alone"]


def test_if_redis_does_not_answer_it_is_called_once_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    class Unreachable(Redis):
        asked = 0

        def execute_command(self, *_: object, **__: object) -> None:
            raise AssertionError("the tier must not ask again")

        def pipeline(self, *_: object, **__: object) -> None:
            self.asked += 1
            raise RedisConnectionError("refused")

    away = Unreachable()
    tier = RedisTier(away)
    with tier.value_or_lock(KEY) as found:
        assert found is None
        tier.write(KEY, DATA)
    assert away.asked == 1
    assert caplog.messages == ["conditioning.alone error=refused"]


def test_an_error_is_reported_again_after_redis_has_answered(db: Redis, caplog: pytest.LogCaptureFixture) -> None:
    tier = RedisTier(db)
    for limit in (1, 1, 0, 1):  # a full Redis refuses the lock
        db.config_set("maxmemory", limit)
        with tier.value_or_lock(KEY) as found:
            assert found is None
    db.config_set("maxmemory", 0)
    assert [line.split()[0] for line in caplog.messages] == ["conditioning.alone"] * 2


def test_a_file_on_the_disk_is_complete_or_absent(tmp_path: Path) -> None:
    disk = DiskTier(tmp_path / "new")
    assert disk.read(KEY) is None
    disk.write(KEY, DATA)
    found = disk.read(KEY)
    assert found is not None
    assert found.keys() == decode(DATA).keys()  # type: ignore[union-attr] - it is what was written
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"{KEY}.safetensors"]


def test_a_value_that_is_longer_than_any_is_not_read_whole_and_is_deleted(
    db: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    db.setrange(keys.conditioning(KEY), 300 * 2**20, b"x")
    before = db.info("stats")["total_net_output_bytes"]
    with RedisTier(db).value_or_lock(KEY) as found:
        assert found is None
        assert not db.exists(keys.conditioning(KEY))
        assert db.exists(LOCK)
    assert db.info("stats")["total_net_output_bytes"] - before < 2 * MAX_VALUE_BYTES
    assert any(f"key={KEY}" in line and "longer than" in line for line in caplog.messages)


def test_a_key_of_another_type_is_deleted_and_its_value_computed(db: Redis, caplog: pytest.LogCaptureFixture) -> None:
    db.rpush(keys.conditioning(KEY), "x")
    tier = RedisTier(db)
    with tier.value_or_lock(KEY) as found:
        assert found is None
        tier.write(KEY, DATA)
    assert db.get(keys.conditioning(KEY)) == DATA
    assert [line for line in caplog.messages if "it is not a string" in line]


def test_the_folder_and_its_files_are_for_their_user_alone_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        DiskTier(tmp_path / "cache" / "conditioning").write(KEY, DATA)
    finally:
        os.umask(before)
    folder = tmp_path / "cache" / "conditioning"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / f"{KEY}.safetensors")]
    assert modes == [0o700, 0o700, 0o600]
