"""The options of a narration: parsing chapter numbers and voices, and their JSON."""

from __future__ import annotations

import pytest

from voxspool.errors import BookError
from voxspool.narration.options import NarrationOptions, chosen, numbers, voices_of


@pytest.mark.parametrize(
    ("text", "found"),
    [("3", [3]), ("2-5", [2, 3, 4, 5]), (" 1, 4 ,7-", [1, 4, 7, 8, 9]), ("9-9", [9]), ("1-", list(range(1, 10)))],
)
def test_chapter_numbers_are_single_or_ranges(text: str, found: list[int]) -> None:
    assert numbers(text, 9) == found


@pytest.mark.parametrize("text", ["", "two", "0", "10", "5-2", "-3", "3-10", "1,,2", "1.5", "٣٣"])
def test_a_chapter_that_does_not_exist_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(BookError, match="chapters"):
        numbers(text, 9)


def test_skipped_chapters_are_left_out_of_the_named_ones() -> None:
    assert chosen(9, None, None) is None
    assert chosen(9, "2-5", "3,5") == (2, 4)
    assert chosen(4, None, "1") == (2, 3, 4)
    with pytest.raises(BookError, match="no chapter is left"):
        chosen(3, "2", "1-3")


def test_the_last_voice_that_names_a_chapter_counts() -> None:
    assert voices_of(["1-3=alice", "2=bob (2)+x"], 4) == ((1, "alice"), (2, "bob (2)+x"), (3, "alice"))


@pytest.mark.parametrize("said", ["alice", "2=", "=alice", "x=alice"])
def test_a_voice_for_no_chapter_is_refused(said: str) -> None:
    with pytest.raises(BookError):
        voices_of([said], 4)


def test_options_are_decoded_as_they_were_encoded() -> None:
    options = NarrationOptions(
        "xtts", "alice", "de", 1.25, 7, (1, 3), ((3, "bob"),), ("flac", "m4b"), loudness="acx", verify="base"
    )
    assert NarrationOptions.decode(options.encode()) == options
    assert NarrationOptions.decode(NarrationOptions("tone").encode()) == NarrationOptions("tone")


def test_a_chapter_has_its_own_voice_or_that_of_the_book() -> None:
    options = NarrationOptions("tone", "alice", voices=((3, "bob"),), chapters=(1, 3))
    assert [options.voice_of(number) for number in (1, 3)] == ["alice", "bob"]
    assert [options.wants(number) for number in (1, 2, 3)] == [True, False, True]
