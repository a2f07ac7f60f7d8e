"""Tags: their names, what is left out, and the ID3 head as mutagen reads it."""

from __future__ import annotations

import io

import mutagen.id3
import pytest

from voxspool.audio.tags import Tags, writable

TAGS = Tags("Жизнь 一", "An Author", "The Book", 3, 12, date="1902", genre="Audiobook")


def read(head: bytes) -> dict[str, str]:
    """Return the frames that mutagen finds in the head of an MP3."""
    found = mutagen.id3.ID3(fileobj=io.BytesIO(head + b"\xff\xfb\xb0\x00"))
    assert found.version == (2, 4, 0)
    assert found.size == len(head)
    return {name: str(found[name]) for name in found}


def test_tags_have_the_names_of_vorbis_comments_and_empty_ones_are_left_out() -> None:
    assert TAGS.named() == {
        "title": "Жизнь 一", "artist": "An Author", "album": "The Book", "tracknumber": "3/12", "date": "1902",
        "genre": "Audiobook",
    }  # fmt: skip
    assert Tags(title="One").named() == {"title": "One"}
    assert Tags(total=3).named() == {}, "a total without a number says nothing"


def test_the_head_of_an_mp3_has_every_tag_in_any_script() -> None:
    assert read(TAGS.id3()) == {
        "TIT2": "Жизнь 一", "TPE1": "An Author", "TALB": "The Book", "TRCK": "3/12", "TDRC": "1902",
        "TCON": "Audiobook",
    }  # fmt: skip
    assert Tags().id3() == b""


@pytest.mark.parametrize("length", [126, 127, 16_000, 300_000])
def test_a_long_tag_keeps_its_length(length: int) -> None:
    assert read(Tags(title="x" * length).id3()) == {"TIT2": "x" * length}


def test_a_size_has_no_byte_that_looks_like_audio() -> None:
    head = Tags(title="x" * 300_000).id3()
    assert max(head[6:10]) < 0x80
    assert max(head[14:18]) < 0x80


def test_what_no_tag_can_hold_is_dropped() -> None:
    assert writable("A\0B\ud800") == "AB"
    assert read(Tags(title="A\0B\ud800").id3()) == {"TIT2": "AB"}
