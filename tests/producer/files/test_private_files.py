"""Folders for one user alone, and files that another user could have changed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from voxspool.files.private_files import make_private, tampering_fault

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="for systems with owners and permissions")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_folders_are_created_for_their_user_alone_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    make_private(tmp_path / "there" / "a" / "b")
    make_private(tmp_path / "there" / "a" / "b")
    assert [mode(tmp_path / "there" / name) for name in ("", "a", "a/b")] == [0o755, 0o700, 0o700]


def test_a_file_of_this_user_in_folders_of_this_user_is_safe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o644)
    assert tampering_fault(tmp_path / "file") == ""
    assert tampering_fault(tmp_path) == ""


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_named_with_its_mode(tmp_path: Path, bits: int) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(bits)
    fault = tampering_fault(tmp_path / "file")
    assert fault == (
        f"{tmp_path}/file can be written to by other users (its mode is {bits:04o}; chmod go-w {tmp_path}/file)"
    )


def test_a_folder_above_that_others_can_write_is_named_unless_it_is_sticky(tmp_path: Path) -> None:
    above = tmp_path / "above"
    (above / "folder").mkdir(parents=True)
    above.chmod(0o777)
    assert tampering_fault(above / "folder").startswith(f"{above} can be written to by other users")
    above.chmod(0o1777)
    assert tampering_fault(above / "folder") == ""
    assert tampering_fault(above).startswith(f"{above} can be written to"), "anybody can put a file into it"


def test_a_link_is_not_followed_and_one_above_is_followed_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert tampering_fault(tmp_path / "link") == f"{tmp_path}/link is a symbolic link"
    assert tampering_fault(tmp_path / "link" / "file") == ""
    (tmp_path / "real").chmod(0o777)
    assert tampering_fault(tmp_path / "link" / "file").startswith(f"{tmp_path}/")


def test_what_belongs_to_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    if os.geteuid() == 0:
        os.chown(path, 12_345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert tampering_fault(path) == f"{path} belongs to the user with number {path.stat().st_uid}"


def test_what_is_not_there_cannot_be_examined(tmp_path: Path) -> None:
    assert tampering_fault(tmp_path / "none") == f"{tmp_path}/none cannot be examined: No such file or directory"
