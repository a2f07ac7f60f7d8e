"""Which processes of this machine count as gone. The processes are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.processes import until
from voxspool_worker.monitoring.process_identity import is_gone, own_process

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_ITSELF = """
import sys
from voxspool_worker.monitoring.process_identity import own_process
print(own_process(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of this machine, and how it names itself."""
    with subprocess.Popen(
        [sys.executable, "-c", NAME_ITSELF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_process_that_runs_or_is_stopped_is_not_gone(other: tuple[subprocess.Popen[str], str]) -> None:
    process, name = other
    assert name.split()[1] == str(process.pid)
    assert not is_gone(name)
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the stop")
    assert not is_gone(name)
    assert not is_gone(own_process())


def test_a_killed_process_is_gone_before_and_after_its_parent_has_asked(
    other: tuple[subprocess.Popen[str], str],
) -> None:
    process, name = other
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "the kill")
    assert is_gone(name)
    process.wait()
    assert is_gone(name)


def test_a_process_whose_id_belongs_to_a_later_one_is_gone() -> None:
    machine, pid, start = own_process().split(" ")
    assert is_gone(f"{machine} {pid} {start}0")


def test_a_process_of_another_user_is_not_gone_if_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        del pid, number
        raise PermissionError

    monkeypatch.setattr("voxspool_worker.monitoring.process_identity._start", lambda _: None)
    assert not is_gone(f"{own_process() or 'x'}")
    monkeypatch.setattr(os, "kill", refuse)
    machine = "m"
    monkeypatch.setattr("voxspool_worker.monitoring.process_identity._machine", lambda: machine)
    assert not is_gone(f"{machine} 4194304 1")


@pytest.mark.parametrize("pid", ["0", "-1", "x", "", "9" * 30, "٣"])
def test_what_names_no_process_of_this_machine_is_not_gone(pid: str) -> None:
    machine, _, start = own_process().split(" ")
    assert not is_gone(f"{machine} {pid} {start}")
    assert not is_gone(f"another-boot/1 {os.getpid()} {start}")
    assert not is_gone(machine)
    assert not is_gone("")
