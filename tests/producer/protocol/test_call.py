"""Reading the call in a job: any program may have written it, and a small one must not become gigabytes."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import pytest

from voxspool.errors import InvalidJobError
from voxspool.protocol.call import MAX_CALL_BYTES, beginning, read_call, unpack
from voxspool.protocol.jobs import MAX_TEXT_CHARS

CALL = json.dumps(["f", None, [{"text": "Hello."}], {}]).encode()


@pytest.mark.parametrize("data", [CALL, zlib.compress(CALL), zlib.compress(CALL) + b"more"])
def test_a_call_is_read_plain_or_compressed(data: bytes) -> None:
    assert read_call(data) == ("f", {"text": "Hello."})
    assert beginning(data, 4) == CALL[:4]


@pytest.mark.parametrize("data", [b"", b"x", b"\x78\x9c", zlib.compress(CALL)[:-5]])
def test_data_that_are_not_a_whole_compressed_text_are_left_as_they_are(data: bytes) -> None:
    assert unpack(data) == data


def test_the_longest_text_is_read_however_json_escapes_it() -> None:
    text = "\U0001f600" * MAX_TEXT_CHARS
    assert read_call(json.dumps(["f", None, [text], {}]).encode()) == ("f", text)


@pytest.mark.parametrize("pack", [bytes, zlib.compress])
def test_a_call_above_the_limit_is_refused(pack: type[bytes]) -> None:
    assert len(unpack(pack(b" " * MAX_CALL_BYTES))) == MAX_CALL_BYTES
    with pytest.raises(InvalidJobError, match=f"{MAX_CALL_BYTES:,} bytes"):
        unpack(pack(b" " * (MAX_CALL_BYTES + 1)))


def test_a_bomb_is_never_expanded() -> None:
    bomb = zlib.compress(b" " * (100 * MAX_CALL_BYTES))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidJobError):
            unpack(bomb)
        assert len(beginning(bomb, 64)) == 64
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_CALL_BYTES
    finally:
        tracemalloc.stop()
