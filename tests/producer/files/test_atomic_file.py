"""A file appears under its name whole, or not at all; what a dead writer left can be found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from voxspool.files.atomic_file import PartialFile, partial_files, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_written_over_another_and_nothing_else_is_left(tmp_path: Path, sync: bool) -> None:  # noqa: FBT001
    target = tmp_path / "speeds.json"
    target.write_bytes(b"old")
    write_whole(target, b"new", sync=sync)
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["speeds.json"]


def test_the_target_keeps_its_content_until_the_partial_file_is_placed(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    target.write_bytes(b"old")
    with PartialFile(target) as part:
        part.path.write_bytes(b"half")
        assert part.path.parent == tmp_path
        assert target.read_bytes() == b"old"
        part.path.write_bytes(b"whole")
        part.sync()
        part.place()
        assert not part.path.exists(), "it is renamed, not copied"
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["a.wav"]


def test_a_partial_file_that_is_not_placed_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    with PartialFile(target) as part:
        part.write(b"half")
    assert names(tmp_path) == []


def test_a_partial_file_can_lie_in_another_folder(tmp_path: Path) -> None:
    parts = tmp_path / ".parts"
    parts.mkdir()
    with PartialFile(tmp_path / "object", parts) as part:
        part.write(b"data")
        assert names(parts) == [part.path.name]
        part.place()
    assert (tmp_path / "object").read_bytes() == b"data"
    assert names(parts) == []


def test_two_writers_of_one_file_do_not_share_a_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    with PartialFile(target) as one, PartialFile(target) as other:
        one.write(b"one")
        other.write(b"other")
        one.place()
        other.place()
    assert target.read_bytes() == b"other"


def test_the_longest_name_that_a_file_may_have_fits_a_partial_file_too(tmp_path: Path) -> None:
    target = tmp_path / ("\U0001f600" * 63)  # 252 bytes
    write_whole(target, b"data", sync=False)
    assert names(tmp_path) == [target.name]


def test_the_partial_files_of_a_target_are_found_with_their_writers(tmp_path: Path) -> None:
    voice, other = tmp_path / "joe.onnx", tmp_path / "joe.onnx.json"
    with PartialFile(voice) as part, PartialFile(other) as of_other:
        part.write(b"half")
        of_other.write(b"half")
        (tmp_path / ".joe.onnx.123.part").touch()
        (tmp_path / ".joe.onnx.later.part").touch()
        found = dict(partial_files(voice))
    assert found == {part.path: os.getpid(), tmp_path / ".joe.onnx.123.part": 123}


def test_a_folder_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "file", b"data", sync=True)
    assert list(partial_files(tmp_path / "missing" / "file")) == []
