"""When a reader says how far it is, and when it says no more."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from tests.support.manual_clock import ManualClock
from tests.support.processes import until
from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S
from voxspool.reading.acknowledge import Acknowledgement, Reporter, report, script, sha
from voxspool.reading.dialogue import run

if TYPE_CHECKING:
    from typing import Never


UNKNOWN = [None, None]
"""What Redis knows of a job that has not begun."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_report_is_due_after_each_interval_and_not_at_once(clock: ManualClock) -> None:
    ack = Acknowledgement("a", clock)
    assert not ack.due, "a short job is over before anybody asks"
    clock.now_s += LONGEST_REPORT_S
    assert ack.due
    ack.note(b"noted", UNKNOWN)
    assert not ack.due
    clock.now_s += LONGEST_REPORT_S
    assert ack.due


@pytest.mark.parametrize(("live_s", "every_s"), [(b"1", 0.25), (b"2", 0.5), (b"60", 1.0), (None, 1.0)])
def test_the_interval_follows_from_the_jobs_time_when_it_has_begun(
    clock: ManualClock, live_s: bytes | None, every_s: float
) -> None:
    ack = Acknowledgement("a", clock)
    ack.note(b"noted", UNKNOWN)
    assert ack.due_in_s == LONGEST_REPORT_S
    ack.note(b"noted", [b"running", live_s])
    assert ack.due_in_s == every_s


@pytest.mark.parametrize("said", [b"unasked", b"ended", b"failed", b"cancelled"])
def test_no_report_is_due_for_a_job_that_does_not_ask_or_is_over(clock: ManualClock, said: bytes) -> None:
    ack = Acknowledgement("a", clock)
    ack.note(said, [b"running", None])
    clock.now_s += 1000
    assert not ack.due


class Pipeline:
    """A pipeline whose commands have the replies of a test."""

    def __init__(self, *replies: object) -> None:
        self.replies, self.asked, self.loaded = replies, list[tuple[object, ...]](), list[str]()

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return self

    def evalsha(self, *words: object) -> None:
        self.asked.append(words)

    def hmget(self, *words: object) -> None:
        self.asked.append(words)

    def script_load(self, text: str) -> None:
        self.loaded.append(text)

    def execute(self, *, raise_on_error: bool) -> list[object]:
        assert not raise_on_error
        (reply, *others) = self.replies
        self.replies = (*others, reply)
        if isinstance(reply, Exception):
            raise reply
        return list(reply)  # type: ignore[call-overload] # a list of replies


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (NoScriptError("flushed"), True),
        (ReadOnlyError("a replica"), True),
        (OutOfMemoryError("full"), True),
        (ResponseError("Error running script: -READONLY You can't write against a read only replica."), True),
        (MasterDownError("Link with MASTER is down"), True),
        (NoPermissionError("no permissions to run evalsha"), False),
        (ResponseError("The user executing the script can't run this command"), False),
    ],
)
def test_only_a_missing_right_ends_the_reports(clock: ManualClock, error: Exception, again: bool) -> None:  # noqa: FBT001
    ack = Acknowledgement("a", clock)
    clock.now_s += LONGEST_REPORT_S
    run(report([ack]), Pipeline([error, UNKNOWN]))  # type: ignore[arg-type] # all that a report needs of a client
    clock.now_s += LONGEST_REPORT_S
    assert ack.due is again


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("refused"), redis.TimeoutError("late"), AuthenticationError("changed")]
)
def test_reports_go_on_after_an_error_of_the_connection(clock: ManualClock, error: Exception) -> None:
    ack = Acknowledgement("a", clock)
    run(report([ack]), Pipeline(error))  # type: ignore[arg-type] # see above
    clock.now_s += LONGEST_REPORT_S
    assert ack.due


def test_a_script_that_redis_does_not_have_is_loaded_and_run() -> None:
    client = Pipeline([NoScriptError("flushed"), UNKNOWN], [b"unasked", UNKNOWN])
    ack = Acknowledgement("a")
    run(report([ack]), client)  # type: ignore[arg-type] # see above
    assert client.loaded == [script()]
    assert not ack.wanted


def test_the_reports_of_many_readers_are_one_request() -> None:
    acks = [Acknowledgement(name) for name in "abc"]
    client = Pipeline([b"noted", UNKNOWN, b"ended", UNKNOWN, NoPermissionError("no"), UNKNOWN])
    run(report(acks), client)  # type: ignore[arg-type] # see above
    assert [ack.wanted for ack in acks] == [True, False, False]
    assert len(client.asked) == 6


def test_reports_go_on_after_any_error_of_a_report() -> None:
    refused = threading.Event()

    def pipeline(**_: object) -> Never:
        refused.set()
        raise AttributeError("the parser of a connection that was closed")

    reporter = Reporter(SimpleNamespace(pipeline=pipeline))  # type: ignore[arg-type] # see above
    ack = Acknowledgement("a")
    ack.note(b"noted", [b"running", b"1"])
    with reporter.reporting(ack):
        for _ in range(2):
            refused.clear()
            assert refused.wait(10)
    until(lambda: not any(thread.name == "voxspool-reports" for thread in threading.enumerate()), "the thread to end")


def test_a_report_has_the_readers_position() -> None:
    ack, client = Acknowledgement("a"), Pipeline([b"noted", UNKNOWN])
    ack.pos = 4800
    run(report([ack]), client)  # type: ignore[arg-type] # see above
    assert client.asked[0] == (sha(), 2, keys.control("a"), keys.acknowledged("a"), 4800, keys.ACKNOWLEDGED_TTL_S)
