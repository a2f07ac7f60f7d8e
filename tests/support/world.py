"""A Redis, its workers, and the faults that are done to them while a test goes on; what those may cost a job.

Faults that last (a stall, a freeze) end by a timer of their own, so that a test can do the next thing meanwhile. Knows
processes and signals; of jobs only how many losses of a worker one may have seen.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.support.processes import RedisServer, WorkerProcess, clean_env, until
from voxspool import connection

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import redis

    from tests.support.forks import ForkedProcess, ForkServer

KEEPS: Final = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")
"""The append-only file without fsync: Redis writes it before it replies, so its own death loses nothing. A machine's
would; with `everysec` a write may wait for the disk, and the death of Redis loses up to two seconds."""
SAFE_FREEZE_S: Final = 5.0
"""A worker that froze for less has its leases still: they last 9 s from a beat that is at most 3.5 s old."""
HAND_BACK_S: Final = 15.0
"""A worker that is told to hand back leaves within this, in seconds, whether or not Redis took the jobs back."""


@dataclass
class Member:
    """A worker of the world, and what was done to it."""

    worker: WorkerProcess
    number: int
    signals: int = 0
    """SIGTERMs."""
    killed: bool = False
    frozen_until: float = 0.0

    def __repr__(self) -> str:
        return f"worker {self.number}"

    @property
    def left(self) -> bool:
        """Whether it takes no more jobs, by what was done to it."""
        return self.killed or self.signals > 0


@dataclass
class World:
    """A redis-server that keeps everything, and the workers on it."""

    folder: Path
    forks: ForkServer
    members: list[Member] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """From when to when Redis was stalled."""
    _lost: list[float] = field(default_factory=list)
    """Until when each worker that was killed, or frozen for long, may have taken a job."""
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
        """Return the worker that has a name in Redis."""
        return next((member for member in self.members if f" name={name} " in member.worker.said()), None)

    def losses_since(self, moment: float) -> int:
        """Count the workers that were lost, or may have been, while they held a job that was there since then."""
        handed_into_a_stall = [
            at for at in self._handing_back if any(begin < at + HAND_BACK_S and at < end for begin, end in self.stalls)
        ]
        return sum(until_s >= moment for until_s in (*self._lost, *handed_into_a_stall))

    def redis_is_here(self) -> None:
        """Wait for the end of a stall."""
        self.db.ping()

    # -- what is done to workers -----------------------------------------------------------------------------------

    def start_worker(self) -> Member:
        """Start a worker as a supervisor does, once Redis is there; give it when it takes jobs."""
        self.redis_is_here()
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
        """End it at once."""
        if member.killed:
            return
        if member.frozen_until < time.monotonic() + SAFE_FREEZE_S:  # else it is among the lost already
            self._lost.append(max([time.monotonic(), *(end for _, end in self.stalls)]))
        member.killed = True
        member.worker.process.kill()

    def terminate(self, member: Member) -> None:
        """Ask it to end: the first time when its jobs have ended, the second time at once."""
        member.signals += 1
        member.worker.process.send_signal(signal.SIGTERM)
        if member.signals == 2:
            self._handing_back.append(max(time.monotonic(), member.frozen_until))

    def freeze(self, member: Member, seconds: float) -> None:
        """Stop its clock for a while; one that is frozen stays so for as long as it was."""
        if member.frozen_until > time.monotonic():
            return
        member.frozen_until = time.monotonic() + seconds
        if seconds >= SAFE_FREEZE_S:
            self._lost.append(member.frozen_until)
        self._stop_for(member.worker.process, seconds)

    # -- what is done to Redis -------------------------------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Let Redis answer nobody for a while."""
        if any(end > time.monotonic() for _, end in self.stalls):
            return
        assert self.server.process
        self.stalls.append((time.monotonic(), time.monotonic() + seconds))
        self._stop_for(self.server.process, seconds)

    def restart_redis(self) -> None:
        """Kill Redis and start it again, on its append-only file."""
        self.server.stop()
        self.server.start()

    def _stop_for(self, process: subprocess.Popen[bytes] | ForkedProcess, seconds: float) -> None:
        """Send SIGSTOP, and SIGCONT later: a process that was killed meanwhile gets neither."""
        process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(seconds, process.send_signal, (signal.SIGCONT,))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    # -- the end ---------------------------------------------------------------------------------------------------

    def judge_workers(self) -> None:
        """Nobody left of its own accord; who was asked to left in order."""
        for member in self.members:
            process = member.worker.process
            if member.killed:
                process.wait(10)
            elif member.signals:
                gone_already = -signal.SIGTERM if "worker.gone" in member.worker.said() else 0
                assert process.wait(HAND_BACK_S + 30) in {0, gone_already}, f"{member} left with {process.returncode}"
            else:
                assert process.poll() is None, f"{member} left with {process.returncode}"
            assert "Traceback" not in member.worker.said(), f"{member} met an error that it did not foresee"
