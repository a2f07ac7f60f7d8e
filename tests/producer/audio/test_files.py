"""Where a speech may be written, and that its file appears complete or not at all."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.support.entries import (
    begin,
    heard,
    noise,
    record,
    speech,
)
from tests.support.full_disk import room_for
from voxspool.audio.files import SUFFIXES, check_output
from voxspool.audio.recorder import Recorder
from voxspool.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from voxspool.protocol.stream import Entry


# Where a speech may go


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".WAV", ".Opus"])
def test_a_known_suffix_in_a_folder_is_accepted_and_nothing_is_created(tmp_path: Path, suffix: str) -> None:
    check_output(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.m4b", "a", "a.wav.txt", ".wav"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.wav, \.flac, \.mp3, \.ogg, \.opus") as raised:
        check_output(tmp_path / name)
    assert raised.value.wrong_value


def test_a_format_that_ffmpeg_makes_is_refused_with_the_command(tmp_path: Path) -> None:
    wanted = tmp_path / "my song.aac"
    command = shlex.join(["ffmpeg", "-i", str(wanted.with_suffix(".flac")), str(wanted)])
    with pytest.raises(OutputError, match=re.escape(f".opus, or write {wanted.with_suffix('.flac')}") + ".*") as raised:
        check_output(wanted)
    assert str(raised.value).endswith(f"convert it: {command}")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no folder .*missing; create it"):
        check_output(tmp_path / "missing" / "a.wav")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        check_output(tmp_path / "file" / "a.wav")


def test_a_folder_with_a_files_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        check_output(tmp_path / "a.wav")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="is not a file"):
        check_output(tmp_path / "a.wav")


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs the tests, may write anywhere
    with pytest.raises(OutputError, match="no right to create files"):
        check_output(tmp_path / "a.wav")


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_spoken(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        check_output(tmp_path / ("a" * 300 + ".wav"))


def test_a_ring_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="symbolic links"):
        check_output(tmp_path / "a.wav")


# All or nothing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_broken_recording_leaves_an_older_file_untouched_and_no_part(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"older")

    def broken() -> Iterator[Entry]:
        *said, _ = speech(noise(0.5))
        yield from said
        raise error

    with pytest.raises(error):
        record(path, broken())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_there_is_only_a_hidden_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with Recorder(path) as recorder:
        *said, last = speech(noise(0.5))
        for entry in said:
            recorder.add(entry)
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(f".a.flac.{os.getpid()}-")
        assert part.name.endswith(".part")
        recorder.add(last)
        assert list(tmp_path.iterdir()) == [path]


def test_a_finished_file_replaces_the_older_one_and_stays_if_the_caller_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"older")

    def broken_after_the_end() -> Iterator[Entry]:
        yield from speech(noise(0.1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        record(path, broken_after_the_end())
    assert len(heard(path)[0]) == 2_400


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        record(tmp_path / "a.wav", speech(noise(0.1)))
    finally:
        os.umask(mask)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_its_target_gets_the_speech(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "a.wav", tmp_path / "there" / "b.wav"
    link.symlink_to(target)
    record(link, speech(noise(0.1)))
    assert link.is_symlink()
    assert len(heard(target)[0]) == 2_400


def test_a_name_as_long_as_the_file_system_allows_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / ("音" * 83 + ".wav")
    record(path, speech(noise(0.1)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", [1, 3_000, 60_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_up_is_an_error_even_by_one_byte_and_leaves_no_file(
    tmp_path: Path, suffix: str, missing: int
) -> None:
    path = tmp_path / f"a{suffix}"
    spoken = noise(8)
    record(path, speech(spoken))
    size_bytes = path.stat().st_size
    path.unlink()
    with room_for(max(0, size_bytes - missing)), pytest.raises(OutputError, match=r"a\.\w+: File too large"):
        record(path, speech(spoken))
    assert not list(tmp_path.iterdir())
    with room_for(size_bytes):
        record(path, speech(spoken))
    assert path.stat().st_size == size_bytes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_has_room_again_does_not_hide_missing_bytes(tmp_path: Path, suffix: str) -> None:
    # More than Python keeps in a buffer, 128 KiB from 3.14 on: what is still there meets no full disk.
    *said, last = speech(noise(60))
    recorder = Recorder(tmp_path / f"a{suffix}")

    def record_on_a_disk_that_is_full_for_a_while() -> None:
        with room_for(4_096):
            for entry in said:
                recorder.add(entry)
        recorder.add(last)

    with recorder, pytest.raises(OutputError, match="File too large"):
        record_on_a_disk_that_is_full_for_a_while()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_vanishes_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    recorder = Recorder(folder / "a.wav")
    folder.rmdir()
    with recorder, pytest.raises(OutputError, match=r"a\.wav: No such file"):
        recorder.add(begin())
