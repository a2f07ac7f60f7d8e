"""SpeechWorker as RQ's tests make a worker: a pytest plugin, loaded before the tests import RQ's classes.

The adapter is the real class but for these, each of which a test of RQ needs and no voxspool worker has:

- it serves the queues that the test names, with the options that the test gives to RQ's constructor;
- it runs any function, not voxspool's task alone, and takes jobs with callbacks (which still nobody calls);
- it runs one job at a time, as RQ's do: a test expects the order of its queue;
- it may work again after it has worked: a test calls `work(burst=True)` as often as it likes.

Two things change in RQ under the tests. What a test leaves to RQ's default serializer is JSON, since our worker reads
nothing else. And a client that names no port finds the private server. Each test has a time limit, and its outcome is
written down with what it did with a worker of ours.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import rq
import rq.serializers
import rq.worker
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

import expectations
from voxspool.protocol.jobs import JobSpec
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.queue import worker as ours

if TYPE_CHECKING:
    from collections.abc import Generator

    from rq.job import Job

PORT = int(os.environ["RQ_SUITE_PORT"])
REPORT = Path(os.environ["RQ_SUITE_REPORT"])
"""Where outcomes go, one JSON object a line."""
EXPECTED = expectations.load()
LIMIT_S = 60.0
"""How long a test may run that is listed as passing, in seconds."""
SHORT_LIMIT_S = 5.0
"""And any other: some of them wait for ever."""
MADE = Path(f"{REPORT}.made")
"""There when a worker was made, in this process or in one that it forked; not empty when it worked."""
FRESH = ("_scheduler", "_pipeline", "_engine_thread", "_quit", "_slots", "_stop_requested")
"""What a worker uses up in its life."""


class Adapter(ours.SpeechWorker):
    """See above: this is all that differs."""

    def __init__(self, queues: Any, name: str | None = None, *given: Any, **options: Any) -> None:  # noqa: ANN401 - whatever RQ's tests give a worker
        MADE.touch()
        connection = options.get("connection") or rq.worker.base.get_connection_from_queues(queues)
        super().__init__(ToneEngine(), lambda **_: beside(connection), jobs=1, name=name)
        BaseWorker.__init__(self, queues, self.name, *given, **options | {"connection": connection})

    def work(self, *args: Any, **options: Any) -> bool:  # noqa: ANN401
        if self._engine_thread.ident is not None:
            successor = type(self)(self.queues, self.name, connection=self.connection)
            vars(self).update({name: vars(successor)[name] for name in FRESH})
        MADE.write_text("worked")
        return super().work(*args, **options)


def beside(connection: redis.Redis) -> redis.Redis:
    """Return a client of its own to where another one leads."""
    pool = connection.connection_pool
    return redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
    )


def any_job(job: Job) -> JobSpec:
    """Stand in for the check that a job is one of voxspool's."""
    return JobSpec("anything", id=job.id)


def substitute() -> None:
    """Put the adapter where RQ's tests look for RQ's workers."""
    made = redis.Redis.__init__
    redis.Redis.__init__ = lambda self, *args, **options: made(self, *args, **{"port": PORT} | options)
    rq.serializers.PickleSerializer = JSONSerializer
    ours.spec_of = any_job
    for module in (rq, rq.worker):
        module.Worker = module.SimpleWorker = Adapter


substitute()


def name_of(nodeid: str) -> str:
    """Name a test as the table does."""
    return nodeid.removeprefix("tests/").replace(".py::", ".").replace("::", ".")


class TooLongError(BaseException):
    """A test ran longer than it may. Not an Exception: those are what a worker is there to catch."""


def interrupt(*_: object) -> None:
    raise TooLongError


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Run a test, then restore the signal handlers that were there before it."""
    MADE.unlink(missing_ok=True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return (yield)
    finally:
        signal.alarm(0)  # RQ's tests of shutdowns leave theirs to RQ's time limits, which are not ours
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test under its limit. Outside of this hook pytest does not catch the error that ends the test."""
    limit_s = LIMIT_S if name_of(item.nodeid) in EXPECTED.passes else SHORT_LIMIT_S
    signal.signal(signal.SIGUSR1, interrupt)
    watchdog = threading.Timer(limit_s, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    watchdog.daemon = True
    watchdog.start()
    try:
        return (yield)
    finally:
        watchdog.cancel()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write an outcome down: of the call, or of the fixture that failed before it."""
    if report.when == "call" or report.outcome != "passed":
        line = {
            "test": name_of(report.nodeid),
            "outcome": report.outcome,
            "worker": MADE.exists(),
            "worked": MADE.exists() and MADE.stat().st_size > 0,
            "said": getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr or "")),
        }
        with REPORT.open("a") as file:
            file.write(json.dumps(line) + "\n")
