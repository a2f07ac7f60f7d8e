"""The processes that a benchmark measures: a private redis-server, voxspool workers and RQ's SimpleWorker.

The workers use the same Redis, which listens on loopback and stores nothing on disk. While one worker is measured, the
other is idle.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks import rq_worker
from benchmarks.figures import OURS, RQ
from voxspool import Client, JobState, Settings
from voxspool.embedded import find_server
from voxspool.protocol.jobs import TASK, JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from rq.queue import EnqueueData

TIMEOUT_S: Final = 60.0
"""Maximum time for a process to start and for a job to end, in seconds."""
BLOCK_MS: Final = 4000
"""Timeout of one blocking read, in milliseconds: below redis-py's socket timeout of 5 s."""
CONCURRENT_JOBS: Final = 8
"""Jobs that the voxspool worker runs at the same time."""
RESULTS: Final = "rq:results:"
"""Prefix of the streams in which RQ stores the results of jobs."""
SETTLE_S: Final = 0.008
"""Pause before each job, in seconds. The worker needs it to complete the previous job and become idle."""


class StartError(Exception):
    """A process did not start, or a job did not end; the message is the last line of the process's log."""


class Testbed:
    """Context manager with a private Redis; it ends all processes that were started in it."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="voxspool-bench-"))
        """A folder for files; deleted at the end."""
        self._started: dict[subprocess.Popen[bytes], Path] = {}
        """Process -> its log file."""
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.redis = redis.Redis(port=port)
        try:
            self._start_redis(port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed([*self._started]):
            process.kill()
            process.wait()
        self.redis.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def voxspool_worker(self, engine: str) -> VoxspoolQueue:
        """Start a voxspool worker, and return its queue. Raises StartError."""
        client = Client(settings=Settings(redis_url=self.url, engine=engine))
        self.start_worker(client, engine)
        return VoxspoolQueue(self.redis, client, engine)

    def start_worker(
        self,
        client: Client,
        engine: str,
        *,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        jobs: int | None = CONCURRENT_JOBS,
    ) -> subprocess.Popen[bytes]:
        """Start a voxspool worker, wait until it is registered, and return its process. Raises StartError.

        `before` is a command that the worker's command is appended to, such as taskset. `jobs` is the number of jobs
        that run at the same time; None is the engine's default.
        """
        command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", engine, "--redis", self.url]
        limit = [] if jobs is None else ["--jobs", str(jobs)]
        process = self._launch(engine, [*before, *command, *limit], environ)
        self._wait(process, lambda: any(worker.pid == process.pid for worker in client.workers()))
        return process

    def simple_worker(self) -> SimpleWorkerQueue:
        """Start RQ's SimpleWorker, and return its queue. Raises StartError."""
        command = [sys.executable, "-m", rq_worker.__name__, self.url]
        self.start("rq", command, lambda: self.redis.scard("rq:workers:" + rq_worker.QUEUE))
        return SimpleWorkerQueue(self.redis)

    def _start_redis(self, port: int) -> None:
        """Start redis-server on a port of the loopback interface."""
        command = [
            str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--daemonize", "no",
        ]  # fmt: skip
        probe = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
        self.server = self.start("redis", command, lambda: _answers(probe))

    def start(self, name: str, command: list[str], ready: Callable[[], object]) -> subprocess.Popen[bytes]:
        """Start a process and wait until it is ready. Raises StartError."""
        process = self._launch(name, command)
        self._wait(process, ready)
        return process

    def _launch(self, name: str, command: list[str], more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a process that writes to its own log file; `more` are additional environment variables."""
        log = self.folder / f"{name}-{len(self._started)}.log"
        environ = environment() | {"VOXSPOOL_HEALTH_DIR": str(self.folder / "health")} | dict(more or {})
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)
        self._started[process] = log
        return process

    def _wait(self, process: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
        """Wait until a process is ready. Raises StartError."""
        deadline = time.monotonic() + TIMEOUT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                lines = self._started[process].read_text(errors="replace").strip().splitlines()
                raise StartError(lines[-1] if lines else f"{process.args} did not start and its log is empty")
            time.sleep(0.02)


class VoxspoolQueue:
    """The queue of a voxspool worker, used as by a producer."""

    who: Final = OURS

    def __init__(self, redis_client: redis.Redis, client: Client, engine: str) -> None:
        self.redis = redis_client
        self.client = client
        self.engine = engine
        self.queue = Queue(JobSpec("", engine=engine).queue, connection=redis_client, serializer=JSONSerializer)

    def enqueue(self, text: str = "") -> str:
        """Enqueue a job as a producer does, and return its id."""
        return self.client.enqueue(text, engine=self.engine).id

    def prepare(self, text: str = "") -> EnqueueData:
        """Return the data of a job as `enqueue` adds it to the queue."""
        spec = JobSpec(text, engine=self.engine)
        return Queue.prepare_data(TASK, args=(spec.encode(),), job_id=spec.id, timeout=spec.timeout_s, result_ttl=500)

    def state(self, job_id: str) -> JobState:
        """Return the state of a job."""
        return self.client.speech(job_id).status()


class SimpleWorkerQueue:
    """The queue of RQ's SimpleWorker; its jobs call a function that does nothing and use JSON like voxspool's jobs."""

    who: Final = RQ

    def __init__(self, redis_client: redis.Redis) -> None:
        self.redis = redis_client
        self.queue = Queue(rq_worker.QUEUE, connection=redis_client, serializer=JSONSerializer)

    def enqueue(self) -> str:
        """Enqueue a job that does nothing, and return its id."""
        return str(self.queue.enqueue_call(rq_worker.NOTHING).id)

    def prepare(self) -> EnqueueData:
        """Return the data of a job as `enqueue` adds it to the queue."""
        return Queue.prepare_data(rq_worker.NOTHING, job_id=JobSpec("").id)


def wait_done(redis_client: redis.Redis, job_id: str) -> int:
    """Wait for the result of a job in RQ, without polling, and return the number of Redis commands used for it."""
    for count in range(1, round(TIMEOUT_S * 1000 / BLOCK_MS) + 1):
        if redis_client.xread({RESULTS + job_id: "0"}, block=BLOCK_MS):
            return count
    raise StartError(f"job {job_id} did not end within {TIMEOUT_S:g} s")


def wait_all(redis_client: redis.Redis, job_ids: Sequence[str]) -> None:
    """Wait until RQ has the results of all jobs; `job_ids` are in the order in which they were enqueued."""
    wait_done(redis_client, job_ids[-1])
    results = [RESULTS + job_id for job_id in job_ids]
    while redis_client.exists(*results) < len(results):
        time.sleep(0.0005)


def paced(jobs: int) -> Iterator[int]:
    """Yield 0 to `jobs` - 1, each after a pause in which the workers become idle."""
    for job in range(jobs):
        time.sleep(SETTLE_S)
        yield job


def environment() -> dict[str, str]:
    """Return the environment without voxspool's variables, except the folder of Piper voices."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOXSPOOL_") or name == "VOXSPOOL_PIPER_VOICES"
    }


def _answers(probe: redis.Redis) -> bool:
    """Return whether Redis answers."""
    with contextlib.suppress(redis.ConnectionError):
        return bool(probe.ping())
    return False


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
