"""The key of a conditioning, and the storage format of its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voxspool_worker.voices.conditioning_format import conditioning_key, decode, encode

if TYPE_CHECKING:
    from voxspool_worker.voices.conditioning_format import Arrays

KEY = conditioning_key(["aa"], {"seconds": 30}, "model", "1.0")


def test_everything_that_the_value_depends_on_changes_the_key() -> None:
    keys = {
        KEY,
        conditioning_key(["ab"], {"seconds": 30}, "model", "1.0"),
        conditioning_key(["a", "a"], {"seconds": 30}, "model", "1.0"),
        conditioning_key(["aa"], {"seconds": 6}, "model", "1.0"),
        conditioning_key(["aa"], {"seconds": 30}, "model-2", "1.0"),
        conditioning_key(["aa"], {"seconds": 30}, "model", "1.1"),
        conditioning_key(["x", "y"], {}, "", ""),
        conditioning_key(["y", "x"], {}, "", ""),
    }
    assert len(keys) == 8
    assert conditioning_key(["a"], {"x": 1, "y": 2}, "", "") == conditioning_key(("a",), {"y": 2, "x": 1}, "", "")
    assert conditioning_key(["aa"], {"seconds": 30}, "model", "1.0") == KEY


def test_decoded_arrays_equal_the_encoded_ones() -> None:
    arrays: Arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "b": np.zeros((0, 3)),
        "c": np.int64(7)[None],
    }
    found = decode(encode(arrays))
    assert found is not None
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }


@given(st.data())
def test_any_change_of_a_stored_value_gives_its_arrays_or_nothing(data: st.DataObject) -> None:
    whole = bytearray(encode({"latents": np.arange(6, dtype=np.float32), "speaker": np.ones((1, 2), np.float16)}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert", "word"]))
        if change == "set":
            whole[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del whole[at : at + data.draw(st.integers(1, 40))]
        else:
            words = [b"F64", b"BF16", b"F8_E5M2", b"-1", b"[", b"1e999", b"{}", b"null", b"18446744073709551615"]
            whole[at : at + (change == "word") * 3] = data.draw(st.sampled_from(words))
        if not whole:
            break
    found = decode(bytes(whole))
    assert found is None or sum(array.nbytes for array in found.values()) <= len(whole)
