"""When a reader says how far it is, and when it says no more."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from tests.support.processes import until
from voxspool.protocol import keys
from voxspool.protocol.jobs import LONGEST_REPORT_S
from voxspool.reading.acknowledge import Acknowledgement, Reporter, report
from voxspool.reading.dialogue import run

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_report_is_due_after_each_interval_and_not_at_once(clock: Clock) -> None:
    ack = Acknowledgement("a", clock)
    assert not ack.due, "a short job is over before anybody asks"
    clock.now_s += LONGEST_REPORT_S
    assert ack.due
    ack.heard(b"noted")
    assert not ack.due
    clock.now_s += LONGEST_REPORT_S
    assert ack.due


@pytest.mark.parametrize("said", [b"unasked", b"ended", b"failed", b"cancelled"])
def test_no_report_is_due_for_a_job_that_does_not_ask_or_is_over(clock: Clock, said: bytes) -> None:
    ack = Acknowledgement("a", clock)
    ack.heard(said)
    clock.now_s += 1000
    assert not ack.due


def test_a_reader_without_the_right_to_write_sends_no_report(clock: Clock) -> None:
    ack = Acknowledgement("a", clock)
    ack.forbidden()
    clock.now_s += 1000
    assert not ack.due


def test_a_report_that_redis_refused_is_due_again_after_the_interval(clock: Clock) -> None:
    ack = Acknowledgement("a", clock)
    clock.now_s += LONGEST_REPORT_S
    ack.postpone()
    assert not ack.due
    clock.now_s += LONGEST_REPORT_S
    assert ack.due


class Refusing:
    """A client whose scripts are refused with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def register_script(self, text: str) -> Callable[..., bytes]:
        del text

        def refuse(**_: object) -> bytes:
            raise self.error

        return refuse


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (NoScriptError("flushed"), True),
        (ReadOnlyError("a replica"), True),
        (OutOfMemoryError("full"), True),
        (NoPermissionError("no permissions to run evalsha"), False),
        (ResponseError("The user executing the script can't run this command"), False),
    ],
)
def test_only_a_missing_right_ends_the_reports(clock: Clock, error: Exception, again: bool) -> None:  # noqa: FBT001
    ack = Acknowledgement("a", clock)
    clock.now_s += LONGEST_REPORT_S
    run(report(ack), Refusing(error))  # type: ignore[arg-type] # all that a report needs of a client
    clock.now_s += LONGEST_REPORT_S
    assert ack.due is again


def test_reports_go_on_after_any_error_of_a_report() -> None:
    refused, closed = threading.Event(), Refusing(AttributeError("the parser of a connection that was closed"))

    def register_script(text: str) -> Callable[..., bytes]:
        refused.set()
        return closed.register_script(text)

    reporter = Reporter(SimpleNamespace(register_script=register_script))  # type: ignore[arg-type] # see above
    ack = Acknowledgement("a")
    ack.live_for(1)
    with reporter.reporting(ack):
        for _ in range(2):
            refused.clear()
            assert refused.wait(10)
    until(lambda: not any(thread.name == "voxspool-reports" for thread in threading.enumerate()), "the thread to end")


def test_a_report_has_the_readers_position(clock: Clock) -> None:
    ack = Acknowledgement("a", clock)
    ack.pos = 4800
    assert ack.call == {"keys": [keys.control("a"), keys.acknowledged("a")], "args": [4800, keys.ACKNOWLEDGED_TTL_S]}
