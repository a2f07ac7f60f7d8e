from __future__ import annotations

import pytest
from redis.crc import key_slot

from voxspool.protocol import keys


def test_all_keys_of_a_job_are_in_one_slot_of_a_cluster() -> None:
    own = (keys.audio, keys.control, keys.acknowledged, keys.pool, keys.unspoken, keys.results)
    names = [key("job-1") for key in own]
    assert len(set(names)) == len(own)
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"job-1")}


def test_the_clips_of_a_cloned_voice_are_in_the_slot_of_the_descriptions() -> None:
    assert key_slot(keys.clips("alice").encode()) == key_slot(keys.VOICES.encode())


def test_a_lock_is_in_the_slot_of_what_it_protects() -> None:
    assert key_slot(keys.conditioning_lock("abc").encode()) == key_slot(keys.conditioning("abc").encode())


@pytest.mark.parametrize(
    "key", [keys.audio, keys.worker, keys.clips, keys.narration, keys.narrating, keys.conditioning]
)
def test_keys_of_different_names_differ_and_have_our_prefix(key: object) -> None:
    one, other = key("a"), key("b")  # type: ignore[operator]
    assert one != other
    assert one.startswith("voxspool:")
