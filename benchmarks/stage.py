"""What is measured: a private redis-server on loopback, a voxspool worker and RQ's SimpleWorker, a process each.

Both workers serve the same Redis at the same time, so each is idle beside the other. Redis keeps nothing on disk.
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

import rq_worker
from figures import OURS, RQ
from voxspool import Client, JobState, Settings
from voxspool.embedded import find_server
from voxspool.protocol.jobs import TASK, JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self

    from rq.queue import EnqueueData

START_S: Final = 60.0
BLOCK_MS: Final = 4000
"""Below redis-py's socket timeout of 5 s."""
JOBS_AT_ONCE: Final = 8
RESULTS: Final = "rq:results:"
"""Where RQ leaves a job's result: a stream, so one can wait for it."""
SETTLE_S: Final = 0.008
"""A pause after a job, in seconds, in which the worker writes its last words and waits again."""


class StartError(Exception):
    """A process did not come up; the message is its last line."""


class Stage:
    """A context in which a Redis is there, and the processes that were started on it."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="voxspool-bench-"))
        """A place for files; gone with the stage."""
        self._started: dict[subprocess.Popen[bytes], Path] = {}
        """Process -> its log."""
        port = _free_port()
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

    def voxspool_worker(self, engine: str) -> Voxspool:
        """Start a voxspool worker, and give our side of it. Raises StartError."""
        client = Client(settings=Settings(redis_url=self.url, engine=engine))
        self.start_worker(client, engine)
        return Voxspool(self.redis, client, engine)

    def start_worker(
        self, client: Client, engine: str, *, environ: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a voxspool worker; give its process when its card is there. Raises StartError.

        `before` is a command that runs the worker's, such as taskset.
        """
        command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", engine, "--redis", self.url]
        process = self._launch(engine, [*before, *command, "--jobs", str(JOBS_AT_ONCE)], environ)
        self._wait(process, lambda: any(card.pid == process.pid for card in client.workers()))
        return process

    def simple_worker(self) -> SimpleWorker:
        """Start RQ's SimpleWorker, and give our side of it. Raises StartError."""
        command = [sys.executable, rq_worker.__file__, self.url]
        self._start("rq", command, lambda: self.redis.scard("rq:workers:" + rq_worker.QUEUE))
        return SimpleWorker(self.redis)

    def _start_redis(self, port: int) -> None:
        """Start redis-server on a port of loopback."""
        command = [
            str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--daemonize", "no",
        ]  # fmt: skip
        probe = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
        self.server = self._start("redis", command, lambda: _answers(probe))

    def _start(self, name: str, command: list[str], ready: Callable[[], object]) -> subprocess.Popen[bytes]:
        """Start a process and wait until it is ready. Raises StartError."""
        process = self._launch(name, command)
        self._wait(process, ready)
        return process

    def _launch(self, name: str, command: list[str], more: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a process, with a log of its own, and more in its environment."""
        log = self.folder / f"{name}-{len(self._started)}.log"
        environ = environment() | {"VOXSPOOL_HEALTH_DIR": str(self.folder / "health")} | dict(more or {})
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)
        self._started[process] = log
        return process

    def _wait(self, process: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
        """Wait until a process is ready. Raises StartError."""
        deadline = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._started[process].read_text(errors="replace").strip().splitlines()
                raise StartError(said[-1] if said else f"{process.args} did not start and said nothing")
            time.sleep(0.02)


class Voxspool:
    """Our side of a voxspool worker."""

    who: Final = OURS

    def __init__(self, redis_client: redis.Redis, client: Client, engine: str) -> None:
        self.redis = redis_client
        self.client = client
        self.engine = engine
        self.queue = Queue(JobSpec("", engine=engine).queue, connection=redis_client, serializer=JSONSerializer)

    def enqueue(self, text: str = "") -> str:
        """Enqueue a speech, as a producer does; give its id."""
        return self.client.enqueue(text, engine=self.engine).id

    def prepare(self, text: str = "") -> EnqueueData:
        """Return what `enqueue` would lay into the queue."""
        spec = JobSpec(text, engine=self.engine)
        return Queue.prepare_data(TASK, args=(spec.encode(),), job_id=spec.id, timeout=spec.timeout_s, result_ttl=500)

    def state(self, job_id: str) -> JobState:
        """Return the state of a job."""
        return self.client.speech(job_id).status()


class SimpleWorker:
    """RQ's side: a function that does nothing, on a queue of its own, in JSON as ours."""

    who: Final = RQ

    def __init__(self, redis_client: redis.Redis) -> None:
        self.redis = redis_client
        self.queue = Queue(rq_worker.QUEUE, connection=redis_client, serializer=JSONSerializer)

    def enqueue(self) -> str:
        """Enqueue a job that does nothing; give its id."""
        return str(self.queue.enqueue_call(rq_worker.NOTHING).id)

    def prepare(self) -> EnqueueData:
        """Return what `enqueue` would lay into the queue."""
        return Queue.prepare_data(rq_worker.NOTHING, job_id=JobSpec("").id)


def wait_done(redis_client: redis.Redis, job_id: str) -> int:
    """Wait until RQ holds a job's result, without polling; give how many commands that took."""
    for asked in range(1, round(START_S * 1000 / BLOCK_MS) + 1):
        if redis_client.xread({RESULTS + job_id: "0"}, block=BLOCK_MS):
            return asked
    raise StartError(f"job {job_id} did not end in {START_S:g} s")


def wait_all(redis_client: redis.Redis, job_ids: Sequence[str]) -> None:
    """Wait until RQ holds the results of jobs that were enqueued in this order."""
    wait_done(redis_client, job_ids[-1])
    results = [RESULTS + job_id for job_id in job_ids]
    while redis_client.exists(*results) < len(results):
        time.sleep(0.0005)


def settled(jobs: int) -> Iterator[int]:
    """Count to `jobs`, with a pause before each in which the workers fall idle."""
    for job in range(jobs):
        time.sleep(SETTLE_S)
        yield job


def environment() -> dict[str, str]:
    """Return the environment without what would change the programs measured; where voices lie may be said."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOXSPOOL_") or name == "VOXSPOOL_PIPER_VOICES"
    }


def _answers(probe: redis.Redis) -> bool:
    """Whether Redis answers."""
    with contextlib.suppress(redis.ConnectionError):
        return bool(probe.ping())
    return False


def _free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
