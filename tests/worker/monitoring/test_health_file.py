"""The health file of a worker: writing, reading and removing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from voxspool.errors import SettingsError
from voxspool_worker.cli import main
from voxspool_worker.monitoring.health_file import STALE_S, HealthFile, default_folder, signs

if TYPE_CHECKING:
    from pathlib import Path


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_worker_is_healthy_until_its_file_is_too_old(tmp_path: Path) -> None:
    HealthFile(tmp_path, "tone", lambda: 500.0).write("3 of 8 jobs")
    (sign,) = signs(tmp_path, lambda: 502.0)
    assert (sign.name, sign.pid, sign.age_s, sign.said) == ("tone", os.getpid(), 2.0, "3 of 8 jobs")
    assert sign.healthy
    (sign,) = signs(tmp_path, lambda: 500.0 + STALE_S)
    assert not sign.healthy


def test_a_worker_is_ill_if_redis_has_accepted_no_heartbeat_for_too_long(tmp_path: Path) -> None:
    file = HealthFile(tmp_path, "tone", lambda: 500.0)
    file.write("3 of 8 jobs", beat_at=500.0 - STALE_S)
    (sign,) = signs(tmp_path, lambda: 500.0)
    assert (sign.redis_refuses, sign.healthy) == (True, False)
    file.write("3 of 8 jobs", beat_at=501.0 - STALE_S)
    (sign,) = signs(tmp_path, lambda: 500.0)
    assert (sign.redis_refuses, sign.healthy) == (False, True)


def test_the_command_health_says_that_redis_accepts_no_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOXSPOOL_HEALTH_DIR", str(tmp_path))
    now = time.monotonic()
    HealthFile(tmp_path, "tone", lambda: now).write("3 of 8 jobs", beat_at=now - 45)
    done = CliRunner().invoke(main, ["health"])
    assert done.exit_code == 1
    assert "Redis has accepted no heartbeat for 45 s" in done.output


def test_the_file_of_a_process_that_has_ended_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f"{ended_process()}.worker"
    left.write_text(json.dumps({"name": "tone", "at": 0, "said": ""}))
    assert signs(tmp_path) == []
    assert not left.exists()


def test_the_last_worker_removes_its_file_and_the_folder(tmp_path: Path) -> None:
    file = HealthFile(tmp_path / "new" / "folder", "tone")
    file.write("")
    file.remove()
    file.remove()
    assert list((tmp_path / "new").iterdir()) == []
    file.write("it was not the last")
    assert len(signs(tmp_path / "new" / "folder")) == 1


def test_a_worker_that_ends_keeps_the_files_of_the_others(tmp_path: Path) -> None:
    other = tmp_path / f"{os.getppid()}.worker"
    other.write_text(json.dumps({"name": "tone", "at": 0, "said": ""}))
    file = HealthFile(tmp_path, "tone")
    file.write("")
    file.remove()
    assert [sign.pid for sign in signs(tmp_path)] == [os.getppid()]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "a", "at": "x", "said": ""}', "\x00"])
def test_a_file_that_is_not_a_health_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{os.getpid()}.worker").write_text(text)
    for name in ("notes", "\u00b2", "0", str(2**31), str(10**30)):
        (tmp_path / f"{name}.worker").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    assert signs(tmp_path) == []


def test_a_folder_that_cannot_be_created_raises_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match=r"VOXSPOOL_HEALTH_DIR: cannot use .*file"):
        HealthFile(tmp_path / "file", "tone")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a link away")
def test_a_link_of_another_user_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "planted").symlink_to("mine")
    HealthFile(tmp_path / "planted", "tone")
    os.chown(tmp_path / "planted", 12345, -1, follow_symlinks=False)
    with pytest.raises(SettingsError, match="belongs to another user"):
        HealthFile(tmp_path / "planted", "tone")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "planted"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    monkeypatch.setattr(os, "getuid", lambda: 10001)
    with pytest.raises(SettingsError, match="belongs to another user"):
        HealthFile(folder, "tone")


def test_other_users_cannot_read_the_folder(tmp_path: Path) -> None:
    HealthFile(tmp_path / "mine", "tone")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    assert str(os.getuid()) in default_folder().name


def test_a_full_disk_does_not_end_a_worker(tmp_path: Path) -> None:
    file = HealthFile(tmp_path / "gone", "tone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("in its place")
    file.write("still here")
