"""Start a Redis server and workers, cause faults to them, and count the workers that a job may have lost.

A timer ends the faults that last some time (a stall, a freeze), so that a test can continue in the meantime.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.support.processes import RedisServer, WorkerProcess, clean_env, until
from voxspool.connections import connection
from voxspool_worker.settings import DEFAULT_GRACE_S

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import redis

    from tests.support.forks import ForkedProcess, ForkServer

KEEPS: Final = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")
"""Options for an append-only file without fsync. Redis writes to it before it replies, so a crash of Redis loses
nothing (a crash of the machine would). With `everysec`, a write may wait for the disk, and a crash of Redis loses up to
two seconds."""
SAFE_FREEZE_S: Final = 5.0
"""A worker that is frozen for less than this keeps its leases: they last 9 s from a heartbeat at most 3.5 s ago."""
HAND_BACK_S: Final = 15.0
"""A worker that must return its jobs exits within this time, in seconds, even if Redis does not accept the jobs."""


@dataclass
class Member:
    """A worker, and the faults that it had."""

    worker: WorkerProcess
    number: int
    signals: int = 0
    """The number of SIGTERM signals that it got."""
    killed: bool = False
    frozen_until: float = 0.0
    lost_until: float = 0.0
    """The end of its last freeze that was long enough to lose its jobs."""

    def __repr__(self) -> str:
        return f"worker {self.number}"

    @property
    def left(self) -> bool:
        """Return whether it takes no more jobs, because it was killed or asked to stop."""
        return self.killed or self.signals > 0


@dataclass
class World:
    """A redis-server that loses no data, and its workers."""

    folder: Path
    forks: ForkServer
    members: list[Member] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each stall of Redis."""
    _lost: list[float] = field(default_factory=list)
    """For each worker that was killed or frozen for long: the latest time at which it may have taken a job."""
    _handing_back: list[float] = field(default_factory=list)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.server = RedisServer(self.folder, KEEPS)
        self.server.start()
        self.db: redis.Redis = connection.connect(self.server.url)

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for member in self.members:
            member.worker.process.kill()
            member.worker.process.wait()
        self.db.close()
        self.server.stop()

    def named(self, name: str) -> Member | None:
        """Return the worker with this name in Redis."""
        return next((member for member in self.members if f" name={name} " in member.worker.said()), None)

    def losses_since(self, moment: float) -> int:
        """Return how many workers may have been lost while they had a job that exists since `moment`."""
        handed_into_a_stall = [
            at for at in self._handing_back if any(begin < at + HAND_BACK_S and at < end for begin, end in self.stalls)
        ]
        return sum(until_s >= moment for until_s in (*self._lost, *handed_into_a_stall))

    def wait_for_redis(self) -> None:
        """Wait until a stall of Redis has ended."""
        self.db.ping()

    def start_worker(self) -> Member:
        """Start a worker when Redis answers, and return it when it takes jobs."""
        self.wait_for_redis()
        number = len(self.members)
        log = self.folder / f"worker-{number}.log"
        arguments = ["run", "--engine", "tone", "--redis", self.server.url]
        environ = clean_env() | {"VOXSPOOL_HEALTH_DIR": str(self.folder / "health")}
        process = self.forks.start_logged("voxspool_worker", arguments, environ, log)
        worker = WorkerProcess(process, log)
        self.members.append(Member(worker, number))
        until(lambda: "worker.ready" in worker.said() or process.poll() is not None, "a worker")
        assert process.poll() is None, worker.said()
        return self.members[-1]

    def kill(self, member: Member) -> None:
        """Kill a worker with SIGKILL."""
        if member.killed:
            return
        if member.lost_until < time.monotonic():  # otherwise its freeze is counted already
            self._lost.append(max([time.monotonic(), *(end for _, end in self.stalls)]))
        member.killed = True
        member.worker.process.kill()

    def terminate(self, member: Member) -> None:
        """Send SIGTERM: a worker returns its jobs after the grace period, or after the second one."""
        member.signals += 1
        member.worker.process.send_signal(signal.SIGTERM)
        grace_s = DEFAULT_GRACE_S if member.signals == 1 else 0.0
        self._handing_back.append(max(time.monotonic(), member.frozen_until) + grace_s)

    def freeze(self, member: Member, seconds: float) -> None:
        """Suspend a worker for some seconds, unless it is suspended already."""
        if member.frozen_until > time.monotonic():
            return
        member.frozen_until = time.monotonic() + seconds
        if seconds >= SAFE_FREEZE_S:
            member.lost_until = member.frozen_until
            self._lost.append(member.lost_until)
        self._stop_for(member.worker.process, seconds)

    def stall(self, seconds: float) -> None:
        """Suspend Redis for some seconds, unless it is suspended already."""
        if any(end > time.monotonic() for _, end in self.stalls):
            return
        assert self.server.process
        self.stalls.append((time.monotonic(), time.monotonic() + seconds))
        self._stop_for(self.server.process, seconds)

    def restart_redis(self) -> None:
        """Kill Redis and start it again with its append-only file."""
        self.server.stop()
        self.server.start()

    def _stop_for(self, process: subprocess.Popen[bytes] | ForkedProcess, seconds: float) -> None:
        """Send SIGSTOP now and SIGCONT later. A process that has ended gets no signal."""
        process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, process.send_signal, (signal.SIGCONT,))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def check_workers(self) -> None:
        """Assert that workers exited only when asked, with the right exit code and without a traceback."""
        for member in self.members:
            process = member.worker.process
            if member.killed:
                process.wait(10)
            elif member.signals:
                stopped = -signal.SIGTERM if "worker.gone" in member.worker.said() else 0
                assert process.wait(HAND_BACK_S + 30) in {0, stopped}, f"{member} exited with {process.returncode}"
            else:
                assert process.poll() is None, f"{member} exited with {process.returncode}"
            assert "Traceback" not in member.worker.said(), f"{member} had an unexpected error"
