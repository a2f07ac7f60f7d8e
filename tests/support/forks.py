"""Start voxspool's programs as forks of a process that has already imported them.

A program that is started normally spends 0.5 s of CPU time on imports, and the tests start many hundreds. A fork is a
normal process: it has its own id, memory and environment, gets signals, and exits as Python exits. Programs that depend
on the start of Python (PYTHONPATH, another main file, threads of a compiled library) are started normally; see
`start_worker`.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PRELOADED: Final = (
    "voxspool.cli", "voxspool.client", "voxspool.audio.playback", "voxspool_worker.cli", "voxspool_worker.queue.worker",
    "voxspool_worker.monitoring.prometheus", "voxspool_worker.engines", "voxspool_worker.engines.tone",
)  # fmt: skip
HEADER: Final = struct.Struct("!I")
"""The format of the length of a request, in bytes."""
STREAMS: Final = 3
"""The number of streams of a program. A request carries stdin, stdout, stderr and a pipe for the exit code."""


class ForkServer:
    """The process that forks. Each process of the test run has one, which exits when their socket is closed."""

    def __init__(self) -> None:
        self._sending = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], streams: tuple[int, int, int]
    ) -> ForkedProcess:
        """Run `python -m module arguments` with an environment. `streams` are its stdin, stdout and stderr."""
        result, theirs = os.pipe()
        request = json.dumps([module, list(arguments), dict(environ), str(Path.cwd())]).encode()
        fds = array.array("i", [*streams, theirs])
        with self._sending:
            self._socket.sendmsg([HEADER.pack(len(request))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            self._socket.sendall(request)
        os.close(theirs)
        (pid,) = struct.unpack("!i", os.read(result, 4))
        return ForkedProcess(pid, result)

    def start_logged(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> ForkedProcess:
        """Run a program as `start` does, with an empty stdin and its output in a file."""
        with log.open("w") as out, Path(os.devnull).open() as nothing:
            return self.start(module, arguments, environ, (nothing.fileno(), out.fileno(), out.fileno()))

    def close(self) -> None:
        """Stop the server. Programs that it has started continue."""
        self._socket.close()
        self._process.wait()


class ForkedProcess:
    """A program that the server has forked, with the methods of subprocess.Popen that tests use."""

    def __init__(self, pid: int, result: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._result = result

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the program runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program. Raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program is known to have ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._result], [], [], timeout)[0]:
            data = os.read(self._result, 4)
            os.close(self._result)
            self.returncode = struct.unpack("!i", data)[0] if data else -signal.SIGKILL
        return self.returncode


# Everything below runs in the process of the server and in its forks.


def serve(control: socket.socket) -> tuple[str, list[str]]:
    """Fork for each request until the socket is closed, then exit. In a fork, return the module and its arguments."""
    running: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(running)
        if control in ready:
            request = _receive(control)
            if request is None:
                sys.exit()
            (module, arguments, environ, folder), fds = request
            pid = os.fork()
            if pid == 0:
                for number in (*running.values(), woken, wake, control.fileno()):
                    os.close(number)
                control.detach()
                _become(environ, folder, fds)
                return module, arguments
            os.write(fds[STREAMS], struct.pack("!i", pid))
            running[pid] = fds[STREAMS]
            for number in fds[:STREAMS]:
                os.close(number)


def _receive(control: socket.socket) -> tuple[Any, list[int]] | None:
    """Return the next request and its descriptors; None if the socket is closed."""
    fds = array.array("i")
    header, ancillary, _, _ = control.recvmsg(HEADER.size, socket.CMSG_SPACE((STREAMS + 1) * fds.itemsize))
    if len(header) < HEADER.size:
        return None
    fds.frombytes(ancillary[0][2])
    (length,) = HEADER.unpack(header)
    data = b""
    while len(data) < length:
        data += control.recv(length - len(data))
    return json.loads(data), list(fds)


def _report_ended(running: dict[int, int]) -> None:
    """Send the exit code of each program that has ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        result = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(result, struct.pack("!i", os.waitstatus_to_exitcode(status)))
        os.close(result)


def _become(environ: dict[str, str], folder: str, fds: list[int]) -> None:
    """Set the environment, folder, streams and signal handlers of this fork to those of a newly started program."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(fds[:STREAMS]):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)
    os.environ.clear()
    os.environ.update(environ)
    if "TZ" in environ:
        time.tzset()
    os.chdir(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", line_buffering=True)


def main() -> None:
    """Import the programs' modules and serve requests. In a fork, run the program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.path.pop(0)  # the folder of this file, where a program started with -m does not look
    for name in PRELOADED:
        importlib.import_module(name)
    module, arguments = serve(control)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
